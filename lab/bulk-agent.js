/**
 * Plain sockets, for comparison with a session on the same way: kernel TCP, and a raw udx stream.
 *
 *   listen  { kind: 'tcp' | 'udx', port }      counts what comes
 *   send    { kind, host, port, ms }           sends for so long
 *   marks   {}                                 -> [{ ms, bytes }, …] since the first byte, every 100 ms
 */
import net from 'node:net'
import UDX from 'udx-native'
import { serve } from './agent.js'

const CHUNK = Buffer.alloc(65_536)
const IDS = { listener: 1, sender: 2 }

let marks = []
let finish = () => {}

/** Counts the bytes of a stream. */
function count(stream) {
  marks = []
  let bytes = 0
  let since
  const timer = setInterval(() => {
    if (since !== undefined) marks.push({ ms: performance.now() - since, bytes })
  }, 100)
  stream.on('data', (chunk) => {
    since ??= performance.now()
    bytes += chunk.length
  })
  stream.on('error', () => {})
  stream.on('close', () => clearInterval(timer))
}

const drained = (stream) => new Promise((resolve) => stream.once('drain', resolve))

serve({
  async listen({ kind, host, port, from }) {
    if (kind === 'tcp') {
      const server = net.createServer((socket) => count(socket)).listen(port)
      await new Promise((resolve) => server.once('listening', resolve))
      finish = () => server.close()
      return
    }
    const udx = new UDX()
    const socket = udx.createSocket()
    socket.bind(port, host)
    const stream = udx.createStream(IDS.listener)
    stream.connect(socket, IDS.sender, from.port, from.host)
    count(stream)
    finish = () => stream.destroy()
  },

  async send({ kind, host, port, own, ms }) {
    let stream
    if (kind === 'tcp') {
      stream = net.connect(port, host)
      await new Promise((resolve, reject) => stream.once('connect', resolve).once('error', reject))
    } else {
      const udx = new UDX()
      const socket = udx.createSocket()
      socket.bind(own.port, own.host)
      stream = udx.createStream(IDS.sender)
      stream.connect(socket, IDS.listener, port, host)
    }
    stream.on('error', () => {})
    const started = performance.now()
    while (performance.now() - started < ms) {
      if (!stream.write(CHUNK)) {
        await Promise.race([drained(stream), new Promise((resolve) => setTimeout(resolve, ms))])
      }
    }
    if (kind === 'tcp') stream.resetAndDestroy()
    else stream.destroy()
  },

  async marks() {
    finish()
    return marks
  },
})
