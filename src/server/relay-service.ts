/**
 * The relay: peers reserve, mint circuits by themselves, and the two ends of a circuit are joined, unread.
 *
 * - It never dials anybody: both ends come to it, so it cannot be made to reach into a network.
 * - No reservation, no circuit. Reservations are for authenticated peers, and end with their session.
 * - Quotas in time, bytes and rate hold for every circuit; counts hold for every reservation and for the whole.
 * - Back-pressure goes straight through: what one end does not take, the other is not asked for.
 * - Once it is moving, it takes no reservation and no circuit any more; what is joined, or half there, goes on until the end.
 */
import { randomBytes } from 'node:crypto'
import { fields, MessageKind, PROTOCOL_VERSION, toHex } from '../bytes/index.ts'
import { MAX_RELAY_MESSAGE_BYTES } from '../connect/index.ts'
import { type CircuitSide, type FramedPath, RefusedCode, readCircuit, verifyCircuit } from '../path/index.ts'
import type { StreamContext } from '../peer/index.ts'
import { MessageStream, type Session, type Stream, StreamCode } from '../session/index.ts'
import { leftMs, turnAway } from './moving.ts'
import { splice } from './splice.ts'

export interface RelayLimits {
  /** Reservations at once. @default 10_000 */
  readonly maxReservations?: number
  /** ms that a reservation is good for; peers renew at half of it. @default 3_600_000 (1 h) */
  readonly reservationMs?: number
  /** Circuits at once in one reservation, the waiting ones among them. @default 64 */
  readonly maxCircuits?: number
  /** ms that a circuit may last. @default 14_400_000 (4 h) */
  readonly circuitMs?: number
  /** Bytes that a circuit may carry, both ways together. @default 68_719_476_736 (64 GiB) */
  readonly circuitBytes?: number
  /** Bytes a second that a circuit may carry, each way. @default 134_217_728 (128 MiB/s, about 1 Gbit/s) */
  readonly bytesPerSecond?: number
}

const DEFAULTS: Required<RelayLimits> = {
  maxReservations: 10_000,
  reservationMs: 3_600_000,
  maxCircuits: 64,
  circuitMs: 14_400_000,
  circuitBytes: 68_719_476_736,
  bytesPerSecond: 134_217_728,
}

/** ms that one end waits for the other: the callee's approver may be a person; see ANSWER_TIMEOUT_MS. */
const OTHER_END_MS = 35_000

/** Token lifetimes beyond this are refused, so that the record of used ones stays small. */
const MAX_TOKEN_MS = 300_000

/** Used ends remembered for one reservation, about 200 bytes each: 30 new circuits a second at the usual lifetime. */
const MAX_USED_ENDS = 4_096

interface Reservation {
  readonly id: Uint8Array
  readonly secret: Uint8Array
  readonly messages: () => MessageStream
  expiresAt: number
  circuits: number
  /** Circuit ends that came, and when they may be forgotten: a token opens its end once. */
  readonly used: Map<string, number>
}

interface WaitingEnd {
  readonly path: FramedPath
  readonly side: CircuitSide
  readonly reservation: Reservation
  readonly timer: ReturnType<typeof setTimeout>
}

export class RelayService {
  readonly #limits: Required<RelayLimits>
  readonly #raw: boolean
  readonly #reservations = new Map<string, Reservation>()
  readonly #waiting = new Map<string, WaitingEnd>()
  readonly #circuits = new Set<() => void>()
  readonly #served = new WeakSet<Session>()
  /** ms on the monotonic clock when it ends. */
  #movingUntil: number | undefined
  /** A peer has left, or a circuit has ended. */
  onLeave: (() => void) | undefined

  /** @param raw the port takes plain TCP as well: nothing that speaks only HTTP stands in front of it */
  constructor(limits: RelayLimits = {}, raw = true) {
    this.#limits = { ...DEFAULTS, ...limits }
    this.#raw = raw
  }

  get reservations(): number {
    return this.#reservations.size
  }

  /** Joined circuits. */
  get circuits(): number {
    return this.#circuits.size
  }

  /** Nobody has a reservation, and no end of a circuit is here. */
  get idle(): boolean {
    return this.#reservations.size === 0 && this.#circuits.size === 0 && this.#waiting.size === 0
  }

  /** From now on nothing new is taken, and peers with reservations are told that it ends in `ms`. */
  move(ms: number): void {
    if (this.#movingUntil !== undefined) return
    this.#movingUntil = performance.now() + ms
    for (const { messages } of this.#reservations.values()) {
      messages()
        .send({ t: 'moving', ms })
        .catch(() => {})
    }
  }

  /** Serves one stream of a peer's session: a reservation is asked for on it, one in each session. */
  serve(stream: Stream, { session }: StreamContext): void {
    if (this.#movingUntil !== undefined) return turnAway(stream, this.#movingUntil, MAX_RELAY_MESSAGE_BYTES)
    if (this.#reservations.size >= this.#limits.maxReservations || this.#served.has(session)) {
      return stream.reset(StreamCode.BUSY)
    }
    this.#served.add(session)
    const reservation: Reservation = {
      id: new Uint8Array(randomBytes(16)),
      secret: new Uint8Array(randomBytes(32)),
      messages: () => messages,
      expiresAt: 0,
      circuits: 0,
      used: new Map(),
    }
    const key = toHex(reservation.id)
    this.#reservations.set(key, reservation)
    const messages = new MessageStream(stream, {
      maxBytes: MAX_RELAY_MESSAGE_BYTES,
      onMessage: (message) => {
        fields(message, 'relay request').oneOf('t', ['reserve'])
        if (this.#movingUntil !== undefined) {
          return void messages.send({ t: 'moving', ms: leftMs(this.#movingUntil) }).catch(() => {})
        }
        reservation.expiresAt = Date.now() + this.#limits.reservationMs
        const { id, secret } = reservation
        messages.send({ t: 'reserved', id, secret, ttl: this.#limits.reservationMs, raw: this.#raw }).catch(() => {})
      },
      onEnd: () => {
        this.#reservations.delete(key)
        this.#served.delete(session)
        if (!stream.done) stream.reset()
        this.onLeave?.()
      },
    })
  }

  /** Takes a path whose first message asked for a circuit; the path is paused. */
  onCircuit(path: FramedPath, message: Uint8Array): void {
    const { reservation: id, circuit, side, expiresAt } = readCircuit(message)
    const reservation = this.#reservations.get(toHex(id))
    if (reservation === undefined) return refuse(path, RefusedCode.UNKNOWN)
    if (!verifyCircuit(message, reservation.secret)) return refuse(path, RefusedCode.TOKEN)
    const now = Date.now()
    if (expiresAt < now || expiresAt > now + MAX_TOKEN_MS) return refuse(path, RefusedCode.EXPIRED)
    if (reservation.expiresAt < now) return refuse(path, RefusedCode.EXPIRED)
    for (const [end, until] of reservation.used) if (until < now) reservation.used.delete(end)
    const key = toHex(circuit)
    const end = `${key}${side}`
    if (reservation.used.has(end)) return refuse(path, RefusedCode.TOKEN)
    const other = this.#waiting.get(key)
    if (other === undefined) {
      if (this.#movingUntil !== undefined) return refuse(path, RefusedCode.BUSY)
      if (reservation.circuits >= this.#limits.maxCircuits || reservation.used.size >= MAX_USED_ENDS) {
        return refuse(path, RefusedCode.QUOTA)
      }
      reservation.used.set(end, expiresAt)
      return this.#wait(key, path, side, reservation)
    }
    if (other.side === side || other.reservation !== reservation) return refuse(path, RefusedCode.TOKEN)
    reservation.used.set(end, expiresAt)
    clearTimeout(other.timer)
    this.#waiting.delete(key)
    this.#join(other.path, path, reservation)
  }

  #wait(key: string, path: FramedPath, side: CircuitSide, reservation: Reservation): void {
    const leave = () => {
      clearTimeout(timer)
      if (this.#waiting.get(key)?.path !== path) return
      this.#waiting.delete(key)
      reservation.circuits--
      this.onLeave?.()
    }
    const timer = setTimeout(() => {
      leave()
      refuse(path, RefusedCode.ABSENT)
    }, OTHER_END_MS)
    reservation.circuits++
    this.#waiting.set(key, { path, side, reservation, timer })
    path.start({ message: () => {}, drain: () => {}, close: leave })
  }

  #join(first: FramedPath, second: FramedPath, reservation: Reservation): void {
    const joined = Uint8Array.of(PROTOCOL_VERSION, MessageKind.JOINED)
    first.send([joined])
    second.send([joined])
    const a = first.release()
    const b = second.release()
    const { circuitBytes, circuitMs, bytesPerSecond } = this.#limits
    // What was read already may pass the quota: then it has ended before there is anything to keep.
    let ended = false
    const end = splice(a.pipe, a.rest, b.pipe, b.rest, {
      maxBytes: circuitBytes,
      maxMs: circuitMs,
      bytesPerSecond,
      onEnd: () => {
        ended = true
        reservation.circuits--
        this.#circuits.delete(end)
        this.onLeave?.()
      },
    })
    if (!ended) this.#circuits.add(end)
  }

  /** Ends every circuit. */
  close(): void {
    for (const end of [...this.#circuits]) end()
    for (const { path, timer } of this.#waiting.values()) {
      clearTimeout(timer)
      path.destroy()
    }
    this.#waiting.clear()
  }
}

function refuse(path: FramedPath, code: number): void {
  path.send([Uint8Array.of(PROTOCOL_VERSION, MessageKind.REFUSED, code)])
  path.close()
}
