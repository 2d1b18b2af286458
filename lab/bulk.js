/**
 * Bulk data over four kinds of links between two public hosts: a plain TCP socket, a raw udx stream, and a session, which
 * has both and chooses by what they deliver. From 3 s after the start on, the session must reach 0.8 of the better one.
 *
 *   node lab/bulk.js [--links clean,lossy,far,narrow] [--congestion cubic,bbr] [--seconds 8] [--rounds 3] [--json FILE] [--check]
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { presets } from './kinds.js'
import { Lab } from './lab.js'

const PEER = new URL('./peer.js', import.meta.url)
const PLAIN = new URL('./bulk-agent.js', import.meta.url)

/** ms after which a session must have settled. */
const SETTLED_MS = 3_000
const SHARE = 0.8

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]

/** MB/s from `fromMs` on. */
function rate(marks, fromMs) {
  const last = marks.at(-1)
  const first = marks.findLast(({ ms }) => ms <= fromMs)
  if (last === undefined || first === undefined || last === first) return 0
  return (last.bytes - first.bytes) / 1e3 / (last.ms - first.ms)
}

export async function runBulk({
  links = Object.keys(presets),
  congestion = ['cubic'],
  seconds = 8,
  rounds = 1,
  onRow = () => {},
}) {
  const rows = []
  for (const control of congestion) {
    const lab = await Lab.create({ homes: [], congestion: control })
    try {
      const server = lab.host('server').agent(PEER)
      const [address] = lab.host('server').addresses.v4
      const { url } = await server.ask('serve', { listen: ':443' })
      const rendezvous = [`tcp://${address}:443#${url.split('#')[1]}`]
      const [from, to] = [lab.host('pub1'), lab.host('pub2')]
      const [here] = from.addresses.v4
      const [there] = to.addresses.v4
      for (const link of links) {
        lab.setPub(link)
        const found = { tcp: [], udx: [], peerline: [] }
        let how = []
        for (let round = 0; round < rounds; round++) {
          for (const [at, kind] of ['tcp', 'udx'].entries()) {
            const port = 7_000 + 10 * round + at
            const [sink, source] = [to.agent(PLAIN), from.agent(PLAIN)]
            await sink.ask('listen', { kind, host: there, port, from: { host: here, port } })
            await source.ask(
              'send',
              { kind, host: there, port, own: { host: here, port }, ms: seconds * 1_000 },
              { timeoutMs: 60_000 },
            )
            found[kind].push(rate(await sink.ask('marks'), SETTLED_MS))
            await Promise.all([sink.stop(), source.stop()])
          }
          const [sink, source] = [to.agent(PEER), from.agent(PEER)]
          const { id } = await sink.ask('start', { rendezvous })
          await source.ask('start', { rendezvous })
          await Promise.all([sink.ask('settled'), source.ask('settled')])
          const bulk = await source.ask('bulk', { to: id, ms: seconds * 1_000 }, { timeoutMs: 60_000 })
          found.peerline.push(rate(bulk.marks, SETTLED_MS))
          how = bulk.why.history.map(
            ({ atMs, kind, what, detail }) => `${atMs} ${kind} ${what}${detail === undefined ? '' : ` (${detail})`}`,
          )
          await Promise.all([sink.stop(), source.stop()])
        }
        const [tcp, udx, peerline] = [median(found.tcp), median(found.udx), median(found.peerline)]
        const share = peerline / Math.max(tcp, udx)
        const row = { congestion: control, link, tcp, udx, peerline, share, found, how, ok: share >= SHARE }
        rows.push(row)
        onRow(row)
      }
    } finally {
      await lab.destroy()
    }
  }
  return rows
}

export const heading = `${'link'.padEnd(14)} ${'TCP'.padStart(7)} ${'udx'.padStart(7)} ${'session'.padStart(8)}  share of the better`

export function line({ congestion, link, tcp, udx, peerline, share, ok }) {
  const number = (value) => value.toFixed(1)
  return `${`${link}, ${congestion}`.padEnd(14)} ${number(tcp).padStart(7)} ${number(udx).padStart(7)} ${number(peerline).padStart(8)}  ${share.toFixed(2)} ${ok ? 'ok' : `below ${SHARE}`}`
}

async function main() {
  const { values } = parseArgs({
    options: {
      links: { type: 'string', default: Object.keys(presets).join() },
      congestion: { type: 'string', default: 'cubic' },
      seconds: { type: 'string', default: '8' },
      rounds: { type: 'string', default: '3' },
      json: { type: 'string' },
      check: { type: 'boolean', default: false },
      why: { type: 'boolean', default: false },
    },
  })
  console.log(`MB/s from ${SETTLED_MS / 1_000} s after the start on, medians of ${values.rounds}`)
  console.log(heading)
  const rows = await runBulk({
    links: values.links.split(','),
    congestion: values.congestion.split(','),
    seconds: Number(values.seconds),
    rounds: Number(values.rounds),
    onRow: (row) => {
      console.log(line(row))
      if (values.why) for (const said of row.how) console.log(`    ${said}`)
    },
  })
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(rows, null, 1)}\n`)
  if (values.check && rows.some(({ ok }) => !ok)) process.exitCode = 1
}

if (process.argv[1] === new URL(import.meta.url).pathname) await main()
