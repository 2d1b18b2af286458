/**
 * hyperdht, on a public host as nodes of the DHT or as a blind relay, in a home as a peer.
 *
 *   dht     { host, bootstrap?, nodes }                -> { bootstrap }    the first of all is who the others ask
 *   relay   { bootstrap }                              -> { key }
 *   start   { bootstrap, relay?: { key, host }, relayFirst? } -> { id }    announced: others find it by its key
 *   dial    { to, deadlineMs, directMs }               -> as timeDial() gives it
 *   forget  {}                                         -> every connection is closed
 */

import { once } from 'node:events'
import BlindRelay from 'blind-relay'
import HyperDHT from 'hyperdht'
import { serve } from '../../lab/agent.js'
import { PING, timeDial } from './dial.js'

const BOOTSTRAP_PORT = 49737 // hyperdht's own

/** A peer punches random NATs once in 20 s, to be polite. Here every dial is meant as one of its own. */
const RANDOM_PUNCH_MS = 1

/** How a punch fails where Hyperswarm then dials again through the relay. */
const RELAY_AFTER = new Set([
  'HOLEPUNCH_ABORTED',
  'HOLEPUNCH_DOUBLE_RANDOMIZED_NATS',
  'CANNOT_HOLEPUNCH',
  'REMOTE_NOT_HOLEPUNCHABLE',
])

/** As public nodes are set up: they know that they can be reached, and stay in others' tables. */
const PUBLIC = { ephemeral: false, firewalled: false }

let node
let relay
let relayFirst
const streams = new Set()

function keep(stream) {
  streams.add(stream)
  stream.on('error', () => {}) // 'close' tells
  stream.on('close', () => streams.delete(stream))
}

/** The relay is for dials after a failed one, and where the own NAT cannot be punched, unless it is for all. */
function relayThrough(failed = false) {
  if (relay === undefined) return null
  return relayFirst || failed || node.randomized ? Buffer.from(relay.key, 'hex') : null
}

async function connect(key, signal, through) {
  const stream = node.connect(key, { relayThrough: through })
  keep(stream)
  stream.write(PING)
  await once(stream, 'data', { signal })
  stream.resume()
  return { isDirect: () => stream.rawStream?.remoteHost !== relay?.host }
}

serve({
  async dht({ host, bootstrap, nodes }) {
    const others = bootstrap === undefined ? nodes - 1 : nodes
    const first = bootstrap ?? [{ host, port: BOOTSTRAP_PORT }]
    if (bootstrap === undefined) await HyperDHT.bootstrapper(BOOTSTRAP_PORT, host).fullyBootstrapped()
    await Promise.all(
      Array.from({ length: others }, () => new HyperDHT({ ...PUBLIC, port: 0, bootstrap: first }).fullyBootstrapped()),
    )
    return { bootstrap: first }
  },

  async relay({ bootstrap }) {
    const own = new HyperDHT({ ...PUBLIC, bootstrap })
    await own.fullyBootstrapped()
    const service = new BlindRelay.Server({
      createStream: (options) => own.createRawStream({ ...options, framed: true }),
    })
    const server = own.createServer({ shareLocalAddress: false }, (stream) => {
      stream.on('error', () => {})
      service.accept(stream, { id: stream.remotePublicKey }).on('error', () => {})
    })
    await server.listen()
    return { key: server.publicKey.toString('hex') }
  },

  async start({ bootstrap, relay: through, relayFirst: first = false }) {
    relay = through
    relayFirst = first
    node = new HyperDHT({ bootstrap, randomPunchInterval: RANDOM_PUNCH_MS })
    await node.fullyBootstrapped()
    const server = node.createServer({ relayThrough: () => relayThrough() }, (stream) => {
      keep(stream)
      stream.on('data', (data) => stream.write(data))
    })
    await server.listen()
    return { id: server.publicKey.toString('hex') }
  },

  dial({ to, ...limits }) {
    const key = Buffer.from(to, 'hex')
    return timeDial(async (signal) => {
      try {
        return await connect(key, signal, relayThrough())
      } catch (error) {
        if (relay === undefined || !RELAY_AFTER.has(error.code)) throw error
        return connect(key, signal, relayThrough(true))
      }
    }, limits)
  },

  async forget() {
    const closed = [...streams].map((stream) => once(stream, 'close'))
    for (const stream of streams) stream.destroy()
    await Promise.all(closed)
  },
})
