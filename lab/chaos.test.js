/**
 * Chaos in its short form: a few faults, a transfer of some seconds around each, every byte in its place and soon on its
 * way again. `npm run lab:chaos` has all of them, on every kind of path, and measures.
 */
import { describe, expect, test } from 'vitest'
import { faults } from './chaos-faults.js'
import { digestOf, Meter, source } from './chaos-kit.js'
import { measure } from './chaos-measure.js'
import { runOnce } from './chaos-run.js'
import { Lab } from './lab.js'

const AGENT = new URL('./chaos-agent.js', import.meta.url).pathname
const SERVER = new URL('./chaos-server.js', import.meta.url).pathname

/** ms until bytes flow again: generous, for machines that do much else. The table of docs/reliability.md has the targets. */
const SOON_MS = 10_000

/** 16 MB over 32 Mbit/s take 4 s. */
const SMALL = { bytes: 16e6, rateMbit: 32, agent: AGENT, server: SERVER }

/** Chosen by time, and shown by a failing test: `npm run lab:chaos -- --seed … --only KIND:FAULT` repeats its choices. */
const seed = Date.now().toString(36)

const { ok, why } = await Lab.available()
if (!ok) console.warn(`\nNOT RUN: chaos in the lab: ${why}\n`)

describe.skipIf(!ok)(`a transfer, seed ${seed}`, { concurrent: true }, () => {
  test.for([
    ['auto', 'reboot'],
    ['auto', 'address'],
    ['auto', 'roam'],
    ['auto', 'cable-1s'],
    ['auto', 'silence-5s'],
    ['auto', 'stopped-3s'],
    ['relay', 'relay-killed'],
    ['relay', 'server-restarts'],
  ])('%s: %s', async ([kind, fault], { expect }) => {
    const row = await runOnce({ ...SMALL, kind, fault, seed })
    const told = `${row.story.join('\n')}\n${row.faults.join('; ')}`
    expect([row.sender.event, row.receiver.event], told).toEqual(['done', 'done'])
    expect(row.receiver, told).toMatchObject({ bytes: SMALL.bytes, differsAt: null, sha256: row.digest })
    expect(row.sessions, told).toBe(1)
    expect(row.recoveryMs, told).not.toBeNull()
    expect(row.recoveryMs, told).toBeLessThan(SOON_MS)
  })
})

describe('a fault that is not in effect', () => {
  const home = {
    publicAddress: { v4: '21.1.0.10' },
    reboot() {},
    changeAddress() {},
    unplug() {},
    blockUdp() {},
    roam() {},
  }
  home.link = { set() {}, stats: async () => ({ out: { frames: 1 }, in: { frames: 1 } }) }
  const answered = async () => ({ ok: true, seen: '21.1.0.10' })
  const probe = {
    tcp: answered,
    udp: answered,
    kept: answered,
    reach: answered,
    addresses: async () => ['192.168.1.11'],
  }
  const program = { pid: process.pid, signal() {}, kill() {} }
  const side = { home, probe, program, role: 'sender' }
  const services = [{ program, port: 443, host: { name: 'server', addresses: { v4: ['20.1.0.10'] } } }]

  test.each(Object.keys(faults).filter((name) => name !== 'none' && !/\d\ds/.test(name)))(
    'is not taken for a good result: %s',
    async (name) => {
      const bring = faults[name].bring({ sides: [side, side], services, restart() {} })
      await expect(bring).rejects.toMatchObject({ code: 'ERR_LAB_NO_FAULT' })
    },
  )
})

describe('the meter', () => {
  const BYTES = 300_000
  const whole = source('seed').next(BYTES)
  function found(pieces) {
    const meter = new Meter('seed', BYTES, () => {})
    for (const piece of pieces) meter.take(piece)
    return meter.end()
  }

  test('knows the stream in whatever pieces it comes', () => {
    const { sha256, differsAt, bytes } = found([
      whole.subarray(0, 1),
      whole.subarray(1, 70_001),
      whole.subarray(70_001),
    ])
    expect({ sha256, differsAt, bytes }).toEqual({ sha256: digestOf('seed', BYTES), differsAt: null, bytes: BYTES })
  })

  test.each([
    ['100 bytes are missing', 70_000, [whole.subarray(0, 70_000), whole.subarray(70_100)]],
    ['100 bytes came twice', 70_000, [whole.subarray(0, 70_000), whole.subarray(69_900)]],
    ['other bytes', 70_000, [whole.subarray(0, 70_000), Buffer.alloc(1_000)]],
    ['more than was sent', BYTES, [whole, Buffer.alloc(1)]],
  ])('sees that %s', (difference, differsAt, pieces) => {
    expect(found(pieces)).toMatchObject({ difference, differsAt })
  })
})

describe('the time until bytes flow again', () => {
  /** A byte per ms, told every 10 ms, but not in these gaps. */
  const flow = (to, ...gaps) => {
    const marks = []
    for (let at = 0; at <= to; at += 10) {
      if (gaps.every(([begin, end]) => at <= begin || at >= end)) marks.push({ at, bytes: at })
    }
    return marks
  }

  test.each([
    ['after a gap', flow(10_000, [2_000, 6_000]), { from: 2_000, until: 5_000 }, { recoveryMs: 1_000, stallMs: 4_000 }],
    ['that begins a little late', flow(10_000, [2_300, 4_000]), { from: 2_000, until: 2_000 }, { recoveryMs: 2_000 }],
    [
      'not by a few that come between',
      flow(10_000, [2_000, 4_000], [4_500, 6_000]),
      { from: 2_000, until: 2_010 },
      { recoveryMs: 3_990 },
    ],
    ['without any', flow(10_000), { from: 2_000, until: 2_000 }, { recoveryMs: 0, stallMs: 10 }],
    ['never', flow(10_000, [2_000, 20_000]), { from: 2_000, until: 2_000 }, { recoveryMs: null }],
    [
      'for a moment only',
      flow(10_000, [2_000, 4_000], [4_500, 20_000]),
      { from: 2_000, until: 3_000 },
      { recoveryMs: null },
    ],
  ])('%s', (_, marks, times, expected) => {
    expect(measure(marks, times, 10_000)).toMatchObject(expected)
  })
})
