/** Connections of the attackers: bare sockets from an address of their own, and the framing of messages on them. */
import net from 'node:net'

const LENGTH_BYTES = 4

/** A message behind its length. */
export function framed(...parts) {
  const message = Buffer.concat(parts)
  const length = Buffer.alloc(LENGTH_BYTES)
  length.writeUInt32BE(message.length)
  return Buffer.concat([length, message])
}

/** One connection. */
export class Line {
  #socket
  #counts
  #rest = Buffer.alloc(0)
  #messages = []
  /** Those who wait for something to happen. */
  #waiting = []
  isClosed = false
  /** Called before it is cut, to say goodbye. */
  onCut = () => {}
  /** Takes messages, if set, instead of `next`. */
  onMessage

  constructor(socket, counts) {
    this.#socket = socket
    this.#counts = counts
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        this.isClosed = true
        this.#wake()
        resolve()
      })
    })
    socket.on('error', () => {})
    socket.on('data', (chunk) => this.#read(chunk))
    socket.on('drain', () => this.#wake())
  }

  #read(chunk) {
    this.#counts.received += chunk.length
    let rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    while (rest.length >= LENGTH_BYTES) {
      const end = LENGTH_BYTES + rest.readUInt32BE(0)
      if (rest.length < end) break
      const message = rest.subarray(LENGTH_BYTES, end)
      rest = rest.subarray(end)
      if (this.onMessage !== undefined) this.onMessage(message)
      else this.#messages.push(Buffer.from(message))
    }
    this.#rest = Buffer.from(rest)
    this.#wake()
  }

  #woken() {
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  #wake() {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }

  /** The next message; undefined when it was closed instead. */
  async next() {
    while (this.#messages.length === 0 && !this.isClosed) await this.#woken()
    return this.#messages.shift()
  }

  /** Resolves when more may be written. */
  async write(bytes) {
    // Reset, and not yet told so.
    if (!this.#socket.writable) return this.closed
    this.#counts.sent += bytes.length
    if (this.#socket.write(bytes)) return
    while (!this.isClosed && this.#socket.writableNeedDrain) await this.#woken()
  }

  deaf() {
    this.#socket.pause()
  }

  cut() {
    if (this.isClosed) return
    this.onCut()
    // What was said last is to go out.
    this.#socket.end()
    this.#socket.resume()
    setTimeout(() => this.#socket.destroy(), 200)
  }

  drop() {
    this.#socket.resetAndDestroy()
  }
}

/** All connections of a process. */
export class Lines {
  #host
  #port
  #open = new Set()
  closed = false
  counts = { connections: 0, refused: 0, sent: 0, received: 0 }

  constructor(address) {
    const [host, port] = address.split(':')
    this.#host = host
    this.#port = Number(port)
  }

  /** A connection from `source`. Rejects when there is none to be had. */
  open(source) {
    return new Promise((resolve, reject) => {
      if (this.closed) return reject(new Error('the attack is over'))
      const socket = net.connect({ host: this.#host, port: this.#port, localAddress: source, noDelay: true })
      const line = new Line(socket, this.counts)
      this.#open.add(line)
      void line.closed.then(() => {
        this.#open.delete(line)
        reject(new Error('not connected'))
      })
      socket.on('connect', () => {
        this.counts.connections++
        resolve(line)
      })
      socket.on('error', () => this.counts.refused++)
    })
  }

  close() {
    this.closed = true
    for (const line of this.#open) line.cut()
  }
}
