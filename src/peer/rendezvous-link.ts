/**
 * A standing connection to one rendezvous: dialled, registered, reserved at its relay, and dialled again when lost.
 *
 *     waiting --its time has come, or somebody hurries--> dialling --registered--> online --session ended--> waiting
 *        \__________________________ failed ________________/                       |  ^
 *                                                          in doubt, or moving: dialling a replacement
 *
 * - Offline, one attempt is under way at a time; while signaling is urgent, a new one each second beside the older ones.
 * - Online, whoever hurries has the server asked whether it is still there, and a replacement dialled if the answer is not
 *   there at once. The first of the two that shows itself stays; between the old and the new nothing is offline.
 * - A server that goes away says so. It stays of use until it closes; whether another one serves its address already is
 *   tried once, at a moment of each peer's own, so that not all come at the same time.
 * - A crowd that lost a server together comes back spread over seconds: see `retry-schedule.ts`.
 */
import type { PinnedServerUrl } from '../connect/index.ts'
import { Reservation } from '../connect/index.ts'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import type { Session } from '../session/index.ts'
import { type OfferHandler, Rendezvous } from '../signaling/index.ts'
import { RetrySchedule } from './retry-schedule.ts'

/** ms for dialling, the handshake, registration and reservation together. */
const ONLINE_MS = 15_000

/** ms online after which an outage is over. A server that falls over whenever its peers come is not hurried by them. */
const STEADY_MS = 10_000

/** ms between attempts, or replacements, of those who hurry: a lost SYN is sent again after 1 s, and then after 3 and 7. */
const HURRY_MS = 1_000

/** Attempts under way at once: with one a second, each has 4 s, which is two slow handshakes. */
const MAX_ATTEMPTS = 4

/** ms within which the server was heard just now, and need not be asked. */
const FRESH_MS = 250

/** ms that a question may stay open, at the least, before the server is given up: one lost segment is sent again by then. */
const PATIENCE_MS = 1_000

/** Least ms that the answer may take before a replacement is dialled: else every healthy server would be dialled for nothing. */
const MIN_HEAD_START_MS = 20

/** Round trip assumed before one is measured, ms. */
const ASSUMED_RTT_MS = 100

/** The part of the time that a moving server stays within which its peers look for another: the rest is for what follows. */
const MOVE_WITHIN = 0.75

/** ms before a relay that was full, or ended our reservation, is asked again: half of it, or as much again, at random. */
const RESERVE_AGAIN_MS = 30_000

export interface RendezvousLinkOptions {
  readonly url: PinnedServerUrl
  readonly listed: boolean
  /** Dials the server; `localPort`: the port that it left from, when that was ours to choose. */
  readonly dial: (
    url: PinnedServerUrl,
    signal: AbortSignal,
  ) => Promise<{ session: Session; localPort: number | undefined }>
  readonly onOffer: OfferHandler
  /** Registered, maybe in place of another registration, and seen from another address. */
  readonly onOnline: () => void
  readonly onOffline: (error: PeerlineError, retryMs: number) => void
  /** The server is going away: what is relayed by it should find another way. Called once for each connection. */
  readonly onMoving?: () => void
  /** True while somebody cannot do without signaling: asked whenever it matters, at most once a second. @default never */
  readonly urgent?: () => boolean
}

/** One registered connection. */
interface Connection {
  readonly session: Session
  readonly localPort: number | undefined
  readonly rendezvous: Rendezvous
  reservation: Reservation | undefined
}

/** One attempt at a connection. */
interface Attempt {
  readonly stop: AbortController
  /** Once it has been dialled. */
  session: Session | undefined
  /** ms within which the server goes away, once it has said so. */
  movingMs: number | undefined
  /** The relay is one, and may be asked again. */
  reservable: boolean
}

/** The server was asked whether it is there. */
interface Doubt {
  readonly asked: AbortController
  readonly replaceTimer: ReturnType<typeof setTimeout>
  readonly patienceTimer: ReturnType<typeof setTimeout>
}

export class RendezvousLink {
  /** Without the peer id. */
  readonly address: string
  readonly host: string
  readonly port: number
  readonly #options: RendezvousLinkOptions
  /** What all registrations of this link have in common. */
  readonly #link = Rendezvous.newLink()
  readonly #schedule = new RetrySchedule()
  #closed = false
  #online: Connection | undefined
  #onlineAt = 0
  #moving = false
  /** Those under way, the oldest first. */
  readonly #attempts = new Set<Attempt>()
  /** When the last one was started. */
  #startedAt = Number.NEGATIVE_INFINITY
  #nextTimer: ReturnType<typeof setTimeout> | undefined
  #nextAt = 0
  #doubt: Doubt | undefined
  #doubtedAt = Number.NEGATIVE_INFINITY
  #moveTimer: ReturnType<typeof setTimeout> | undefined
  #reserveTimer: ReturnType<typeof setTimeout> | undefined

  constructor(options: RendezvousLinkOptions) {
    this.#options = options
    this.address = options.url.address
    this.host = options.url.host
    this.port = options.url.port
    this.#start()
  }

  /** The registration, while online. */
  get rendezvous(): Rendezvous | undefined {
    return this.#online?.rendezvous
  }

  /** The reservation, while online at a server that is a relay too. */
  get reservation(): Reservation | undefined {
    return this.#online?.reservation
  }

  /** The local port of the connection, while online. */
  get localPort(): number | undefined {
    return this.#online?.localPort
  }

  /** Round trip to the server, ms. */
  get rttMs(): number | undefined {
    return this.#online?.session.rttMs
  }

  /** The server is going away. Signals pass until it is gone; nothing new should be built on its relay. */
  get moving(): boolean {
    return this.#moving
  }

  /**
   * Somebody needs signaling now. Offline, the server is dialled at once; online, it has to show that it is there. May be
   * called as often as is convenient: what it sets off happens once a second at most.
   */
  hurry(): void {
    if (this.#closed) return
    if (this.#online === undefined) this.#startBy(this.#startedAt + HURRY_MS)
    else this.#ask(this.#online)
  }

  /** Ends the link; its session is closed with the others of the peer. */
  close(): void {
    this.#closed = true
    this.#stopTimers()
    this.#endAttempts()
    const session = this.#online?.session
    // Nobody opens it another path: a goodbye would wait for one in vain.
    if (session?.path === undefined) session?.abort(this.#closedError('was closed'))
  }

  // ---- attempts ----

  #start(): void {
    const attempt: Attempt = {
      stop: new AbortController(),
      session: undefined,
      movingMs: undefined,
      reservable: true,
    }
    this.#attempts.add(attempt)
    this.#startedAt = performance.now()
    this.#connect(attempt).then(
      (connection) => this.#won(attempt, connection),
      (error) => this.#failed(attempt, asPeerlineError(error, 'ERR_PEERLINE_UNREACHABLE')),
    )
  }

  async #connect(attempt: Attempt): Promise<Connection> {
    const { url, dial, listed, onOffer } = this.#options
    const signal = AbortSignal.any([attempt.stop.signal, AbortSignal.timeout(ONLINE_MS)])
    const { session, localPort } = await dial(url, signal)
    attempt.session = session
    try {
      const onMoving = (ms: number) => this.#onMoving(attempt, ms)
      const name = `rendezvous ${url.address}`
      const [rendezvous, reservation] = await Promise.all([
        Rendezvous.register(session, { name, listed, onOffer, link: this.#link, onMoving, signal }),
        // A server need not be a relay, and a relay may be full: the rendezvous is of use all the same.
        this.#reserve(attempt, session, signal),
      ])
      if (session.state === 'closed') throw this.#closedError('closed the session')
      return { session, localPort, rendezvous, reservation }
    } catch (error) {
      session.abort(asPeerlineError(error, 'ERR_PEERLINE_UNREACHABLE'))
      throw error
    }
  }

  /** Never rejects. */
  async #reserve(attempt: Attempt, session: Session, signal: AbortSignal): Promise<Reservation | undefined> {
    const onMoving = (ms: number) => this.#onMoving(attempt, ms)
    try {
      return await Reservation.reserve(session, this.address, { onMoving, signal })
    } catch (error) {
      if ((error as PeerlineError).code === 'ERR_PEERLINE_NO_PROTOCOL') attempt.reservable = false
      return undefined
    }
  }

  #won(attempt: Attempt, connection: Connection): void {
    const { session, rendezvous, reservation } = connection
    if (!this.#attempts.has(attempt)) return session.abort(this.#closedError('is not needed any more'))
    if (session.state === 'closed') return this.#failed(attempt, this.#closedError('closed the session'))
    this.#attempts.delete(attempt)
    const before = this.#online
    this.#stopTimers()
    this.#endAttempts()
    this.#online = connection
    // Replaced: it was never offline in between.
    if (before === undefined) this.#onlineAt = performance.now()
    this.#moving = false
    session.addEventListener('close', ({ detail }) => {
      if (this.#online === connection) this.#lost(detail.error ?? this.#closedError('closed the session'))
    })
    // A registration may end by itself: nobody could dial us then, so both begin anew.
    void rendezvous.ended.then((error) => session.abort(error))
    this.#keepReserved(attempt, connection, reservation)
    if (before !== undefined) this.#leave(before, connection)
    this.#options.onOnline()
    if (attempt.movingMs !== undefined) this.#onMoving(attempt, attempt.movingMs)
  }

  #failed(attempt: Attempt, error: PeerlineError): void {
    // A replacement that fails says nothing of the server: the one that it was to replace does.
    if (!this.#attempts.delete(attempt) || this.#online !== undefined || this.#attempts.size > 0) return
    this.#wait(error)
  }

  #lost(error: PeerlineError): void {
    this.#online = undefined
    this.#moving = false
    this.#stopTimers()
    if (this.#closed) return
    if (performance.now() - this.#onlineAt >= STEADY_MS) this.#schedule.reset()
    if (this.#attempts.size === 0) return this.#wait(error)
    // Its replacement is on the way already.
    if (this.#urgent) this.#startBy(this.#startedAt + HURRY_MS)
    this.#options.onOffline(error, 0)
  }

  #wait(error: PeerlineError): void {
    const due = performance.now() + this.#schedule.next()
    const at = this.#startBy(this.#urgent ? Math.min(due, this.#startedAt + HURRY_MS) : due)
    this.#options.onOffline(error, Math.max(0, at - performance.now()))
  }

  /** Starts an attempt at `at`, monotonic ms, or sooner when that is planned already. @returns when */
  #startBy(at: number): number {
    if (this.#nextTimer !== undefined && this.#nextAt <= at) return this.#nextAt
    clearTimeout(this.#nextTimer)
    this.#nextAt = at
    this.#nextTimer = setTimeout(() => this.#onTime(), Math.max(0, at - performance.now()))
    return at
  }

  #onTime(): void {
    this.#nextTimer = undefined
    const urgent = this.#urgent
    // One that is under way has time, unless somebody hurries.
    if (this.#attempts.size > 0 && !urgent) return
    if (this.#attempts.size >= MAX_ATTEMPTS) {
      // The oldest stays: on a slow way it is the one that will get there.
      const [, second] = this.#attempts
      this.#end(second!)
    }
    this.#start()
    if (urgent) this.#startBy(this.#startedAt + HURRY_MS)
  }

  get #urgent(): boolean {
    return this.#options.urgent?.() ?? false
  }

  #end(attempt: Attempt): void {
    this.#attempts.delete(attempt)
    attempt.stop.abort(this.#closedError('is not needed any more'))
  }

  #endAttempts(): void {
    for (const attempt of [...this.#attempts]) this.#end(attempt)
  }

  // ---- is it still there? ----

  #ask(connection: Connection): void {
    const now = performance.now()
    if (connection.rendezvous.silentMs < FRESH_MS || now - this.#doubtedAt < HURRY_MS) return
    this.#doubtedAt = now
    // Asked already, and time is running: a SYN of the replacement may be lost like any other.
    if (this.#doubt !== undefined) return this.#replace()
    const { rttMs = ASSUMED_RTT_MS } = connection.session
    const headStart = Math.min(FRESH_MS, Math.max(MIN_HEAD_START_MS, 1.5 * rttMs))
    const asked = new AbortController()
    this.#doubt = {
      asked,
      replaceTimer: setTimeout(() => this.#replace(), headStart),
      // A process that was stopped wakes to its timers first: what waits in its sockets decides, not the clock.
      patienceTimer: setTimeout(() => setImmediate(() => this.#giveUp(connection)), Math.max(PATIENCE_MS, 4 * rttMs)),
    }
    connection.rendezvous.refresh({ signal: asked.signal }).then(
      () => this.#answered(connection),
      // Ended, or not asked any more: whoever ended it has seen to the rest.
      () => {},
    )
  }

  #answered(connection: Connection): void {
    this.#stopDoubting()
    if (this.#online !== connection || this.#moving) return
    // Of two registrations the rendezvous takes the newest for the one that lives. One that is dropped may have come later.
    const registered = [...this.#attempts].some(({ session }) => session !== undefined)
    this.#endAttempts()
    if (!registered) return
    connection.rendezvous.refresh({ signal: AbortSignal.timeout(ONLINE_MS) }).catch(() => {})
  }

  #giveUp(connection: Connection): void {
    if (this.#online !== connection || this.#doubt === undefined) return
    connection.session.abort(new PeerlineError('ERR_PEERLINE_TIMEOUT', `${this.address} does not answer any more`))
  }

  #stopDoubting(): void {
    if (this.#doubt === undefined) return
    const { asked, replaceTimer, patienceTimer } = this.#doubt
    this.#doubt = undefined
    clearTimeout(replaceTimer)
    clearTimeout(patienceTimer)
    asked.abort()
  }

  /** Dials a connection that is to take the place of the one there is. */
  #replace(): void {
    if (this.#attempts.size < MAX_ATTEMPTS) this.#start()
  }

  /** Another connection has taken its place: what waits for answers asks for them there. */
  #leave(before: Connection, now: Connection): void {
    before.rendezvous.handOver(now.rendezvous)
    // One that answers is told goodbye; of the other it is not known that it lives.
    if (before.rendezvous.moving) void before.session.close({ signal: AbortSignal.timeout(ONLINE_MS) })
    else before.session.abort(this.#closedError('was replaced'))
  }

  // ---- the relay, and moving ----

  /** The server goes away in `ms` at the latest. */
  #onMoving(attempt: Attempt, ms: number): void {
    attempt.movingMs = ms
    if (this.#moving || this.#online === undefined || this.#online.session !== attempt.session) return
    this.#moving = true
    // Another one may serve this address by then, as behind a balancer. If it is the same one, it refuses, and we stay.
    this.#moveTimer = setTimeout(() => this.#replace(), Math.random() * ms * MOVE_WITHIN)
    this.#options.onMoving?.()
  }

  #keepReserved(attempt: Attempt, connection: Connection, reservation: Reservation | undefined): void {
    if (this.#online !== connection || attempt.movingMs !== undefined || !attempt.reservable) return
    connection.reservation = reservation
    if (reservation !== undefined) {
      void reservation.ended.then(() => this.#keepReserved(attempt, connection, undefined))
      return
    }
    this.#reserveTimer = setTimeout(
      async () => {
        const again = await this.#reserve(attempt, connection.session, AbortSignal.timeout(ONLINE_MS))
        this.#keepReserved(attempt, connection, again)
      },
      RESERVE_AGAIN_MS * (0.5 + Math.random()),
    )
  }

  // ---- the end ----

  #stopTimers(): void {
    clearTimeout(this.#nextTimer)
    this.#nextTimer = undefined
    clearTimeout(this.#moveTimer)
    clearTimeout(this.#reserveTimer)
    this.#stopDoubting()
  }

  #closedError(what: string): PeerlineError {
    return new PeerlineError('ERR_PEERLINE_CLOSED', `the link with ${this.address} ${what}`)
  }
}
