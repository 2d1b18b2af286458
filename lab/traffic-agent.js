/** Runs inside a host: echoes, counts and sends UDP, for tests of the lab's cables and routers. */

import dgram from 'node:dgram'
import { once } from 'node:events'
import net from 'node:net'
import { serve } from './agent.js'

const BURST = 20 // datagrams between two looks at the clock
const PATIENCE_MS = 1_000

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const sockets = new Map()

async function open(address, port = 0) {
  const socket = dgram.createSocket({ type: net.isIPv6(address) ? 'udp6' : 'udp4', recvBufferSize: 4 * 2 ** 20 })
  socket.on('error', () => {})
  socket.bind(port, address)
  await once(socket, 'listening')
  return socket
}

serve({
  /** Sends everything back, with the sender's address as seen here, after as many ms as it says. */
  async echo({ address, port }) {
    const socket = await open(address, port)
    socket.on('message', async (message, { address: seen, port: seenPort }) => {
      const { text, afterMs } = JSON.parse(message)
      if (afterMs > 0) await sleep(afterMs)
      socket.send(JSON.stringify({ text, seen: { address: seen, port: seenPort } }), seenPort, seen)
    })
  },

  /** One question to an echo: `{ ms, seen }`, or null when nothing came. The same `key` is the same socket. */
  async ask({ key, from, address, port, afterMs = 0 }) {
    if (!sockets.has(key)) sockets.set(key, await open(from))
    const socket = sockets.get(key)
    const text = String(Math.random())
    const started = performance.now()
    let timer
    const silence = new Promise((resolve) => {
      timer = setTimeout(() => resolve(null), afterMs + PATIENCE_MS)
    })
    let hear
    const answer = new Promise((resolve) => {
      hear = (message) => {
        const { text: echoed, seen } = JSON.parse(message)
        if (echoed === text) resolve({ ms: performance.now() - started, seen })
      }
      socket.on('message', hear)
    })
    socket.send(JSON.stringify({ text, afterMs }), port, address, () => {})
    try {
      return await Promise.race([answer, silence])
    } finally {
      clearTimeout(timer)
      socket.off('message', hear)
    }
  },

  /** Counts what comes until `stillMs` pass without anything. */
  async count({ address, port, stillMs }) {
    const socket = await open(address, port)
    const counted = { datagrams: 0, bytes: 0, first: 0, last: 0 }
    socket.on('message', ({ length }) => {
      counted.last = performance.now()
      if (counted.datagrams === 0) counted.first = counted.last
      counted.datagrams += 1
      counted.bytes += length
    })
    sockets.set('counted', { socket, counted, stillMs })
  },
  async counted() {
    const { socket, counted, stillMs } = sockets.get('counted')
    while (counted.datagrams === 0 || performance.now() - counted.last < stillMs) await sleep(50)
    socket.close()
    return { datagrams: counted.datagrams, bytes: counted.bytes, ms: counted.last - counted.first }
  },

  /** Sends that many datagrams at about that rate. */
  async send({ from, address, port, datagrams, size, perSecond }) {
    const socket = await open(from)
    const data = Buffer.alloc(size)
    const started = performance.now()
    for (let sent = 0; sent < datagrams; sent += 1) {
      if (sent % BURST === 0) await sleep(started + (sent * 1000) / perSecond - performance.now())
      socket.send(data, port, address, () => {})
    }
    await sleep(50)
    socket.close()
  },

  /** Takes TCP connections and says so; opens one and waits for that. */
  async listen({ port }) {
    const server = net
      .createServer((socket) =>
        socket
          .on('error', () => {})
          .resume()
          .write('taken'),
      )
      .listen(port)
    await once(server, 'listening')
  },
  async connect({ address, port }) {
    const socket = net.connect(port, address)
    await once(socket, 'data')
    socket.on('error', () => {})
  },
})
