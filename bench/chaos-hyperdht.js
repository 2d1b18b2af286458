/**
 * hyperdht for lab/chaos-contract.md: `server.listen()` on one side, `dht.connect(publicKey)` on the other, secret streams,
 * keep-alives as they are by default, and a blind relay. A connection is one stream.
 *
 * `via`: `udp` has no relay; `relay` always takes it and is not punched; `auto` does as Hyperswarm 4 does: the relay at once where
 * the own NAT gives random ports, else in a second dial after the first was refused or could not be punched.
 *
 * With CHAOS_RESUME=1 the listening side also calls `server.refresh()` as long as its stream is broken. hyperdht does so when
 * the machine's own addresses change. A new address of the router it notices with its next announcement, five minutes later at
 * worst; and so long it stays silent after one that it made while there was no network.
 */

import { setTimeout as delay } from 'node:timers/promises'
import HyperDHT from 'hyperdht'
import { say } from '../lab/chaos-kit.js'
import { chaosPipe, runAgent, Unsupported } from './chaos/transfer.js'
import { opened } from './lib/pipe.js'

/** How a punch fails where Hyperswarm then dials again through the relay. */
const RELAY_AFTER = new Set([
  'HOLEPUNCH_ABORTED',
  'HOLEPUNCH_DOUBLE_RANDOMIZED_NATS',
  'CANNOT_HOLEPUNCH',
  'REMOTE_NOT_HOLEPUNCHABLE',
])

const VIAS = ['auto', 'udp', 'relay']
const DIAL_MS = 15_000 // hyperdht gives a relay 15 s; some other dials of it have no end

let node
let server
let via
let relays

/** What to give as `relayThrough`. Of several relays hyperdht takes one by chance. */
function relayThrough(failed) {
  const wanted = via === 'relay' || (via === 'auto' && (failed || node.randomized))
  return wanted ? relays.map(({ key }) => Buffer.from(key, 'hex')) : null
}

function pipeOf(stream) {
  const raw = stream.rawStream
  const isRelayed = () => relays.some(({ host }) => host === raw.remoteHost)
  let over = false
  let failure
  const pipe = chaosPipe({
    send: (bytes) => !stream.destroying && stream.write(bytes),
    drained() {
      if (over) return Promise.resolve()
      return new Promise((resolve) => {
        const settle = () => {
          stream.off('drain', settle)
          stream.off('close', settle)
          resolve()
        }
        stream.on('drain', settle)
        stream.on('close', settle)
      })
    },
    destroy() {
      over = true
      stream.destroy()
    },
    path: () => (isRelayed() ? 'relay' : 'udp'),
  })
  raw.on('remote-changed', () => pipe.onPath())
  stream.on('data', (chunk) => pipe.onData(chunk))
  stream.on('end', () => stream.end())
  stream.on('error', (error) => {
    failure = error
  })
  stream.on('close', () => {
    if (!over) pipe.onClose(failure)
    over = true
  })
  return pipe
}

async function connect(key, through) {
  const stream = node.connect(key, { relayThrough: through })
  const late = delay(DIAL_MS, undefined, { ref: false }).then(() => {
    throw Object.assign(new Error(`not open after ${DIAL_MS} ms`), { code: 'DIAL_TIMEOUT' })
  })
  try {
    await Promise.race([opened(stream, 'open'), late])
    return pipeOf(stream)
  } catch (error) {
    stream.on('error', () => {})
    stream.destroy()
    throw error
  }
}

await runAgent({
  hasStreams: false,

  async start({ servers, via: wanted, accept }) {
    if (!VIAS.includes(wanted)) throw new Unsupported(`hyperdht has UDP and a relay, no ${wanted}`)
    via = wanted
    relays = servers.map(({ relay }) => relay)
    node = new HyperDHT({ bootstrap: servers.flatMap(({ bootstrap }) => bootstrap) })
    node.on('network-change', () => say('trace', { text: 'hyperdht saw the network change' }))
    await node.fullyBootstrapped()
    server = node.createServer(
      { relayThrough: () => relayThrough(false), holepunch: via === 'relay' ? false : undefined },
      (stream) => accept(pipeOf(stream)),
    )
    await server.listen()
    return server.publicKey.toString('hex')
  },

  async dial(id) {
    const key = Buffer.from(id, 'hex')
    try {
      return await connect(key, relayThrough(false))
    } catch (error) {
      if (via !== 'auto' || !RELAY_AFTER.has(error.code)) throw error
      return connect(key, relayThrough(true))
    }
  },

  onLost: () => server.refresh(),

  stop: () => node.destroy({ force: true }),
})
