/**
 * Two sessions and the pipes between them, in memory, for tests: nothing moves unless a test lets it.
 *
 *     session 0 --MemoryPath--> queue --deliver()--> MemoryPath--> session 1       a link: one queue each way
 *
 * - A message waits in its queue until it is delivered, and can be lost there, held, altered or doubled.
 * - A link may be cut at any message boundary, with what is under way lost, for both ends or for one.
 * - A link may have a shape, see `link-shape.compliance.ts`: then it delivers when it is time.
 * - Time is that of vitest's fake timers: `World.run` delivers, and moves the clock only when nothing else is left.
 */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, expect, vi } from 'vitest'
import { type ErrorCode, PeerlineError } from '../errors.ts'
import type { SessionKeys } from '../handshake/index.ts'
import type { PeerId } from '../identity/index.ts'
import { MAX_FIRST_MESSAGE_BYTES, type Path, type PathHandler, type PathKind } from '../path/index.ts'
import { type LinkShape, Wire } from './link-shape.compliance.ts'
import type { PathChange } from './path-chooser.ts'
import { Session } from './session.ts'
import type { SessionOptions } from './session-options.ts'
import type { Stream } from './stream.ts'

export type Side = 0 | 1

/** What a test does with a message on its way; the default is to deliver it once, as it is. */
export type Tap = (message: Uint8Array, to: Side) => readonly Uint8Array[]

const key = (byte: number): Uint8Array => new Uint8Array(32).fill(byte)

/** Session keys made up for tests: what one side sends with, the other receives with. */
export function testKeys(initiator: boolean): SessionKeys {
  return {
    sessionId: new Uint8Array(16).fill(7),
    send: initiator ? key(1) : key(2),
    receive: initiator ? key(2) : key(1),
    attachSend: initiator ? key(3) : key(4),
    attachReceive: initiator ? key(4) : key(3),
    initiator,
  }
}

/** One end of a link. */
export class MemoryPath implements Path {
  readonly kind: PathKind
  readonly remote: string
  maxMessageBytes: number = MAX_FIRST_MESSAGE_BYTES
  /** What this end has sent and the other has not been given; undefined marks an orderly end. */
  readonly queue: (Uint8Array | undefined)[] = []
  /** When each of them was sent. */
  readonly sentAt: number[] = []
  queuedBytes = 0
  ended = false
  /** Messages sent from here so far. */
  sent = 0
  #closing = false
  #wantsDrain = false
  #handler: PathHandler | undefined
  readonly #highWater: () => number

  constructor(kind: PathKind, remote: string, highWater: () => number) {
    this.kind = kind
    this.remote = remote
    this.#highWater = highWater
  }

  get started(): boolean {
    return this.#handler !== undefined
  }

  get writable(): boolean {
    return !this.ended && !this.#closing && this.queuedBytes < this.#highWater()
  }

  start(handler: PathHandler): void {
    this.#handler = handler
  }

  send(parts: readonly Uint8Array[]): boolean {
    if (this.ended || this.#closing) return false
    const message = new Uint8Array(Buffer.concat(parts))
    this.queue.push(message)
    this.sentAt.push(performance.now())
    this.queuedBytes += message.length
    this.sent++
    if (!this.writable) this.#wantsDrain = true
    return this.writable
  }

  /** Takes the next message out of the queue. */
  shift(): Uint8Array | undefined {
    const message = this.queue.shift()
    this.sentAt.shift()
    if (message !== undefined) this.queuedBytes -= message.length
    return message
  }

  /** Tells of room, as a pipe does after a message has gone. */
  drained(): void {
    if (!this.#wantsDrain || !this.writable) return
    this.#wantsDrain = false
    this.#handler?.drain()
  }

  receive(message: Uint8Array): void {
    if (this.ended) return
    if (message.length > this.maxMessageBytes) throw new Error(`a message of ${message.length} bytes was sent`)
    this.#handler?.message(message)
  }

  pause(): void {}
  resume(): void {}

  close(): void {
    if (this.ended || this.#closing) return
    this.#closing = true
    this.queue.push(undefined)
    this.sentAt.push(performance.now())
  }

  destroy(error?: PeerlineError): void {
    if (this.ended) return
    this.#closing = true
    this.queue.push(undefined)
    this.sentAt.push(performance.now())
    this.end(error)
  }

  end(error: PeerlineError | undefined): void {
    if (this.ended) return
    this.ended = true
    this.#handler?.close(error)
  }
}

/** A pipe between the two sessions. */
export class Link {
  readonly ends: readonly [MemoryPath, MemoryPath]
  /** Nothing is delivered to a side that is held; it waits. */
  readonly held: [boolean, boolean] = [false, false]
  /** What is delivered to a dead side is lost without a word: a black hole. */
  readonly dead: [boolean, boolean] = [false, false]
  tap: Tap | undefined
  /** Bytes in a queue from which its sender is asked to wait. */
  highWater: number = 1_048_576

  readonly shape: LinkShape | undefined
  readonly #wires: readonly [Wire, Wire] | undefined

  constructor(kind: PathKind, name: string, shape?: LinkShape) {
    const highWater = () => this.highWater
    this.ends = [new MemoryPath(kind, `${name}#1`, highWater), new MemoryPath(kind, `${name}#0`, highWater)]
    this.shape = shape
    if (shape === undefined) return
    this.highWater = shape.bufferBytes ?? 5 * 1_048_576
    this.#wires = [new Wire(shape, this.ends[1], 0), new Wire(shape, this.ends[0], 1)]
  }

  /** True when a message for `to` could be delivered now. */
  ready(to: Side): boolean {
    if (this.held[to] || this.ends[to].ended) return false
    if (this.#wires !== undefined) return this.#wires[to].ready(performance.now())
    return this.ends[other(to)].queue.length > 0
  }

  /** Delivers one message to `to`. */
  deliver(to: Side): void {
    const [from, target] = [this.ends[other(to)], this.ends[to]]
    const message = this.#wires === undefined ? from.shift() : this.#wires[to].take()
    if (message === undefined) {
      target.end(undefined)
      from.end(undefined)
      return
    }
    if (!this.dead[to]) for (const copy of this.tap?.(message, to) ?? [message]) target.receive(copy)
    from.drained()
  }

  /** Ends the link; what is under way is lost. With `only`, just that side learns of it: the other end hangs. */
  cut(only?: Side): void {
    this.dead[0] = true
    this.dead[1] = true
    for (const side of [0, 1] as const) {
      if (only !== undefined && side !== only) continue
      this.ends[side].end(new PeerlineError('ERR_PEERLINE_UNREACHABLE', `${this.ends[side].remote} was cut`))
    }
  }

  get ended(): boolean {
    return this.ends[0].ended && this.ends[1].ended
  }
}

export function other(side: Side): Side {
  return side === 0 ? 1 : 0
}

/** Messages delivered in one turn, and ever, and turns without rest: what goes round in circles ends with an error. */
const MAX_PER_TURN = 1_000
const MAX_DELIVERED = 50_000
const MAX_TURNS = 5_000

const realImmediate = setImmediate
/** Lets promises settle, without moving the fake clock. */
export function settle(): Promise<void> {
  return new Promise((resolve) => realImmediate(resolve))
}

/** ms that a session may be without a path, when nothing else is said: few, for the clock has to be wound on. */
export const RECONNECT_MS = 5_000

export interface WorldOptions extends Partial<Pick<SessionOptions, 'maxStreams' | 'memory' | 'rate' | 'rekey'>> {
  /** Takes what session 0 opens, at session 1; and the other way round. */
  readonly onStream?: (stream: Stream, side: Side) => void
}

/** Two sessions, side 0 the initiator, and their links. Needs {@link useFakeTime}. */
export class World {
  readonly sessions: readonly [Session, Session]
  readonly links: Link[] = []
  /** Path changes, in order, per side. */
  readonly changes: readonly [PathChange[], PathChange[]] = [[], []]
  /** What ended each session: undefined is an orderly end. */
  readonly closes: readonly [(ErrorCode | undefined)[], (ErrorCode | undefined)[]] = [[], []]
  /** Messages delivered so far. */
  delivered = 0
  /** Called before each delivery, which may then not happen. */
  beforeDelivery: (() => void) | undefined
  /** Attaches that the accepting side refused. */
  readonly refused: unknown[] = []

  constructor(options: WorldOptions = {}) {
    const { onStream, ...rest } = options
    const make = (side: Side): Session => {
      const session = new Session({
        keys: testKeys(side === 0),
        peer: (side === 0 ? 'responder' : 'initiator') as PeerId,
        onStream: (stream) => onStream?.(stream, side),
        reconnectMs: RECONNECT_MS,
        ...rest,
      })
      session.addEventListener('path', ({ detail }) => this.changes[side].push(detail))
      session.addEventListener('close', ({ detail }) => this.closes[side].push(detail.error?.code))
      return session
    }
    this.sessions = [make(0), make(1)]
  }

  /** A link that `by` attaches. */
  connect(kind: PathKind = 'tcp', by: Side = 0, shape?: LinkShape): Link {
    const link = new Link(kind, `${kind}-${this.links.length}`, shape)
    this.links.push(link)
    const [attaching, accepting] = [link.ends[by], link.ends[other(by)]]
    const session = this.sessions[other(by)]
    accepting.start({
      message: (message) => {
        try {
          session.acceptAttach(accepting, message)
        } catch (error) {
          this.refused.push(error)
          accepting.destroy()
        }
      },
      drain: () => {},
      close: () => {},
    })
    this.sessions[by].attach(attaching)
    return link
  }

  /** A link, and both sessions open on it. */
  async open(kind: PathKind = 'tcp', shape?: LinkShape): Promise<Link> {
    const link = this.connect(kind, 0, shape)
    await this.run(() => this.sessions.every(({ state }) => state === 'open'))
    return link
  }

  /** Links that have not ended at both ends. */
  get standing(): Link[] {
    return this.links.filter((link) => !link.ended)
  }

  /** Delivers one message, the oldest link first, turning between the directions; false when none can be. */
  deliverOne(): boolean {
    const turn = (this.delivered % 2) as Side
    for (const link of this.links) {
      for (const to of [turn, other(turn)] as const) {
        if (!link.ready(to)) continue
        this.beforeDelivery?.()
        if (!link.ready(to)) return true
        if (++this.delivered > MAX_DELIVERED) throw new Error(`messages go back and forth for ever: ${this}`)
        link.deliver(to)
        return true
      }
    }
    return false
  }

  /** One turn: promises, immediates, then what can be delivered, up to `count`. False when nothing was. */
  async turn(limit: number = MAX_PER_TURN): Promise<boolean> {
    await settle()
    vi.advanceTimersByTime(0)
    let moved = false
    for (let count = 0; count < limit && this.deliverOne(); count++) moved = true
    return moved
  }

  /** Runs until `done`, moving the clock by `stepMs` only when nothing else can happen. */
  async run(done: () => boolean, limitMs = 60_000, stepMs = 5): Promise<void> {
    const deadline = performance.now() + limitMs
    let quiet = 0
    let turns = 0
    while (!done()) {
      if (++turns > MAX_TURNS) throw new Error(`messages go back and forth for ever: ${this}`)
      if (await this.turn()) {
        quiet = 0
        continue
      }
      turns = 0
      if (++quiet < 2) continue
      if (performance.now() >= deadline) throw new Error(`not done after ${limitMs} ms: ${this}`)
      vi.advanceTimersByTime(stepMs)
    }
  }

  /** Runs until nothing moves by itself. */
  async quiet(): Promise<void> {
    for (let turns = 0, still = 0; still < 2; still = (await this.turn()) ? 0 : still + 1) {
      if (++turns > MAX_TURNS) throw new Error(`messages go back and forth for ever: ${this}`)
    }
  }

  /** Runs for `ms` of fake time. */
  async pass(ms: number, stepMs = 50): Promise<void> {
    const until = performance.now() + ms
    while (performance.now() < until) {
      await this.quiet()
      vi.advanceTimersByTime(Math.min(stepMs, until - performance.now()))
    }
    await this.quiet()
  }

  /** Runs until the promise has settled, and gives what it gives. */
  async settled<T>(promise: Promise<T>, limitMs?: number): Promise<T> {
    let done = false
    const tell = () => {
      done = true
    }
    promise.then(tell, tell)
    await this.run(() => done, limitMs)
    return promise
  }

  toString(): string {
    return `${this.sessions.map(({ state, path }) => `${state} ${path}`).join(', ')}, ${this.delivered} delivered`
  }

  /** Ends both sessions, so that no timer is left. */
  stop(): void {
    for (const session of this.sessions) session.abort(new PeerlineError('ERR_PEERLINE_CLOSED', 'the test is over'))
  }
}

/** Time stands still but for the tests; promises and `process.nextTick` run as ever. */
export function useFakeTime(): void {
  vi.useFakeTimers({
    toFake: [
      'setTimeout',
      'clearTimeout',
      'setInterval',
      'clearInterval',
      'setImmediate',
      'clearImmediate',
      'performance',
      'Date',
    ],
  })
}

/** Fake time around every test of a file; after each, its world is stopped, and no timer may be left. */
export function useWorlds(world: () => World | undefined): void {
  beforeEach(useFakeTime)
  afterEach(async () => {
    world()?.stop()
    await world()?.pass(20)
    expect(vi.getTimerCount()).toBe(0)
    vi.useRealTimers()
  })
}

/** Reads a stream to its end. */
export async function readAll(stream: Stream): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return new Uint8Array(Buffer.concat(chunks))
}

/** Bytes that do not repeat, so that a lost, doubled or moved one is seen. */
export function noise(bytes: number): Uint8Array {
  return new Uint8Array(randomBytes(bytes))
}

/** The code an operation fails with, or what it gives. */
export async function codeOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    return await promise
  } catch (error) {
    return (error as { code?: unknown }).code ?? error
  }
}
