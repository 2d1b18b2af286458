/**
 * Simultaneous open: two peers dial each other at one moment, from and to ports whose NAT mappings are known, so that
 * each SYN meets a mapping, and a filter, that the other side's own SYN has opened (RFC 9293 section 3.5, figure 8;
 * RFC 6544 calls such a candidate "so").
 *
 *     A                 NAT A            NAT B                 B
 *     |-- SYN ------------>|==\      /===|<------------ SYN --|
 *     |                    |   \    /    |                    |      each NAT now expects the other side
 *     |<-- SYN ------------|<=======>====|---------- SYN ---->|
 *     |-- SYN,ACK -------->|============>|--------- SYN,ACK ->|      one connection, at both ends dialled
 *
 * - The local port is the one that the connection with the rendezvous leaves from: its mapping is known, and alive.
 * - A SYN that comes too early is dropped, or answered with RST: the next one, a moment later, finds the way open.
 *   Moments are jittered, so that two sides do not keep missing each other in step.
 * - An unanswered SYN is replaced by a fresh one at growing intervals: the system's own repetition takes a second.
 * - Who connected proves nothing: the session's ATTACH does, as on every path.
 */
import { setMaxListeners } from 'node:events'
import net from 'node:net'
import { abortError, PeerlineError } from '../errors.ts'
import { formatHostPort } from '../network/address.ts'

/** ms after which an unanswered SYN is replaced; doubled each time. Above almost every round trip, or none would end. */
const FIRST_REPLACE_MS = 400

/** ms before the next SYN after a refusal, plus up to as much at random; grows by half each time. */
const FIRST_RETRY_MS = 15

/** Refusals taken from one address before it counts as closed: about 4 s of trying. */
const MAX_REFUSALS = 10

/** ms for it all, when nothing else is said. */
export const PUNCH_TCP_MS = 4_000

export interface PunchTcpOptions {
  /** The port that is mapped, and that the other side was told of. @default another one for each address */
  readonly localPort?: number | undefined
  /** Where the other side's SYNs come from. */
  readonly remotes: readonly { readonly host: string; readonly port: number }[]
  /** Takes a connection. It may be called more than once, as only the other side may know which one it uses. */
  readonly onSocket: (socket: net.Socket) => void
  /** Ends the attempt; connections handed over stay. */
  readonly signal: AbortSignal
  /** ms for it all. @default 4_000 */
  readonly ms?: number
}

/**
 * Dials all of `remotes` until the signal ends it or the time is up. Resolves when nothing is under way any more.
 * @throws PeerlineError `ERR_PEERLINE_UNREACHABLE` when none of them connected, `ERR_PEERLINE_ADDRESS_IN_USE` when the
 *   local port cannot be used, or what the signal says
 */
export async function punchTcp(options: PunchTcpOptions): Promise<void> {
  const { remotes, signal, ms = PUNCH_TCP_MS } = options
  if (signal.aborted) throw abortError(signal, 'punching')
  // A signal of our own: there is a listener for each address, of which the caller's need not be warned.
  const stop = AbortSignal.any([signal])
  setMaxListeners(0, stop)
  const outcomes = await Promise.all(
    remotes.map((remote) => new Opening(remote, { ...options, signal: stop }, ms).done),
  )
  if (outcomes.includes('connected')) return
  if (signal.aborted) throw abortError(signal, 'punching')
  const failed = outcomes.find((outcome) => outcome instanceof PeerlineError)
  throw failed ?? new PeerlineError('ERR_PEERLINE_UNREACHABLE', 'no simultaneous open met the other side’s')
}

/** The SYNs to one address, one after the other. */
class Opening {
  /** How it ended. Never rejects. */
  readonly done: Promise<'connected' | PeerlineError>
  readonly #remote: { readonly host: string; readonly port: number }
  readonly #options: PunchTcpOptions
  readonly #deadline: ReturnType<typeof setTimeout>
  #settle!: (outcome: 'connected' | PeerlineError) => void
  #socket: net.Socket | undefined
  #timer: ReturnType<typeof setTimeout> | undefined
  #replaceMs = FIRST_REPLACE_MS
  #retryMs = FIRST_RETRY_MS
  #refusals = 0

  constructor(remote: { host: string; port: number }, options: PunchTcpOptions, ms: number) {
    this.#remote = remote
    this.#options = options
    this.done = new Promise((resolve) => {
      this.#settle = resolve
    })
    this.#deadline = setTimeout(() => this.#end(this.#failure('does not answer')), ms)
    options.signal.addEventListener('abort', this.#onAbort)
    this.#dial()
  }

  readonly #onAbort = (): void => this.#end(this.#failure('was not waited for'))

  #dial(): void {
    const { host, port } = this.#remote
    let socket: net.Socket
    try {
      const { localPort } = this.#options
      socket = net.connect({ host, port, noDelay: true, ...(localPort === undefined ? {} : { localPort }) })
    } catch (cause) {
      return this.#end(this.#failure('cannot be dialled', cause))
    }
    this.#socket = socket
    socket.on('error', (cause: NodeJS.ErrnoException) => {
      if (socket === this.#socket) this.#onError(cause)
    })
    socket.once('connect', () => {
      if (socket !== this.#socket) return
      this.#socket = undefined
      this.#end('connected')
      this.#options.onSocket(socket)
    })
    this.#timer = setTimeout(() => {
      this.#replaceMs *= 2
      this.#drop()
      this.#dial()
    }, jitter(this.#replaceMs))
  }

  #onError(cause: NodeJS.ErrnoException): void {
    this.#drop()
    const refused = cause.code === 'ECONNREFUSED' || cause.code === 'ECONNRESET'
    // Network unreachable, local port taken: no repetition mends that.
    if (!refused) {
      const code = cause.code?.startsWith('EADDR') ? 'ERR_PEERLINE_ADDRESS_IN_USE' : 'ERR_PEERLINE_UNREACHABLE'
      return this.#end(this.#failure(`cannot be dialled (${cause.code})`, cause, code))
    }
    if (++this.#refusals >= MAX_REFUSALS) return this.#end(this.#failure('refuses', cause))
    this.#timer = setTimeout(() => this.#dial(), jitter(this.#retryMs))
    this.#retryMs *= 1.5
  }

  /** Gives up the SYN on its way. */
  #drop(): void {
    clearTimeout(this.#timer)
    this.#socket?.destroy()
    this.#socket = undefined
  }

  #end(outcome: 'connected' | PeerlineError): void {
    this.#drop()
    clearTimeout(this.#deadline)
    this.#options.signal.removeEventListener('abort', this.#onAbort)
    this.#settle(outcome)
  }

  #failure(
    what: string,
    cause?: unknown,
    code: 'ERR_PEERLINE_UNREACHABLE' | 'ERR_PEERLINE_ADDRESS_IN_USE' = 'ERR_PEERLINE_UNREACHABLE',
  ): PeerlineError {
    const { host, port } = this.#remote
    return new PeerlineError(code, `${formatHostPort(host, port)} ${what}`, { cause })
  }
}

/** `ms` to twice as much. */
function jitter(ms: number): number {
  return ms * (1 + Math.random())
}
