/**
 * js-libp2p for lab/chaos-contract.md, set up as its documentation says for two peers behind NATs: TCP, WebRTC (with a
 * STUN server), Noise, yamux, identify and its push, AutoNAT, a reservation at every relay, and the relays tagged
 * `keep-alive`, so that libp2p dials them again when they are lost.
 *
 * `via`: `auto` and `webrtc` dial the addresses with /webrtc, signaled through a relay, and `auto` the relayed ones if none of
 * them works; `relay` has no WebRTC. There is no punched TCP: libp2p dials from another port than the one that it was seen
 * from. DCUtR is left out: behind these NATs it has no address to dial, and beside WebRTC it makes every second dial fail,
 * since the dialled side then makes a WebRTC connection of its own in the middle of the first.
 *
 * With CHAOS_RESUME=1 the application also dials a lost relay every 500 ms: libp2p gives up after five times.
 */

import './lib/polyfill.js'
import { autoNAT } from '@libp2p/autonat'
import { circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { identify, identifyPush } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { webRTC } from '@libp2p/webrtc'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { say } from '../lab/chaos-kit.js'
import { YAMUX } from './chaos/libp2p.js'
import { chaosPipe, runAgent, Unsupported } from './chaos/transfer.js'

const PROTOCOL = '/chaos/1'
const RETRY_MS = 500
const DIAL_MS = 30_000 // for all addresses of a peer, each of which may take 6; in the default of 10 s the last is not reached
const RESERVED_MS = 20_000 // for a reservation at every relay
const LOOK_MS = 50 // between two looks at the own addresses
const WITH_WEBRTC = { auto: true, webrtc: true, relay: false }

let node
let dialled // the addresses of the other side that `via` lets us dial

/** What carries a connection, from its address. */
function pathOf({ remoteAddr }) {
  const names = remoteAddr.getComponents().map(({ name }) => name)
  return names.includes('webrtc') ? 'webrtc' : names.includes('p2p-circuit') ? 'relay' : 'tcp'
}

function pipeOf(stream, connection) {
  let over = false
  const pipe = chaosPipe({
    send: (bytes) => stream.writeStatus === 'writable' && stream.send(bytes),
    drained() {
      if (over || (stream.writeStatus === 'writable' && !stream.writableNeedsDrain)) return Promise.resolve()
      return new Promise((resolve) => {
        const settle = () => {
          stream.removeEventListener('drain', settle)
          stream.removeEventListener('close', settle)
          resolve()
        }
        stream.addEventListener('drain', settle)
        stream.addEventListener('close', settle)
      })
    },
    destroy() {
      over = true
      stream.abort(new Error('not needed any more'))
    },
    path: () => pathOf(connection),
  })
  stream.addEventListener('message', ({ data }) => {
    for (const chunk of data instanceof Uint8Array ? [data] : data) {
      if (!over) pipe.onData(chunk)
    }
  })
  const close = (error) => {
    if (over) return
    over = true
    pipe.onClose(error)
  }
  stream.addEventListener('close', ({ error }) => close(error))
  // One that sends nothing more before the end is as lost as one that has closed.
  stream.addEventListener('remoteCloseWrite', () => close(undefined))
  return pipe
}

function traceConnections() {
  const about = (connection) => {
    const peer = connection.remotePeer.toString().slice(-6)
    return `${connection.direction} ${pathOf(connection)} connection with ${peer}`
  }
  node.addEventListener('connection:open', ({ detail }) => say('trace', { text: `${about(detail)} opened` }))
  node.addEventListener('connection:close', ({ detail }) => say('trace', { text: `${about(detail)} closed` }))
  node.addEventListener('self:peer:update', () => {
    const circuits = node.getMultiaddrs().filter((address) => address.toString().includes('/p2p-circuit/p2p/'))
    say('trace', { text: `reachable by ${circuits.length} relayed addresses` })
  })
}

/** Dials a lost relay until it is there again. */
async function holdRelay({ peer, addresses }) {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
    if (node.status !== 'started') return
    if (node.getPeers().some((id) => id.toString() === peer)) continue
    await node.dial(addresses.map((address) => multiaddr(address))).catch(() => {})
  }
}

/** Own addresses, once there are some at every relay. */
async function reserved(relays) {
  const until = performance.now() + RESERVED_MS
  for (;;) {
    const addresses = node.getMultiaddrs().map((address) => address.toString())
    const missing = relays.filter(({ peer }) => !addresses.some((address) => address.includes(`${peer}/p2p-circuit`)))
    if (missing.length === 0) return addresses.filter((address) => address.includes('/p2p-circuit'))
    if (performance.now() > until) throw new Error(`no reservation at ${missing.length} of ${relays.length} relays`)
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS))
  }
}

await runAgent({
  hasStreams: true,

  async start({ servers, via, resume, accept }) {
    const withWebRtc = WITH_WEBRTC[via]
    if (withWebRtc === undefined) throw new Unsupported(`js-libp2p has no direct ${via} path through NATs`)
    dialled = (address) => via !== 'webrtc' || address.includes('/webrtc')
    const iceServers = servers.map(({ stun }) => ({ urls: stun }))
    node = await createLibp2p({
      addresses: {
        listen: ['/ip4/0.0.0.0/tcp/0', ...servers.map(() => '/p2p-circuit'), ...(withWebRtc ? ['/webrtc'] : [])],
      },
      transports: [
        tcp(),
        circuitRelayTransport(),
        ...(withWebRtc ? [webRTC({ rtcConfiguration: { iceServers } })] : []),
      ],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux(YAMUX)],
      connectionManager: { dialTimeout: DIAL_MS },
      services: {
        identify: identify(),
        identifyPush: identifyPush(),
        autoNAT: autoNAT(),
        ping: ping(),
      },
    })
    traceConnections()
    await node.handle(PROTOCOL, (stream, connection) => accept(pipeOf(stream, connection)))
    for (const relay of servers) {
      const connection = await node.dial(relay.addresses.map((address) => multiaddr(address)))
      await node.peerStore.merge(connection.remotePeer, { tags: { 'keep-alive-relay': {} } })
      if (resume) void holdRelay(relay)
    }
    return await reserved(servers)
  },

  async dial(id) {
    const addresses = id.filter(dialled).map((address) => multiaddr(address))
    const connection = await node.dial(addresses)
    const stream = await connection.newStream(PROTOCOL)
    return pipeOf(stream, connection)
  },

  stop: () => node.stop(),
})
