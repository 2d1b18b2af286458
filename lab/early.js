/**
 * The first answer of a peer that is dialled cold: a request that rides in the offer, and one that waits for the session.
 * Between two public hosts, 80 ms apart by the relay; relays alone are used.
 *
 *   node lab/early.js [--rounds 20] [--check]
 *
 * `--check` fails when the median of the early ones is above 110 ms: one signaling round trip, and a little.
 */
import { parseArgs } from 'node:util'
import { Lab } from './lab.js'
import { table } from './table.js'

const PEER = new URL('./peer.js', import.meta.url)

/** ms: the round trip by the relay is 80. */
const LIMIT_MS = 110

const sorted = (values) => [...values].sort((a, b) => a - b)
const median = (values) => sorted(values)[Math.floor(values.length / 2)]

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '20' }, check: { type: 'boolean', default: false } },
})
const lab = await Lab.create({ homes: [] })
try {
  const server = lab.host('server').agent(PEER)
  const [address] = lab.host('server').addresses.v4
  const { url } = await server.ask('serve', { listen: ':443' })
  const rendezvous = [`tcp://${address}:443#${url.split('#')[1]}`]
  const [asker, answerer] = ['pub1', 'pub2'].map((name) => lab.host(name).agent(PEER))
  const options = { via: 'relay' }
  await asker.ask('start', { rendezvous, options })
  const { id: to } = await answerer.ask('start', { rendezvous, options })
  for (const agent of [asker, answerer]) await agent.ask('settled')

  const found = { true: [], false: [] }
  // One of each first, which is not counted: code is loaded then.
  for (let round = -1; round < Number(values.rounds); round++) {
    for (const early of [true, false]) {
      const times = await asker.ask('request', { to, early })
      for (const agent of [asker, answerer]) await agent.ask('forget')
      if (round >= 0) found[early].push(times)
    }
  }
  const cell = (times) =>
    `${median(times).toFixed(0)} (${sorted(times)[0].toFixed(0)} to ${sorted(times).at(-1).toFixed(0)})`
  const row = (name, runs) => [name, cell(runs.map(({ ms }) => ms)), cell(runs.map(({ openMs }) => openMs))]
  const rows = [row('in the offer', found.true), row('in the session', found.false)]
  process.stdout.write(`${table(['the request rides', 'answered, ms', 'session open, ms'], rows)}\n`)
  const early = median(found.true.map(({ ms }) => ms))
  if (values.check && early > LIMIT_MS) throw new Error(`${early.toFixed(0)} ms is above ${LIMIT_MS} ms`)
} finally {
  await lab.destroy()
}
