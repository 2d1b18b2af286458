/**
 * Carries the signaling of WebRTC between homes: JSON lines over one TCP connection of each peer, passed on at once.
 *
 *   { name }         from a peer, first: who it is       { online: name }  back to it
 *   { to, ... }      goes to that peer, as it is, with `from`; nowhere when it is not there
 */

import { createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { serve } from '../../lab/agent.js'

const peers = new Map()

function take(socket) {
  let name
  socket.setNoDelay(true)
  socket.on('error', () => {}) // 'close' tells
  socket.on('close', () => {
    if (peers.get(name) === socket) peers.delete(name)
  })
  createInterface({ input: socket }).on('line', (line) => {
    const message = JSON.parse(line)
    if (name !== undefined) {
      peers.get(message.to)?.write(`${JSON.stringify({ ...message, from: name })}\n`)
      return
    }
    name = message.name
    peers.set(name, socket)
    socket.write(`${JSON.stringify({ online: name })}\n`)
  })
}

serve({
  listen: ({ port }) =>
    new Promise((resolve, reject) => {
      const server = createServer(take)
      server.on('error', reject)
      server.listen(port, '::', () => resolve({ port }))
    }),
})
