/**
 * Reservations: a peer's standing permission at a relay, from which it mints circuits by itself.
 *
 *     peer -> relay    { t: 'reserve' }
 *     relay -> peer    { t: 'reserved', id 16, secret 32, ttl (ms), raw }          or the stream is reset
 *
 * `raw`: the relay's port takes circuits over plain TCP too, which cost a relay a tenth of what WebSocket ones do.
 *
 * One stream of the session with the relay; a new 'reserve' on it renews. The reservation ends with the session.
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

export class Reservation {
  /** Where others find the relay. */
  readonly address: string
  readonly #messages: MessageStream
  #id: Uint8Array = new Uint8Array(0)
  #secret: Uint8Array = new Uint8Array(0)
  /** Where the ends of its circuits come to. */
  #circuitAddress: string
  #timer: ReturnType<typeof setTimeout> | undefined
  #live = false
  #tell: { resolve(): void; reject(error: PeerlineError): void } | undefined
  #ended: PeerlineError | undefined

  private constructor(stream: Awaited<ReturnType<Session['open']>>, address: string) {
    this.address = address
    this.#circuitAddress = address
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
   * @throws PeerlineError `ERR_PEERLINE_NO_PROTOCOL` when the peer is no relay, `ERR_PEERLINE_BUSY` when it is full, …
   */
  static async reserve(session: Session, address: string, options: { signal: AbortSignal }): Promise<Reservation> {
    const reservation = new Reservation(await session.open(RELAY_PROTOCOL, options), address)
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

  /** False once the relay or the session has ended it. */
  get live(): boolean {
    return this.#live
  }

  /** A new circuit: our CIRCUIT message, and the offer for the other side. */
  mint(): { own: Uint8Array; offer: CircuitOffer } {
    const [own, theirs] = mintCircuit(this.#id, this.#secret, Date.now() + CIRCUIT_LIFETIME_MS)
    return { own, offer: { relay: this.#circuitAddress, token: theirs } }
  }

  #onReply(message: unknown): void {
    const all = fields(message, 'reservation')
    all.oneOf('t', ['reserved'])
    this.#id = copyBytes(all.bytes('id', { length: 16 }))
    this.#secret = copyBytes(all.bytes('secret', { length: 32 }))
    const ttl = all.integer('ttl', { min: MIN_TTL_MS, max: MAX_TTL_MS })
    const { scheme, host, port } = parseServerAddress(this.address)
    if (scheme === 'ws' && all.boolean('raw')) this.#circuitAddress = `tcp://${formatHostPort(host, port)}`
    this.#live = true
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#messages.send({ t: 'reserve' }).catch((error) => this.#end(error))
    }, ttl / 2)
    this.#timer.unref?.()
    this.#tell?.resolve()
  }

  #end(error: PeerlineError): void {
    if (this.#ended !== undefined) return
    this.#ended = error
    this.#live = false
    clearTimeout(this.#timer)
    this.#tell?.reject(error)
  }
}
