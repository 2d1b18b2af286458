import { describe, expect, it } from 'vitest'
import type { LinkShape } from './link-shape.compliance.ts'
import { type Link, noise, useWorlds, World } from './memory-path.compliance.ts'

let world: World
useWorlds(() => world)

const RELAY: LinkShape = { delayMs: 40, bytesPerMs: 4_000 }
const DIRECT: LinkShape = { delayMs: 30, bytesPerMs: 40_000 }
const RELAY_RTT_MS = 80

/** A stream that runs over a relay from side 0 to side 1, and what comes of it. */
class Run {
  relay!: Link
  readonly #payload = noise(1_000_003)
  bytes = 0
  wrong = 0
  /** The longest time without a byte. */
  stallMs = 0
  #lastAt = 0

  async begin(relay: LinkShape = RELAY): Promise<void> {
    world = new World({
      onStream: (stream) => {
        stream.pipeTo({ data: (chunk) => this.#take(chunk), end: () => {}, error: () => {} })
      },
    })
    this.relay = await world.open('relay', relay)
    const stream = await world.sessions[0].open('/run/1')
    const loop = async () => {
      for (;;) await stream.write(this.#payload)
    }
    loop().catch(() => {})
    await world.run(() => this.bytes > 3_000_000)
    this.stallMs = 0
  }

  #take(chunk: Uint8Array): void {
    const now = performance.now()
    this.stallMs = Math.max(this.stallMs, now - this.#lastAt)
    this.#lastAt = now
    for (let at = 0; at < chunk.length; at += 997) {
      if (chunk[at] !== this.#payload[(this.bytes + at) % this.#payload.length]) this.wrong++
    }
    this.bytes += chunk.length
  }

  async rate(ms: number): Promise<number> {
    const before = this.bytes
    await world.pass(ms, 5)
    return (this.bytes - before) / ms
  }
}

describe('an upgrade from a relay, in the middle of a stream', () => {
  it.each<[string, LinkShape, 'tcp' | 'udp' | 'webrtc']>([
    ['tcp', RELAY, 'tcp'],
    ['udp', RELAY, 'udp'],
    ['webrtc', RELAY, 'webrtc'],
    // Five megabytes wait in it: six seconds.
    ['tcp, from a relay that is slow', { delayMs: 40, bytesPerMs: 800 }, 'tcp'],
  ])('to %s lets no more than two round trips pass without a byte', async (_, relay, kind) => {
    const run = new Run()
    await run.begin(relay)
    const before = await run.rate(1_000)
    run.stallMs = 0
    world.connect(kind, 0, DIRECT)
    await world.run(() => world.sessions[0].path === kind)
    await world.pass(2_000, 5)
    expect(run.stallMs).toBeLessThanOrEqual(2 * RELAY_RTT_MS)
    expect(run.wrong).toBe(0)
    expect(await run.rate(500)).toBeGreaterThan(4 * before)
    expect(world.sessions[0].paths).toEqual(['relay', kind])
    expect(run.relay.ended).toBe(false)
  })
})

describe('an upgrade that fails', () => {
  /** What goes wrong with a direct path as soon as it is open. */
  const faults: [string, (link: Link) => void][] = [
    ['swallows everything', (link) => link.dead.fill(true)],
    [
      'never answers the attach',
      (link) => {
        link.dead[0] = true
      },
    ],
    [
      'never gets the attach there',
      (link) => {
        link.dead[1] = true
      },
    ],
    ['hangs', (link) => link.held.fill(true)],
    ['is cut', (link) => link.cut()],
    [
      'answers with garbage',
      (link) => {
        link.tap = (message, to) => (to === 0 ? [noise(60)] : [message])
      },
    ],
  ]

  it.each(faults)('because the path %s leaves the relay untouched and the stream running', async (_, fault) => {
    for (const by of [0, 1] as const) {
      const run = new Run()
      await run.begin()
      const before = await run.rate(1_000)
      run.stallMs = 0
      const tcp = world.connect('tcp', by, DIRECT)
      fault(tcp)
      expect(await run.rate(7_000)).toBeGreaterThan(0.97 * before)
      expect(run.stallMs).toBeLessThan(60)
      expect(run.wrong).toBe(0)
      // The attach, or the answer to it, and a ping: an unproven path carries no data while a proven one is there.
      for (const end of tcp.ends) expect(end.sent).toBeLessThanOrEqual(2)
      expect(world.sessions.map(({ path, paths }) => [path, paths])).toEqual([
        ['relay', ['relay']],
        ['relay', ['relay']],
      ])
      expect(world.changes).toEqual([[], []])
      expect(tcp.ends[by].ended).toBe(true)
      world.stop()
      await world.pass(10)
    }
  })

  it('after it was proven, by going silent, costs a second, and the stream goes on where it was', async () => {
    for (const after of [1, 5, 40, 200]) {
      const run = new Run()
      await run.begin()
      run.stallMs = 0
      const tcp = world.connect('tcp', 0, DIRECT)
      await world.run(() => world.sessions.every(({ path }) => path === 'tcp'))
      let left = after
      tcp.tap = (message) => (left-- > 0 ? [message] : [])
      await world.pass(8_000, 5)
      expect(world.sessions[0].path).toBe('relay')
      expect(run.stallMs).toBeLessThan(2_500)
      expect(run.wrong).toBe(0)
      expect(await run.rate(1_000)).toBeGreaterThan(3_500)
      world.stop()
      await world.pass(10)
    }
  })

  it('by the death of the relay in the middle of it does not hold up what went on the relay before', async () => {
    const run = new Run()
    await run.begin()
    run.stallMs = 0
    world.connect('tcp', 0, DIRECT)
    await world.run(() => world.sessions[0].path === 'tcp')
    run.relay.dead.fill(true)
    await world.pass(4_000, 5)
    expect(run.stallMs).toBeLessThan(1_000)
    expect(run.wrong).toBe(0)
    expect(await run.rate(500)).toBeGreaterThan(30_000)
  })
})
