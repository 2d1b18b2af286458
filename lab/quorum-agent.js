/**
 * A peer in a host of the lab that says what it sees of others, or lies; and one that asks.
 *
 *   observe  { lie?, lieV6? } -> { address, addressV6 }       `lie`: says that address instead of what it sees
 *   be       {} -> { address }            a peer as it is, that does all of this by itself
 *   know     { to: [host:port, …] } -> { nat, candidates }   once it has sessions with these, and has asked them
 *   connect  { to: [host:port, …] } -> {}
 *   ask      { settings? } -> { v4, v6, ms, ports: { udp, tcp } }   what others agree on, and the ports that were asked from
 */
import { createServer } from 'node:net'
import { Peer } from '../dist/index.js'
import { localAddresses } from '../dist/network/address.js'
import { UdpSocket } from '../dist/network/udp-socket.js'
import { SEEN_PROTOCOL, SeenAddress } from '../dist/protocol/seen-address.js'
import { askQuorum } from '../dist/protocol/seen-quorum.js'
import { serve } from './agent.js'

const LISTEN_PORT = 4_400
/** Length 4, version 1, kind 1, token 16, proof 16. */
const PROBE_BYTES = 38

const sessions = []
let peer
let udp

serve({
  async observe({ lie, lieV6 }) {
    peer = await Peer.create({ listen: [`:${LISTEN_PORT}`], firewall: { allow: 'all' } })
    udp = await UdpSocket.open()
    const hosts = localAddresses().filter(({ scope }) => scope === 'public')
    const said = (from) => ({ ...from, host: (from.family === 6 ? lieV6 : lie) ?? from.host })
    const remote = ({ host, port }) => (host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`)
    const tcp = createServer((socket) => {
      socket.on('error', () => {})
      socket.once('data', (bytes) => {
        if (bytes.length !== PROBE_BYTES) return socket.destroy()
        const host = socket.remoteAddress.replace('::ffff:', '')
        const from = said({ host, port: socket.remotePort, family: host.includes(':') ? 6 : 4 })
        seen.onProbe(bytes.subarray(6), remote(from))
        socket.end()
      })
    })
    await new Promise((resolve) => tcp.listen(0, '::', resolve))
    const seen = new SeenAddress({
      places: () =>
        hosts.flatMap(({ host }) => [
          { kind: 'tcp', host, port: tcp.address().port },
          { kind: 'udp', host, port: udp.port },
        ]),
      asksPerMinute: 1_000, // one home asks for many tests
      udp: () => ({ route: (tag, handler) => udp.route(tag, (datagram, from) => handler(datagram, said(from))) }),
    })
    peer.handleStream(SEEN_PROTOCOL, (stream, { from, session }) => {
      const pathInfo = session.pathInfo.map((info) => {
        const [, host, port] = /^\[?(.*?)\]?:(\d+)$/.exec(info.remote)
        const plain = host.replace('::ffff:', '')
        return { ...info, remote: remote(said({ host: plain, port, family: plain.includes(':') ? 6 : 4 })) }
      })
      seen.serve(stream, { from, session: { pathInfo } })
    })
    return {
      address: `${hosts.find(({ family }) => family === 4).host}:${LISTEN_PORT}`,
      addressV6: `[${hosts.find(({ family }) => family === 6).host}]:${LISTEN_PORT}`,
    }
  },

  async be() {
    peer = await Peer.create({ listen: [`:${LISTEN_PORT + 1}`], firewall: { allow: 'all' } })
    const own = localAddresses().find(({ family }) => family === 4)
    return { address: `${own.host}:${LISTEN_PORT + 1}` }
  },

  async know({ to }) {
    sessions.push(...(await Promise.all(to.map((address) => peer.discover(address)))))
    const until = performance.now() + 8_000
    while (peer.nat.udp.mapping === 'unknown' && performance.now() < until) {
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    return { nat: peer.nat, candidates: peer.candidates }
  },

  async connect({ to }) {
    peer ??= await Peer.create({ firewall: { allow: 'all' }, udp: false })
    udp ??= await UdpSocket.open()
    for (const session of sessions.splice(0)) await session.close()
    sessions.push(...(await Promise.all(to.map((address) => peer.discover(address)))))
    await Promise.all(sessions.map((session) => session.opened()))
  },

  async ask({ settings = {} }) {
    const began = performance.now()
    const tcpPort = 32_768 + Math.floor(Math.random() * 28_000)
    const { v4, v6 } = await askQuorum({
      sessions,
      signal: new AbortController().signal,
      local: localAddresses(),
      udp,
      tcpPort,
      ...settings,
    })
    return { v4, v6, ms: performance.now() - began, ports: { udp: udp.port, tcp: tcpPort } }
  },
})
