/**
 * The control socket of a command: whoever listens there holds the state of the identity, and takes orders for it.
 *
 *     free --listen--> starting --serve--> serving --close--> free
 *                      orders: BUSY        orders: answered
 *
 * - One at a time: who finds somebody there holds nothing. What a process that died has left behind is taken over.
 * - Only the owner of the key file can speak to it: the socket is made with mode 0600.
 * Limits: {@link MAX_CLIENTS}, one order each, its line within {@link ORDER_MS}; who does not read is left.
 */
import { randomUUID } from 'node:crypto'
import { lstat, open, rename, stat, symlink, unlink } from 'node:fs/promises'
import net from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import { errorToJson, type Json, linesOf, writeLine } from './control-lines.ts'
import { boundAs, isTooLong, makeDirectoryOf, placeError, refuseForeign, substituteOf } from './state-places.ts'

/** Commands that are connected at once: more than a person, and the scripts of one, run at a time. */
const MAX_CLIENTS = 32

/** ms for the line of an order, which is sent at once. */
const ORDER_MS = 5_000

/** ms that a client may leave what it is sent unread. */
const UNREAD_MS = 10_000

/** ms between two attempts to take a socket over, while another process does, and how many there are. */
const AGAIN_MS = 20
const MAX_ATTEMPTS = 100

/** ms after which the lock of a takeover is that of a process that died: it takes a few. */
const LOCK_MS = 5_000

/** Mode bits that a new socket does not get: all but reading and writing for its owner. */
const UMASK = 0o177

/**
 * Carries out an order: yields items, and returns what came of it. The signal fires when nobody listens any more.
 * What it throws is told.
 */
export type Answerer = (order: Json, options: { signal: AbortSignal }) => AsyncGenerator<Json, Json, undefined>

export class ControlServer {
  readonly #server: net.Server
  readonly #clients = new Map<net.Socket, AbortController>()
  #answer: Answerer | undefined

  private constructor(server: net.Server) {
    this.#server = server
    server.on('connection', (socket) => void this.#onClient(socket))
    // An accept that fails later (too many open files) costs that client, not the process.
    server.on('error', () => {})
  }

  /**
   * Listens, or gives undefined when somebody does already. Until `serve`, orders are told to come again.
   * @throws PeerlineError `ERR_PEERLINE_FILE` when there can be no socket
   */
  static async listen(socket: string): Promise<ControlServer | undefined> {
    const tooLong = isTooLong(socket)
    const place = tooLong ? substituteOf(socket) : socket
    try {
      if (process.platform !== 'win32') {
        await makeDirectoryOf(socket)
        if (tooLong) await makeDirectoryOf(place, { shared: true })
      }
      for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
        // Where somebody listens elsewhere by the same name, as with another directory for temporary files.
        if (tooLong && (await isAnswered(await boundAs(socket)))) return undefined
        const server = await bind(place)
        if (server !== undefined) {
          const control = new ControlServer(server)
          if (tooLong) await relink(place, socket).catch((error) => control.close().then(() => Promise.reject(error)))
          return control
        }
        if (await isAnswered(place)) return undefined
        await removeStale(place)
      }
      throw new PeerlineError('ERR_PEERLINE_FILE', `what is left of ${place} cannot be removed`)
    } catch (error) {
      throw placeError(socket, error)
    }
  }

  /** Carries out orders from now on. */
  serve(answer: Answerer): void {
    this.#answer = answer
  }

  /** Orders are told to come again from now on. */
  pause(): void {
    this.#answer = undefined
  }

  /** Leaves all clients, and the socket to others. */
  async close(): Promise<void> {
    for (const [socket, gone] of this.#clients) {
      gone.abort(closed())
      socket.destroy()
    }
    // Closing removes the socket from the directory.
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
  }

  async #onClient(socket: net.Socket): Promise<void> {
    socket.on('error', () => {})
    if (this.#clients.size >= MAX_CLIENTS) return void socket.destroy()
    const gone = new AbortController()
    this.#clients.set(socket, gone)
    socket.on('close', () => {
      this.#clients.delete(socket)
      gone.abort(closed())
    })
    try {
      await this.#converse(socket, gone.signal)
    } catch (error) {
      // One last line, which need not arrive.
      if (!gone.signal.aborted) socket.end(`${JSON.stringify(errorToJson(error))}\n`)
    }
    socket.setTimeout(UNREAD_MS, () => socket.destroy())
    socket.end()
  }

  async #converse(socket: net.Socket, signal: AbortSignal): Promise<void> {
    const timer = setTimeout(() => socket.destroy(), ORDER_MS)
    const lines = linesOf(socket)
    const first = await lines.next().finally(() => clearTimeout(timer))
    if (first.done === true) return
    await lines.return(undefined)
    // Only its end is of interest now.
    socket.resume()
    if (this.#answer === undefined) throw new PeerlineError('ERR_PEERLINE_BUSY', 'the running peerline is busy')
    const answer = this.#answer(first.value, { signal })
    try {
      await this.#write(socket, { taken: true }, signal)
      for (;;) {
        const { done, value } = await untilGone(answer.next(), signal)
        await this.#write(socket, done === true ? { done: value } : { item: value }, signal)
        if (done === true) return
      }
    } finally {
      // What waits for something to tell ends by the signal; nobody waits for it here.
      void answer.return({}).catch(() => {})
    }
  }

  async #write(socket: net.Socket, line: Json, signal: AbortSignal): Promise<void> {
    const timer = setTimeout(() => socket.destroy(), UNREAD_MS)
    try {
      await writeLine(socket, line, signal)
    } finally {
      clearTimeout(timer)
    }
  }
}

/** Binds a socket; undefined when its name is taken. */
function bind(place: string): Promise<net.Server | undefined> {
  return new Promise((resolve, reject) => {
    const server = net.createServer()
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolve(undefined)
      else reject(error)
    })
    // Listening binds at once, so nobody sees the socket with other rights.
    const before = process.umask(UMASK)
    try {
      server.listen(place, () => {
        server.removeAllListeners('error')
        resolve(server)
      })
    } finally {
      process.umask(before)
    }
  })
}

/** True when a process listens at a socket, whatever it answers. */
function isAnswered(place: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = net.connect(place)
    socket.once('connect', () => {
      socket.destroy()
      resolve(refuseForeign(place).then(() => true))
    })
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') resolve(false)
      // Its queue is full: it is there.
      else if (error.code === 'EAGAIN') resolve(true)
      else reject(error)
    })
  })
}

/**
 * Removes a socket that nobody answers at. One process at a time does that, under a lock: another might remove the socket
 * that has just taken its place.
 */
async function removeStale(place: string): Promise<void> {
  const lock = `${place}.lock`
  try {
    await (await open(lock, 'wx')).close()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    const { mtimeMs = Date.now() } = (await stat(lock).catch(() => undefined)) ?? {}
    if (Date.now() - mtimeMs > LOCK_MS) await unlink(lock).catch(() => {})
    return pause(AGAIN_MS)
  }
  try {
    // A socket is bound a moment before it is answered.
    await pause(AGAIN_MS)
    if (await isAnswered(place)) return
    const status = await lstat(place).catch(() => undefined)
    if (status?.isSocket() === false) throw new PeerlineError('ERR_PEERLINE_FILE', inTheWay(place))
    if (status !== undefined) await unlink(place)
  } finally {
    await unlink(lock).catch(() => {})
  }
}

/** Makes `name` a link to `target`, whatever link it was. */
async function relink(target: string, name: string): Promise<void> {
  const link = `${name}.${randomUUID()}`
  await symlink(target, link)
  await rename(link, name)
}

function untilGone<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(abortError(signal, 'answering'))
    if (signal.aborted) onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    promise
      .then(resolve, (error: unknown) => reject(asPeerlineError(error, 'ERR_PEERLINE_REMOTE')))
      .finally(() => {
        signal.removeEventListener('abort', onAbort)
      })
  })
}

function closed(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_CLOSED', 'the command has ended')
}

const inTheWay = (place: string): string => `${place} is no socket, and stands where one is to be`
