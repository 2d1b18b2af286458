/**
 * Reservations: a peer's standing permission at a relay, from which it mints circuits by itself.
 *
 *     peer -> relay    { t: 'reserve' }
 *     relay -> peer    { t: 'reserved', id 16, secret 32, ttl (ms), raw }          or the stream is reset
 *     relay -> peer    { t: 'moving', ms }     it goes away, in so many ms at the latest: no new circuits from now on
 *
 * `raw`: the relay's port takes circuits over plain TCP too, which cost a relay a tenth of what WebSocket ones do.
 *
 * One stream of the session with the relay; a new 'reserve' on it renews. The reservation ends with the session. Kinds that
 * only a later version knows are passed over.
 */
import { copyBytes, fields } from '../bytes/index.ts'
import { abortError, PeerlineError } from '../errors.ts'
import { formatHostPort } from '../network/address.ts'
import { mintCircuit } from '../path/index.ts'
import { MessageStream, type Session } from '../session/index.ts'
import type { CircuitOffer } from './candidate.ts'
import { parseServerAddress } from './url.ts'

export const RELAY_PROTOCOL = '/peerline/relay/1'

/** Bytes of the largest message of the protocol. */
export const MAX_RELAY_MESSAGE_BYTES = 1_024

/** ms that a minted token is good for: the callee's approver may be a person, and then it dials at once. */
export const CIRCUIT_LIFETIME_MS = 60_000

/** Longest and shortest reservation taken from a relay, ms: a day, and what leaves time to renew. */
const MAX_TTL_MS = 86_400_000
const MIN_TTL_MS = 10_000

/** Longest time that a relay may take to go away, ms: an hour. */
const MAX_MOVING_MS = 3_600_000

/** Characters of the name of a kind of message. */
const MAX_KIND_LENGTH = 32

export interface ReserveOptions {
  /** The relay is going away, in `ms` at the latest: circuits that are joined go on until then. Called once. */
  readonly onMoving?: (ms: number) => void
  readonly signal: AbortSignal
}

export class Reservation {
  /** Where others find the relay. */
  readonly address: string
  readonly #messages: MessageStream
  #id: Uint8Array = new Uint8Array(0)
  #secret: Uint8Array = new Uint8Array(0)
  /** Where the ends of its circuits come to. */
  #circuitAddress: string
  /** Resolves with the reason when the reservation has ended, be it with its session still open. */
  readonly ended: Promise<PeerlineError>
  #tellEnded!: (error: PeerlineError) => void
  readonly #onMoving: ((ms: number) => void) | undefined
  #timer: ReturnType<typeof setTimeout> | undefined
  /** When it ends, unless it is renewed; ms since the epoch, as the relay counts. */
  #expiresAt = 0
  #moving = false
  #tell: { resolve(): void; reject(error: PeerlineError): void } | undefined
  #ended: PeerlineError | undefined

  private constructor(
    stream: Awaited<ReturnType<Session['open']>>,
    address: string,
    onMoving: ReserveOptions['onMoving'],
  ) {
    this.address = address
    this.#circuitAddress = address
    this.#onMoving = onMoving
    this.ended = new Promise((resolve) => {
      this.#tellEnded = resolve
    })
    this.#messages = new MessageStream(stream, {
      maxBytes: MAX_RELAY_MESSAGE_BYTES,
      onMessage: (message) => this.#onReply(message),
      onEnd: (error) =>
        this.#end(error ?? new PeerlineError('ERR_PEERLINE_CLOSED', `${address} ended the reservation`)),
    })
  }

  /**
   * Reserves at the relay at the other end of `session`, and keeps renewing.
   * @param address where the relay was reached, for others to dial
   * @throws PeerlineError `ERR_PEERLINE_NO_PROTOCOL` when the peer is no relay, `ERR_PEERLINE_BUSY` when it is full or going
   *   away, …
   */
  static async reserve(session: Session, address: string, options: ReserveOptions): Promise<Reservation> {
    const reservation = new Reservation(await session.open(RELAY_PROTOCOL, options), address, options.onMoving)
    const reserved = new Promise<void>((resolve, reject) => {
      reservation.#tell = { resolve, reject }
    })
    const onAbort = () => reservation.#end(abortError(options.signal, `reserving at ${address}`))
    options.signal.addEventListener('abort', onAbort)
    try {
      if (reservation.#ended !== undefined) throw reservation.#ended
      await reservation.#messages.send({ t: 'reserve' })
      await reserved
    } finally {
      options.signal.removeEventListener('abort', onAbort)
      reservation.#tell = undefined
      reserved.catch(() => {})
    }
    return reservation
  }

  /** True while new circuits may be minted: false when it has ended, was not renewed in time, or the relay is going away. */
  get live(): boolean {
    return this.#ended === undefined && !this.#moving && Date.now() < this.#expiresAt
  }

  /** The relay is going away; circuits that are joined go on for a while. */
  get moving(): boolean {
    return this.#moving
  }

  /** A new circuit: our CIRCUIT message, and the offer for the other side. */
  mint(): { own: Uint8Array; offer: CircuitOffer } {
    const [own, theirs] = mintCircuit(this.#id, this.#secret, Date.now() + CIRCUIT_LIFETIME_MS)
    return { own, offer: { relay: this.#circuitAddress, token: theirs } }
  }

  #onReply(message: unknown): void {
    const all = fields(message, 'reservation')
    const kind = all.text('t', { max: MAX_KIND_LENGTH })
    if (kind === 'moving') return this.#move(all.integer('ms', { max: MAX_MOVING_MS }))
    if (kind !== 'reserved' || this.#moving) return
    this.#id = copyBytes(all.bytes('id', { length: 16 }))
    this.#secret = copyBytes(all.bytes('secret', { length: 32 }))
    const ttl = all.integer('ttl', { min: MIN_TTL_MS, max: MAX_TTL_MS })
    const { scheme, host, port } = parseServerAddress(this.address)
    if (scheme === 'ws' && all.boolean('raw')) this.#circuitAddress = `tcp://${formatHostPort(host, port)}`
    this.#expiresAt = Date.now() + ttl
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#messages.send({ t: 'reserve' }).catch((error) => this.#end(error))
    }, ttl / 2)
    this.#timer.unref?.()
    this.#tell?.resolve()
  }

  #move(ms: number): void {
    if (this.#moving) return
    this.#moving = true
    clearTimeout(this.#timer)
    // Said to whoever comes now, it is a refusal.
    if (this.#tell !== undefined && this.#expiresAt === 0) {
      const what = `${this.address} is going away, and takes no more reservations`
      return this.#end(new PeerlineError('ERR_PEERLINE_BUSY', what))
    }
    this.#onMoving?.(ms)
  }

  #end(error: PeerlineError): void {
    if (this.#ended !== undefined) return
    this.#ended = error
    clearTimeout(this.#timer)
    this.#messages.reset()
    this.#tellEnded(error)
    this.#tell?.reject(error)
  }
}
