/**
 * A channel: a bounded queue between a producer that may be quick and one consumer that may be slow.
 *
 *     push(), offer() --> [ oldest … latest ] --> for await, receive(), shift()
 *
 * What happens when it is full is its policy:
 *
 *     block          `push` waits for room: the producer runs as fast as the consumer
 *     drop-latest    the new value is dropped: the consumer sees the first ones
 *     drop-oldest    the oldest value is dropped: the consumer sees the latest ones
 *
 * - Order is kept; nothing is handed on twice; what the policy dropped is counted.
 * - Full is by count, and by bytes where values have a size. One value is taken whatever its size when nothing waits,
 *   or it would wait for ever.
 * - Producers that wait are bounded too: at most {@link MAX_WAITING_PUSHES} pushes.
 * - After `end` the consumer still gets what was taken; when the consumer leaves, or the signal fires, it is let go.
 */
import { abortError, PeerlineError } from '../errors.ts'
import { whenAborted } from '../pause.ts'

/** What a channel does when it is full. */
export type ChannelPolicy = 'block' | 'drop-latest' | 'drop-oldest'

/** Values that wait, when nothing else is said: a burst, not a backlog. */
export const DEFAULT_CAPACITY = 256

/** Values that a channel may be told to hold: above that it is a memory leak with a name. */
const MAX_CAPACITY = 1_048_576

/** Pushes that may wait at once: whoever awaits each push has one. */
export const MAX_WAITING_PUSHES = 1_024

export interface ChannelLimits {
  /** What happens when it is full. @default 'block' */
  readonly policy?: ChannelPolicy
  /** Values that wait, 1 to 2^20. @default 256 */
  readonly capacity?: number
  /** Bytes that wait, where values have a size. @default no bound but the capacity */
  readonly maxBytes?: number
}

export interface ChannelOptions<T> extends ChannelLimits {
  /** Bytes of a value, which stay the same. @default 0 */
  readonly sizeOf?: (value: T) => number
  /** True for a value that nobody needs any more: it makes room before the policy is asked, and is not handed on. */
  readonly isStale?: (value: T) => boolean
  /** Told of each value that is let go: by the policy, or because the consumer left. */
  readonly onDrop?: (value: T) => void
  /** Called once, when nothing more is taken. */
  readonly onEnd?: () => void
  /** When it fires, the channel ends at once, and what waits in it is let go. */
  readonly signal?: AbortSignal
}

/** The ends of a promise that somebody waits on. */
interface Settle<V> {
  resolve(value: V): void
  reject(error: PeerlineError): void
}

interface Push<T> {
  readonly value: T
  readonly settle: Settle<boolean>
}

const TAKEN = Promise.resolve(true)
const DROPPED = Promise.resolve(false)

/** A bounded queue; see the head of this file. Values are never `undefined`. */
export class Channel<T> implements AsyncIterableIterator<T, undefined> {
  readonly #options: ChannelOptions<T>
  #limits: Required<ChannelLimits>
  /** What was taken and not handed on; what is before `#head` was. */
  #held: (T | undefined)[] = []
  #head = 0
  #bytes = 0
  #pushes: Push<T>[] = []
  #waiter: Settle<IteratorResult<T, undefined>> | undefined
  #dropped = 0
  #ended = false
  #error: PeerlineError | undefined

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` for limits that are none, or what the signal says */
  constructor(options: ChannelOptions<T> = {}) {
    const { signal } = options
    if (signal?.aborted) throw abortError(signal, 'the channel')
    this.#options = options
    this.#limits = checkLimits({ policy: 'block', capacity: DEFAULT_CAPACITY, maxBytes: Infinity }, options)
    whenAborted(signal, this.#onAbort)
  }

  /** Values that wait for the consumer. */
  get length(): number {
    return this.#held.length - this.#head
  }

  /** Their bytes. */
  get bytes(): number {
    return this.#bytes
  }

  /** Pushes that wait for room. */
  get waiting(): number {
    return this.#pushes.length
  }

  /** Values that the policy has dropped so far. */
  get dropped(): number {
    return this.#dropped
  }

  /** True when nothing more is taken. */
  get ended(): boolean {
    return this.#ended
  }

  /** The value that is next in line. */
  get first(): T | undefined {
    this.#skipStale()
    return this.#held[this.#head]
  }

  /**
   * Changes the limits from now on. What waits beyond them is dropped as the new policy says; `block` drops nothing.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  configure(limits: ChannelLimits): void {
    this.#limits = checkLimits(this.#limits, limits)
    const { policy, capacity, maxBytes } = this.#limits
    if (policy !== 'block') {
      const oldest = policy === 'drop-oldest'
      while (this.length > 1 && (this.length > capacity || this.#bytes > maxBytes)) this.#dropHeld(oldest)
      // Whoever waits for room is served by the new policy.
      for (const push of this.#pushes.splice(0)) push.settle.resolve(this.#take(push.value))
    } else this.#refill()
  }

  // ---- producing ----

  /**
   * Puts a value in without waiting. False when it was not taken: it was dropped, or there is no room and the policy is
   * `block`, or the channel has ended.
   */
  offer(value: T): boolean {
    return !this.#ended && this.#pushes.length === 0 && this.#take(value)
  }

  /**
   * Puts a value in; false when it was dropped. With `block` it waits for room.
   * @param options.signal gives up waiting; the value was not taken then
   * @throws PeerlineError what ended the channel (`ERR_PEERLINE_CLOSED` in order), `ERR_PEERLINE_LIMIT` when 1,024
   *   pushes wait because earlier ones were not awaited, or what the signal says
   */
  push(value: T, options: { signal?: AbortSignal } = {}): Promise<boolean> {
    const { signal } = options
    if (signal?.aborted) return Promise.reject(abortError(signal, 'a push'))
    if (this.#ended) return Promise.reject(this.#endError())
    if (this.#pushes.length === 0 && this.#take(value)) return TAKEN
    if (this.#limits.policy !== 'block') return DROPPED
    if (this.#pushes.length >= MAX_WAITING_PUSHES) {
      const text = `${MAX_WAITING_PUSHES} pushes wait already; await each push`
      return Promise.reject(new PeerlineError('ERR_PEERLINE_LIMIT', text))
    }
    return wait(signal, 'a push', (settle) => {
      const push = { value, settle }
      this.#pushes.push(push)
      return () => {
        this.#pushes = this.#pushes.filter((other) => other !== push)
      }
    })
  }

  /** Takes nothing more. The consumer still gets what waits, and then `error`, or without one the end. */
  end(error?: PeerlineError): void {
    if (this.#ended) return
    this.#ended = true
    this.#error = error
    this.#options.signal?.removeEventListener('abort', this.#onAbort)
    for (const { settle } of this.#pushes.splice(0)) settle.reject(this.#endError())
    const waiter = this.#waiter
    this.#waiter = undefined
    if (error === undefined) waiter?.resolve({ value: undefined, done: true })
    else waiter?.reject(error)
    this.#options.onEnd?.()
  }

  /** The value goes to the consumer, into the queue, or where the policy says; false when it was not taken. */
  #take(value: T): boolean {
    const waiter = this.#waiter
    if (waiter !== undefined) {
      this.#waiter = undefined
      waiter.resolve({ value, done: false })
      return true
    }
    const size = this.#sizeOf(value)
    if (!this.#fits(size)) {
      this.#dropStale()
      const { policy } = this.#limits
      if (policy === 'drop-oldest') while (!this.#fits(size)) this.#dropHeld(true)
      else if (!this.#fits(size)) {
        if (policy === 'drop-latest') this.#drop(value)
        return false
      }
    }
    this.#hold(value, size)
    return true
  }

  #hold(value: T, size: number): void {
    this.#held.push(value)
    this.#bytes += size
  }

  #fits(size: number): boolean {
    const { capacity, maxBytes } = this.#limits
    return this.length === 0 || (this.length < capacity && this.#bytes + size <= maxBytes)
  }

  #sizeOf(value: T): number {
    return this.#options.sizeOf?.(value) ?? 0
  }

  #drop(value: T): void {
    this.#dropped++
    this.#options.onDrop?.(value)
  }

  #dropHeld(oldest: boolean): void {
    const value = oldest ? this.#unhold() : this.#held.pop()!
    if (!oldest) this.#bytes -= this.#sizeOf(value)
    this.#drop(value)
  }

  // ---- consuming ----

  [Symbol.asyncIterator](): this {
    return this
  }

  /** The next value; done when the channel has ended in order. One consumer at a time. */
  next(): Promise<IteratorResult<T, undefined>> {
    return this.#next(undefined)
  }

  /**
   * The next value.
   * @throws PeerlineError what ended the channel (`ERR_PEERLINE_CLOSED` in order), `ERR_PEERLINE_INVALID` when somebody
   *   else waits for it, or what the signal says
   */
  async receive(options: { signal?: AbortSignal } = {}): Promise<T> {
    const { value, done } = await this.#next(options.signal)
    if (done) throw this.#endError()
    return value
  }

  /** The next value if there is one now. */
  shift(): T | undefined {
    this.#skipStale()
    if (this.length === 0) return undefined
    const value = this.#unhold()
    this.#refill()
    return value
  }

  /** Called by `break` in a `for await`: the consumer leaves, and what waits for it is let go. */
  return(): Promise<IteratorResult<T, undefined>> {
    this.#leave(undefined)
    return Promise.resolve({ value: undefined, done: true })
  }

  /** The consumer leaves. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#leave(undefined)
  }

  #next(signal: AbortSignal | undefined): Promise<IteratorResult<T, undefined>> {
    if (signal?.aborted) return Promise.reject(abortError(signal, 'receiving'))
    const value = this.shift()
    if (value !== undefined) return Promise.resolve({ value, done: false })
    if (this.#ended) {
      if (this.#error !== undefined) return Promise.reject(this.#error)
      return Promise.resolve({ value: undefined, done: true })
    }
    if (this.#waiter !== undefined) {
      return Promise.reject(new PeerlineError('ERR_PEERLINE_INVALID', 'two consumers of one channel'))
    }
    return wait(signal, 'receiving', (settle) => {
      this.#waiter = settle
      return () => {
        this.#waiter = undefined
      }
    })
  }

  #leave(error: PeerlineError | undefined): void {
    this.end(error)
    const held = this.#held.slice(this.#head)
    this.#held = []
    this.#head = 0
    this.#bytes = 0
    for (const value of held) this.#options.onDrop?.(value!)
  }

  readonly #onAbort = (): void => this.#leave(abortError(this.#options.signal!, 'the channel'))

  /** Takes the oldest value out of the queue, which is not empty. */
  #unhold(): T {
    const value = this.#held[this.#head]!
    this.#held[this.#head++] = undefined
    this.#bytes -= this.#sizeOf(value)
    if (this.#head === this.#held.length) {
      this.#held.length = 0
      this.#head = 0
    } else if (this.#head >= 1_024 && this.#head * 2 >= this.#held.length) {
      this.#held = this.#held.slice(this.#head)
      this.#head = 0
    }
    return value
  }

  /** Whoever waits for room gets what there is. */
  #refill(): void {
    while (this.#pushes.length > 0) {
      const { value } = this.#pushes[0]!
      const size = this.#sizeOf(value)
      if (!this.#fits(size)) return
      this.#hold(value, size)
      this.#pushes.shift()!.settle.resolve(true)
    }
  }

  #skipStale(): void {
    const { isStale } = this.#options
    if (isStale === undefined) return
    while (this.length > 0 && isStale(this.#held[this.#head]!)) this.#unhold()
    this.#refill()
  }

  #dropStale(): void {
    const { isStale } = this.#options
    if (isStale === undefined) return
    this.#held = this.#held.slice(this.#head).filter((value) => !isStale(value!))
    this.#head = 0
    this.#bytes = this.#held.reduce<number>((sum, value) => sum + this.#sizeOf(value!), 0)
  }

  #endError(): PeerlineError {
    return this.#error ?? new PeerlineError('ERR_PEERLINE_CLOSED', 'the channel has ended')
  }
}

/** Waits until somebody settles what `begin` was given, or the signal fires: then what `begin` returned undoes it. */
function wait<V>(signal: AbortSignal | undefined, what: string, begin: (settle: Settle<V>) => () => void): Promise<V> {
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      undo()
      reject(abortError(signal!, what))
    }
    const done = () => signal?.removeEventListener('abort', onAbort)
    whenAborted(signal, onAbort)
    const undo = begin({
      resolve: (value) => {
        done()
        resolve(value)
      },
      reject: (error) => {
        done()
        reject(error)
      },
    })
  })
}

/** `limits` over `before`. @throws PeerlineError `ERR_PEERLINE_INVALID` */
function checkLimits(before: Required<ChannelLimits>, limits: ChannelLimits): Required<ChannelLimits> {
  const { policy = before.policy, capacity = before.capacity, maxBytes = before.maxBytes } = limits
  if (policy !== 'block' && policy !== 'drop-latest' && policy !== 'drop-oldest') {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `no such policy: ${String(policy)}`)
  }
  if (!Number.isInteger(capacity) || capacity < 1 || capacity > MAX_CAPACITY) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `a channel holds 1 to ${MAX_CAPACITY} values, not ${capacity}`)
  }
  if (!(maxBytes > 0)) throw new PeerlineError('ERR_PEERLINE_INVALID', `a channel cannot hold ${maxBytes} bytes`)
  return { policy, capacity, maxBytes }
}
