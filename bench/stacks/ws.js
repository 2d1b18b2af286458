/** ws 8 over plain HTTP, one binary message per write, compression off. */

import http from 'node:http'
import { emptyPipe, opened } from '../lib/pipe.js'

const HOST = '127.0.0.1'
const BUFFER_BYTES = 64 * 1024 // where the sender starts to wait, as a socket does after one such write

function webSocketPipe(socket) {
  let flushed = Promise.resolve()
  const pipe = emptyPipe({
    send(bytes) {
      if (socket.bufferedAmount < BUFFER_BYTES) {
        socket.send(bytes)
        return true
      }
      flushed = new Promise((resolve) => socket.send(bytes, resolve))
      return false
    },
    drained: () => flushed,
    close() {
      pipe.onClose = () => {}
      socket.terminate()
    },
  })
  socket.on('message', (data) => pipe.onData(data.byteLength, data[0]))
  socket.on('error', (error) => pipe.onClose(error))
  socket.on('close', () => pipe.onClose(new Error('the connection was closed by the other end')))
  return pipe
}

export const ws = {
  async listen(_context, accept) {
    const { WebSocketServer } = await import('ws')
    const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false })
    const server = http.createServer()
    server.on('upgrade', (request, socket, head) => {
      sockets.handleUpgrade(request, socket, head, (webSocket) => accept(webSocketPipe(webSocket)))
    })
    server.listen(0, HOST)
    await opened(server, 'listening')
    return { info: { port: server.address().port }, close: () => server.close() }
  },
  async dial(context) {
    const { WebSocket } = await import('ws')
    return {
      async connect() {
        const socket = new WebSocket(`ws://${HOST}:${context.server.port}`, { perMessageDeflate: false })
        await opened(socket, 'open')
        return webSocketPipe(socket)
      },
    }
  },
}
