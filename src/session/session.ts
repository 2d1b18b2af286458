/**
 * A session: the authenticated, encrypted association of two peers. It outlives its paths.
 *
 *     connecting --a path is proven--> open --close()/CLOSE--> closing --> closed
 *          |          every path lost | ^ another is proven                  ^
 *          |                          v |                                    |
 *          |                     reconnecting --not in time------------------+
 *          \____________ no path in time, protocol broken ___________________/
 *
 * Records come from the paths through the receiver to the streams; frames and bulk go from the streams through the outbox
 * to the path in use. This file joins those parts; each of them stands in its own.
 */
import { toHex } from '../bytes/index.ts'
import { abortError, type ErrorCode, isErrorCode, isPeerlineError, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { type Path, type PathKind, turns } from '../path/index.ts'
import { whenAborted } from '../pause.ts'
import { Pacer } from './byte-rate.ts'
import { Datagrams } from './datagrams.ts'
import { TypedEventTarget } from './events.ts'
import { Inflow } from './inflow.ts'
import { MemoryBudget, type MemoryShare } from './memory-budget.ts'
import { Outbox } from './outbox.ts'
import type { PathEvent, PathInfo } from './path-log.ts'
import { PathSet, type PathSetHost } from './path-set.ts'
import type { KeepAlive } from './path-watch.ts'
import type { PathState } from './paths.ts'
import { Receiver } from './receiver.ts'
import type { SessionEvents, SessionOptions, SessionState } from './session-options.ts'
import type { Stream } from './stream.ts'
import { DEFAULT_MAX_STREAMS, StreamTable } from './stream-table.ts'
import type { Explanation, WhyReport } from './why.ts'

/** ms for the first path to be proven before the session fails with `ERR_PEERLINE_NO_PATH`. */
const FIRST_PATH_MS = 15_000

/**
 * ms that a session is `reconnecting` before it fails with `ERR_PEERLINE_PATH_LOST`, when nothing else is said: a train in a
 * tunnel, a router that starts again, a laptop carried to another room.
 */
const RECONNECT_MS = 60_000

/** ms that `close` gives data on its way, and then its farewell, before the paths are cut. */
const CLOSE_DRAIN_MS = 10_000
const CLOSE_FAREWELL_MS = 1_000

/** Round trip assumed before one is measured, ms: RFC 9002 section 6.2.2 assumes 333, our paths attach faster. */
const ASSUMED_RTT_MS = 100

export class Session extends TypedEventTarget<SessionEvents> {
  /** The other side. */
  readonly peer: PeerId
  /** Public name of the session, hex. */
  readonly id: string
  /** True at the side that dialled. */
  readonly initiator: boolean

  #reconnectMs: number
  readonly #explain: (() => Explanation) | undefined
  readonly #opening: SessionOptions['opening']
  readonly #paths: PathSet
  readonly #receiver: Receiver
  readonly #outbox: Outbox
  readonly #streams: StreamTable
  readonly #memory: MemoryShare
  readonly #outflow: Pacer | undefined
  readonly #inflow: Inflow | undefined
  #datagrams: Datagrams | undefined
  #state: SessionState = 'connecting'
  #error: PeerlineError | undefined
  readonly #ended: Promise<void>
  #tellEnded!: () => void
  /** True once the other side was told of the end: nothing is left that another path could carry. */
  #farewell = false
  /** Wakes whoever waits for the outbox to drain. */
  #onDrained: (() => void) | undefined
  #pumpSet = false
  /** It was closed before any path was proven. */
  #neverOpen = false
  #pathlessTimer: ReturnType<typeof setTimeout> | undefined
  #pathlessSince = 0

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` for a timing out of bounds, or a rate that is none */
  constructor(options: SessionOptions) {
    super()
    const { keys, rate, rekey, onStream } = options
    this.peer = options.peer
    this.id = toHex(keys.sessionId)
    this.initiator = keys.initiator
    this.#reconnectMs = options.reconnectMs ?? RECONNECT_MS
    this.#explain = options.explain
    this.#opening = options.opening
    this.#paths = new PathSet(keys, this.#pathHost, options.timing)
    this.#ended = new Promise((resolve) => {
      this.#tellEnded = resolve
    })
    this.#memory = (options.memory ?? new MemoryBudget()).share()
    this.#outflow = rate?.out && new Pacer(rate.out, () => this.#pump())
    this.#inflow = rate?.in && new Inflow(rate.in, onStream, (run) => this.#guard(run))
    this.#streams = new StreamTable({
      initiator: keys.initiator,
      maxStreams: options.maxStreams ?? DEFAULT_MAX_STREAMS,
      onStream,
      memory: this.#memory,
      outflow: this.#outflow,
      inflow: this.#inflow,
      frames: () => this.#outbox.frames,
      pump: () => this.#pump(),
      schedulePump: () => this.#schedulePump(),
      rttMs: () => this.#paths.active?.rttMs ?? ASSUMED_RTT_MS,
    })
    this.#receiver = new Receiver({
      key: keys.receive,
      memory: this.#memory,
      paths: () => this.#paths,
      outbox: () => this.#outbox,
      streams: () => this.#streams,
      closing: () => this.#state === 'closing',
      closed: this.#isClosed,
      onAck: (number) => this.#onAck(number),
      onPong: (path) => this.#datagrams?.onPong(path),
      onCandidates: (bytes) => this.emit('candidates', bytes),
      onClose: (code, message) => this.#onClose(code, message),
      onDatagram: (data) => this.#datagrams?.onDatagram(data),
    })
    this.#outbox = new Outbox(keys.send, this.#streams, { rekey, memory: this.#memory, pacer: this.#outflow })
    this.#pathlessTimer = setTimeout(() => this.#pathless(), options.firstPathMs ?? FIRST_PATH_MS)
  }

  // ---- what users see ----

  /**
   * The kind of the path that carries the data; undefined before the first and between two. One that is merely tried for
   * a moment, to see whether it is faster, does not show here.
   */
  get path(): PathKind | undefined {
    const { settled } = this.#paths
    return settled?.stage === 'proven' ? settled.path.kind : undefined
  }

  /** Where the other end of the path in use is, for people. */
  get remote(): string | undefined {
    return this.#paths.settled?.path.remote
  }

  /** Kinds of all proven paths that answer. */
  get paths(): PathKind[] {
    return this.#paths.proven
  }

  /** Every path there is and how it is doing, as plain data. */
  get pathInfo(): readonly PathInfo[] {
    return this.#paths.info
  }

  /** The last 32 things that happened to paths, oldest first, as plain data. */
  get pathHistory(): readonly PathEvent[] {
    return this.#paths.events
  }

  /** Why the path in use is the one in use, what else was tried, and what would help. */
  why(): WhyReport {
    const { peer, path, pathInfo: paths, pathHistory: history } = this
    const nothing: Explanation = {
      attempts: [],
      signaling: [],
      local: undefined,
      remote: undefined,
      reasons: [],
      advice: [],
    }
    return { peer, path, ...(this.#explain?.() ?? nothing), paths, history }
  }

  /** Last measured round trip on the path in use, ms. */
  get rttMs(): number | undefined {
    return this.#paths.settled?.rttMs
  }

  /** ms of silence after which an idle path is pinged, by kind: 20 s. */
  get keepAliveMs(): KeepAlive {
    return this.#paths.keepAlive
  }

  /**
   * Kinds that are not named keep theirs. A mapping for UDP may live for less than 30 s.
   * @throws PeerlineError `ERR_PEERLINE_INVALID` outside of 1 s to 5 min
   */
  set keepAliveMs(ms: Partial<KeepAlive>) {
    this.#paths.setKeepAlive(ms)
  }

  get state(): SessionState {
    return this.#state
  }

  /**
   * @internal True while nothing answers on any path, or none is left: another one is wanted. One that has come since counts
   * when it is proven, for what opens may come to nothing.
   */
  get needsPath(): boolean {
    if (this.#state === 'closed' || this.#state === 'connecting') return false
    return this.#pathlessTimer !== undefined || this.#paths.trouble
  }

  /** Resolves when the session has ended. */
  get closed(): Promise<void> {
    return this.#ended
  }

  /** Streams open now. */
  get streams(): number {
    return this.#streams.size
  }

  /** Messages that may be lost. They are kept for a reader from the first time that this is asked for. */
  get datagrams(): Datagrams {
    if (this.#datagrams === undefined) {
      this.#datagrams = new Datagrams({
        check: () => this.#checkUsable(),
        schedulePump: () => this.#schedulePump(),
        sendLoose: (path, write) => this.#outbox.sendLoose(path, write),
        takeAck: this.#takeAck,
        ping: (path) => this.#paths.ping(path),
        outflow: this.#outflow,
        mayTake: (bytes) => this.#inflow?.takeDatagram(bytes) ?? true,
      })
      if (this.#isClosed()) this.#datagrams.end(this.#error, this.#endError())
    }
    return this.#datagrams
  }

  /** @internal The record key's epoch when sending. */
  get epoch(): number {
    return this.#outbox.epoch
  }

  /**
   * Opens a stream for `protocol`; data may be written at once. It waits while 256 of ours are open.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`, `ERR_PEERLINE_CLOSED` or what ended the session, what the signal
   *   says; `ERR_PEERLINE_DENIED`, `ERR_PEERLINE_BUSY` where our own firewall does not let us
   */
  async open(protocol: string, options: { signal?: AbortSignal } = {}): Promise<Stream> {
    if (options.signal?.aborted) throw abortError(options.signal, `opening ${protocol}`)
    this.#checkUsable()
    const { signal } = options
    if (this.#opening === undefined) return this.#streams.open(protocol, signal)
    const open = () => {
      this.#checkUsable()
      return this.#streams.open(protocol, signal)
    }
    return this.#opening({ protocol, signal, open })
  }

  /** Resolves when there is a path that works. @throws what ended the session, or what the signal says */
  async opened(options: { signal?: AbortSignal } = {}): Promise<void> {
    if (this.#state === 'open') return
    const { signal } = options
    if (signal?.aborted) throw abortError(signal, 'connecting')
    this.#checkUsable()
    await new Promise<void>((resolve, reject) => {
      const done = () => {
        this.removeEventListener('open', onOpen)
        this.removeEventListener('reconnected', onOpen)
        this.removeEventListener('close', onClose)
        signal?.removeEventListener('abort', onAbort)
      }
      const onOpen = () => {
        done()
        resolve()
      }
      const onClose = (event: CustomEvent<SessionEvents['close']>) => {
        done()
        reject(event.detail.error ?? this.#endError())
      }
      const onAbort = () => {
        done()
        reject(abortError(signal!, 'connecting'))
      }
      this.addEventListener('open', onOpen)
      this.addEventListener('reconnected', onOpen)
      this.addEventListener('close', onClose)
      whenAborted(signal, onAbort)
    })
  }

  /**
   * Ends the session in order: what was written arrives first, then the other side is told.
   * After 10 s, or when the signal fires, it is cut.
   */
  async close(options: { signal?: AbortSignal } = {}): Promise<void> {
    if (this.#state === 'closed') return
    if (this.#state === 'closing') return this.#ended
    this.#neverOpen = this.#state === 'connecting'
    this.#state = 'closing'
    // Nothing of ours is on its way, and there is nobody to say goodbye to: the other side learns it when it asks.
    if (this.#paths.size === 0 && this.#outbox.empty) return this.#finish(undefined)
    await this.#drained(CLOSE_DRAIN_MS, options.signal)
    if ((this.#state as string) === 'closed') return
    if (this.#paths.size === 0) return this.#pathless()
    this.#outbox.frames.close('', '')
    this.#farewell = this.#paths.active !== undefined
    this.#pump()
    await this.#drained(CLOSE_FAREWELL_MS, options.signal)
    this.#finish(undefined)
  }

  /** Ends the session at once with `error`; the other side is told if that is possible without waiting. */
  abort(error: PeerlineError): void {
    if (this.#state === 'closed') return
    this.#outbox.frames.close(error.code, error.message)
    try {
      const { active } = this.#paths
      if (active !== undefined) this.#outbox.pump(active, this.#takeAck)
    } catch {
      // What cannot be told any more is not told.
    }
    this.#finish(error)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  // ---- paths ----

  /** @internal Attaches an open path; the session may send on it at once. */
  attach(path: Path): void {
    if (this.#state === 'closed') path.destroy()
    else this.#paths.attach(path)
  }

  /**
   * @internal Takes a path whose first message, an ATTACH for this session, has been read.
   * @throws PeerlineError when it does not authenticate or was seen before
   */
  acceptAttach(path: Path, attach: Uint8Array): void {
    if (this.#state === 'closed') throw this.#endError()
    this.#paths.accept(path, attach)
  }

  /**
   * @internal Takes the path on which the handshake itself ran.
   * @param proven the other side's answer came on it
   * @param rttMs how long that took
   */
  adopt(path: Path, proven: boolean, rttMs?: number): void {
    if (this.#isClosed()) return path.destroy()
    const state = this.#paths.adopt(path, proven, rttMs)
    // What came right behind the handshake may have ended it already.
    if (!proven || !this.#paths.has(state)) return
    this.#opened(state)
    if (rttMs === undefined) return this.#paths.ping(state)
    // The other side takes the path for proven when it hears something sealed: what goes out in this turn, or else a ping.
    setImmediate(() => {
      if (this.#paths.has(state) && this.#outbox.inFlight === 0 && !this.#pumpSet) this.#paths.ping(state)
    })
  }

  /** @internal Asks every path now: one that does not answer within `patienceMs` is lost. */
  probe(patienceMs: number): void {
    this.#paths.probe(patienceMs)
  }

  /** @internal The other side hears nothing on the paths there are: they are asked, and new ones taken first meanwhile. */
  doubt(): void {
    this.#paths.doubt()
  }

  /** @internal Closes the paths of a kind in order, where another one stays. */
  letGo(kind: PathKind): void {
    this.#paths.letGo(kind)
  }

  /** @internal These addresses (`host:port`) are about to be dialled again, from the port that they were dialled from. */
  vacate(remotes: ReadonlySet<string>): void {
    if (!this.#isClosed()) this.#paths.vacate(remotes)
  }

  /** @internal The paths to an address will end soon: others come before them. */
  leave(remote: (address: string) => boolean): void {
    if (!this.#isClosed()) this.#paths.leave(remote)
  }

  /** @internal Nobody looks for ways any more: without a path that works it ends after `ms`. */
  seekNoMore(ms: number): void {
    this.#reconnectMs = Math.min(this.#reconnectMs, ms)
    if (this.#pathlessTimer === undefined || this.#isClosed()) return
    clearTimeout(this.#pathlessTimer)
    this.#pathlessTimer = setTimeout(() => this.#pathless(), this.#reconnectMs)
  }

  /** @internal The session has ended at the other side, which cannot be told of anything any more. */
  endedThere(error: PeerlineError | undefined): void {
    this.#finish(error)
  }

  /** @internal Tells the other side more ways to reach us. */
  sendCandidates(bytes: Uint8Array): void {
    if (this.#state !== 'open' && this.#state !== 'connecting') return
    this.#outbox.frames.candidates(bytes)
    this.#schedulePump()
  }

  readonly #pathHost: PathSetHost = {
    received: () => this.#receiver.next,
    onAcked: (number) => {
      this.#outbox.ack(number)
      this.#wakeDrained()
    },
    onRecord: (state, message) => this.#receiver.onRecord(state, message),
    onDrain: () => {
      this.#pump()
      // An acknowledgement that found the path full, and nothing to ride on.
      if (!this.#isClosed()) this.#receiver.ackSoon()
    },
    // The other side learns at once what it need not send again on a path that was lost.
    onSwitch: () => this.#receiver.sendAck(),
    onUsable: (proven) => {
      // A path that merely opened saves nobody: one that swallows everything could be opened again and again.
      if (proven) this.#regained()
      this.#pump()
    },
    onProven: (state) => this.#opened(state),
    onPaths: () => this.emit('paths', undefined),
    onLost: (state) => {
      this.#outbox.takeBack(state)
      this.#receiver.ackAgain()
    },
    onLostSettled: (error) => {
      this.#receiver.ackSoon()
      if (this.#paths.size > 0) return
      if (this.#farewell) return this.#finish(undefined)
      // Before the first is proven, the deadline for that counts.
      if (this.#state !== 'connecting') this.#lostAll(error)
    },
    onTrouble: (trouble) => {
      if (trouble) this.emit('trouble', undefined)
    },
    onChange: (change) => this.emit('path', change),
    sendLoose: (state, write) => this.#outbox.sendLoose(state, write),
    load: () => this.#outbox,
    closed: () => this.#isClosed(),
    guard: (run) => this.#guard(run),
  }

  /** Runs what a remote set off; whatever it throws ends the session with a typed error, never the process. */
  #guard(run: () => void): void {
    try {
      run()
    } catch (error) {
      // What is not ours is a mistake of ours: its words may tell of this machine, and stay here, as the cause.
      const unexpected = 'something unexpected was received'
      this.abort(
        isPeerlineError(error) ? error : new PeerlineError('ERR_PEERLINE_PROTOCOL', unexpected, { cause: error }),
      )
    }
  }

  /** There is no path any more: another one has to come in time. */
  #lostAll(error: PeerlineError | undefined): void {
    if (this.#pathlessTimer !== undefined) return
    this.#pathlessSince = performance.now()
    this.#pathlessTimer = setTimeout(() => this.#pathless(error), this.#reconnectMs)
    if (this.#state !== 'open' || this.#reconnectMs === 0) return
    this.#state = 'reconnecting'
    this.emit('reconnecting', { error })
  }

  #pathless(cause?: PeerlineError): void {
    // It was given up before there was anything to be lost.
    if (this.#neverOpen) return this.#finish(undefined)
    const [code, text]: [ErrorCode, string] =
      this.#state === 'connecting'
        ? ['ERR_PEERLINE_NO_PATH', `no path to ${this.peer} worked${this.#tried()}`]
        : ['ERR_PEERLINE_PATH_LOST', `every path to ${this.peer} was lost`]
    this.#finish(new PeerlineError(code, cause === undefined ? text : `${text}: ${cause.message}`, { cause }))
  }

  /** What came of each way, for an error. */
  #tried(): string {
    const failed = (this.#explain?.().attempts ?? []).filter(({ outcome }) => outcome !== 'connected')
    return failed.length === 0
      ? ''
      : `: ${[...new Set(failed.map(({ way, detail }) => `${way}: ${detail}`))].join('; ')}`
  }

  /** There is a path that works again. */
  #regained(): void {
    if (this.#state === 'connecting' || this.#pathlessTimer === undefined) return
    this.#stopPathlessTimer()
    const { active } = this.#paths
    if (this.#state !== 'reconnecting' || active === undefined) return
    this.#state = 'open'
    const afterMs = Math.round(performance.now() - this.#pathlessSince)
    this.emit('reconnected', { path: active.path.kind, afterMs })
  }

  #opened(state: PathState): void {
    if (this.#state !== 'connecting') return
    this.#state = 'open'
    this.#stopPathlessTimer()
    this.#paths.announce()
    this.emit('open', { path: state.path.kind })
    // What was sent on it as soon as it was proven may have shown that it had ended.
    if (this.#paths.size === 0 && !this.#isClosed()) this.#lostAll(undefined)
  }

  #stopPathlessTimer(): void {
    clearTimeout(this.#pathlessTimer)
    this.#pathlessTimer = undefined
  }

  // ---- sending ----

  /** Sends what is waiting, at the end of this turn of the event loop: small writes of one turn share a record. */
  #schedulePump(): void {
    if (this.#pumpSet) return
    this.#pumpSet = true
    turns.last(() => {
      this.#pumpSet = false
      this.#pump()
    })
  }

  #pump(): void {
    const path = this.#paths.active
    if (path === undefined || this.#state === 'closed') return
    const bulk = () => this.#outbox.pump(path, this.#takeAck)
    this.#guard(this.#datagrams === undefined ? bulk : () => this.#datagrams!.pump(path, bulk))
    if (this.#outbox.inFlight > 0) this.#paths.careSoon()
  }

  readonly #takeAck = (path: PathState): number | undefined => this.#receiver.takeAck(path)

  #onAck(number: number): void {
    this.#outbox.ack(number)
    this.#wakeDrained()
    this.#pump()
  }

  readonly #isClosed = (): boolean => this.#state === 'closed'

  // ---- the end ----

  #onClose(code: string, message: string): void {
    // The farewell is acknowledged before the paths go, so that the other side need not wait for nothing.
    this.#receiver.sendAck()
    this.#finish(
      code === ''
        ? undefined
        : new PeerlineError(isErrorCode(code) ? code : 'ERR_PEERLINE_REMOTE', `${this.peer}: ${message}`),
    )
  }

  #finish(error: PeerlineError | undefined): void {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    this.#error = error
    clearTimeout(this.#pathlessTimer)
    this.#paths.close()
    this.#outbox.clear()
    this.#receiver.clear()
    this.#streams.abort(error ?? this.#endError())
    this.#datagrams?.end(error, this.#endError())
    this.#outflow?.close()
    this.#inflow?.close()
    this.#memory.close()
    this.#wakeDrained()
    this.#tellEnded()
    this.emit('close', { error })
  }

  #endError(): PeerlineError {
    return this.#error ?? new PeerlineError('ERR_PEERLINE_CLOSED', `the session with ${this.peer} was closed`)
  }

  #checkUsable(): void {
    if (this.#state === 'closed') throw this.#endError()
    if (this.#state === 'closing') {
      throw new PeerlineError('ERR_PEERLINE_CLOSED', `the session with ${this.peer} is closing`)
    }
  }

  #wakeDrained(): void {
    if (this.#onDrained !== undefined && (this.#state === 'closed' || this.#outbox.empty)) this.#onDrained()
  }

  /** Waits until all that was written has been acknowledged, the session has ended, `ms` have passed or `signal` fires. */
  #drained(ms: number, signal: AbortSignal | undefined): Promise<void> {
    if (this.#outbox.empty || this.#isClosed() || signal?.aborted) return Promise.resolve()
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', done)
        this.#onDrained = undefined
        resolve()
      }
      const timer = setTimeout(done, ms)
      whenAborted(signal, done)
      this.#onDrained = done
    })
  }
}
