/** Raw node:net, the floor of everything; and the same through a bare splice of two sockets, the floor of any relay. */

import net from 'node:net'
import { opened, streamPipe } from '../lib/pipe.js'

const HOST = '127.0.0.1'

async function listening(server) {
  server.listen(0, HOST)
  await opened(server, 'listening')
  return server.address().port
}

async function connectTo(port) {
  const socket = net.connect({ port, host: HOST, noDelay: true })
  await opened(socket, 'connect')
  return streamPipe(socket, { canCork: true })
}

async function listen(_context, accept) {
  const server = net.createServer({ noDelay: true }, (socket) => accept(streamPipe(socket, { canCork: true })))
  return { info: { port: await listening(server) }, close: () => server.close() }
}

export const tcp = {
  listen,
  dial: async (context) => ({ connect: () => connectTo(context.server.port) }),
}

export const splice = {
  order: ['server', 'third', 'client'],
  listen,
  async third(context) {
    const relay = net.createServer({ noDelay: true }, (near) => {
      const far = net.connect({ port: context.server.port, host: HOST, noDelay: true })
      near.on('error', () => far.destroy())
      far.on('error', () => near.destroy())
      near.pipe(far)
      far.pipe(near)
    })
    return { info: { port: await listening(relay) }, close: () => relay.close() }
  },
  dial: async (context) => ({ connect: () => connectTo(context.third.port) }),
}
