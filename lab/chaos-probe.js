/**
 * Looks at the network from inside a host, with plain sockets, to see whether a fault is in effect; and, on a public host,
 * what answers it.
 *
 *   answer      { host, port }              TCP and UDP; says who asked
 *   tcp, udp    { host, port, timeoutMs }   -> { ok, seen, code }   a new connection, or a datagram from a new socket
 *   keep        { host, port }              keeps a connection
 *   kept        { timeoutMs }               -> { ok }               whether that one still answers
 *   addresses   {}                          -> IPv4 addresses of eth0; none while it has no carrier
 */
import dgram from 'node:dgram'
import { once } from 'node:events'
import net from 'node:net'
import { networkInterfaces } from 'node:os'
import { serve } from './agent.js'

let keptSocket

/** Resolves with what `ask` gives to its callback, or with a failure after so many ms. */
function within(timeoutMs, ask) {
  return new Promise((resolve) => {
    const done = (found) => {
      clearTimeout(timer)
      resolve(found)
    }
    const timer = setTimeout(() => done({ ok: false, code: 'silence' }), timeoutMs)
    ask(done)
  })
}

const heard = (data) => ({ ok: true, seen: data.toString() })

serve({
  async answer({ host, port }) {
    const server = net.createServer((socket) => {
      socket.on('error', () => {})
      socket.on('data', () => socket.write(socket.remoteAddress))
    })
    server.listen(port, host)
    await once(server, 'listening')
    const socket = dgram.createSocket('udp4')
    socket.on('message', (_, { address, port: from }) => socket.send(address, from, address))
    socket.bind(port, host)
    await once(socket, 'listening')
  },

  async tcp({ host, port, timeoutMs }) {
    const socket = net.connect(port, host)
    socket.on('error', () => {})
    const found = await within(timeoutMs, (done) => {
      socket.on('connect', () => socket.write('?'))
      socket.on('data', (data) => done(heard(data)))
      socket.on('error', ({ code }) => done({ ok: false, code }))
    })
    socket.destroy()
    return found
  },

  async udp({ host, port, timeoutMs }) {
    const socket = dgram.createSocket('udp4')
    socket.on('error', () => {})
    const found = await within(timeoutMs, (done) => {
      socket.on('message', (data) => done(heard(data)))
      socket.send('?', port, host, (error) => error && done({ ok: false, code: error.code }))
    })
    socket.close()
    return found
  },

  async keep({ host, port }) {
    keptSocket = net.connect(port, host)
    await once(keptSocket, 'connect')
    keptSocket.on('error', () => {})
  },

  kept: ({ timeoutMs }) =>
    within(timeoutMs, (done) => {
      if (keptSocket.destroyed) return done({ ok: false, code: 'closed' })
      keptSocket.once('data', (data) => done(heard(data)))
      keptSocket.once('close', () => done({ ok: false, code: 'closed' }))
      keptSocket.write('?')
    }),

  addresses: () =>
    (networkInterfaces().eth0 ?? []).flatMap(({ family, address }) => (family === 'IPv4' ? address : [])),
})
