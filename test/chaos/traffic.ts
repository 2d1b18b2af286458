/**
 * What the two sides write to each other, and the check of what they read: byte by byte, as it comes.
 *
 * - Bytes do not repeat, so that a lost, doubled or moved one is seen; those of a write are destroyed once it has resolved.
 * - A flow is one direction of one stream. How it ended is noted at both ends, and judged in `verdict.ts`.
 */
import type { PeerlineError } from '../../src/errors.ts'
import type { Session } from '../../src/session/index.ts'
import type { Stream } from '../../src/session/stream.ts'
import type { Coverage } from './coverage.ts'
import { other, type Side } from './lane.ts'
import { Random } from './random.ts'
import type { FlowPlan, StreamPlan } from './schedule.ts'
import type { VirtualClock } from './virtual-clock.ts'

/** Bytes that flows take their content from, each from its own place on. */
const NOISE = Buffer.alloc(4_194_304)
const MAX_FLOW_BYTES = 2_097_152
const random = new Random(1)
for (let at = 0; at < NOISE.length; at += 4) NOISE.writeUInt32LE(Math.floor(random.next() * 2 ** 32), at)

/** The code that an application gives a stream up with. */
const GIVEN_UP = 256

/** How one end of a flow came to its end. */
export type FlowEnd = 'done' | 'reset' | 'cancelled' | PeerlineError

/** One direction of a stream. */
export class Flow {
  readonly name: string
  /** Of its stream. */
  readonly index: number
  readonly plan: FlowPlan
  /** Who opens the stream. */
  readonly opener: Side
  readonly writer: Side
  readonly total: number
  readonly #offset: number
  /** Bytes handed to `write`, and read. */
  written = 0
  read = 0
  /** When `end` was called, ms. */
  finishedAt: number | undefined
  /** The sides at which the stream is there. */
  readonly begun: [boolean, boolean] = [false, false]
  writeEnd: FlowEnd | undefined
  readEnd: FlowEnd | undefined

  constructor(index: number, way: 0 | 1, stream: StreamPlan) {
    this.index = index
    this.opener = stream.by
    this.plan = stream.flows[way]
    this.writer = way === 0 ? stream.by : other(stream.by)
    this.name = `stream ${index} from ${this.writer}`
    this.total = this.plan.writes.reduce((sum, size) => sum + size, 0)
    if (this.total > MAX_FLOW_BYTES) throw new Error(`${this.name} is too long`)
    this.#offset = ((index * 2 + way) * 65_537) % (NOISE.length - MAX_FLOW_BYTES)
  }

  get reader(): Side {
    return other(this.writer)
  }

  get done(): boolean {
    return this.writeEnd !== undefined && this.readEnd !== undefined
  }

  /** The next `size` bytes to write, in memory of their own. */
  next(size: number): Uint8Array {
    const from = this.#offset + this.written
    this.written += size
    return new Uint8Array(NOISE.subarray(from, from + size))
  }

  /** Checks a chunk; what is wrong with it, if anything. */
  take(chunk: Uint8Array): string | undefined {
    const at = this.read
    this.read += chunk.length
    if (chunk.length === 0) return `${this.name}: an empty chunk at ${at}`
    if (this.read > this.written) return `${this.name}: ${this.read} bytes were read of ${this.written} written`
    const from = this.#offset + at
    if (NOISE.compare(chunk, 0, chunk.length, from, from + chunk.length) === 0) return undefined
    return `${this.name}: wrong bytes between ${at} and ${this.read}`
  }
}

/** What goes wrong is told at once. */
export type Complain = (what: string) => void

/** All streams of a schedule. */
export class Traffic {
  readonly flows: Flow[] = []
  readonly #clock: VirtualClock
  readonly #plans: readonly StreamPlan[]
  readonly #complain: Complain
  readonly #accepted = new Set<number>()

  constructor(clock: VirtualClock, plans: readonly StreamPlan[], complain: Complain) {
    this.#clock = clock
    this.#plans = plans
    this.#complain = complain
    for (const [index, plan] of plans.entries()) this.flows.push(new Flow(index, 0, plan), new Flow(index, 1, plan))
  }

  get done(): boolean {
    return this.flows.every((flow) => flow.done)
  }

  /** ms that all of it may take on a link of that rate, with pauses, and with some of it sent several times. */
  takesMs(bytesPerMs: number): number {
    let ms = 0
    for (const { plan, total } of this.flows) {
      ms += plan.pauseMs * plan.writes.length + plan.readPauseMs * (plan.writes.length + total / 1_024)
      ms += (4 * total) / Math.min(bytesPerMs, 1_000)
    }
    return ms
  }

  count(coverage: Coverage): void {
    for (const { begun, plan } of this.flows) {
      coverage.count('flows', Number(begun[0] && begun[1]))
      if (plan.end === 'reset') coverage.count('resets')
    }
  }

  /** Opens a stream of the plan, as its side. */
  open(index: number, session: Session): void {
    const [out, back] = [this.flows[2 * index]!, this.flows[2 * index + 1]!]
    session.open(`/chaos/${index}`).then(
      (stream) => this.#run(stream, out, back),
      (error) => {
        out.writeEnd ??= error
        back.readEnd ??= error
      },
    )
  }

  /** Takes a stream that the other side opened. */
  accept(stream: Stream, side: Side): void {
    const index = Number(stream.protocol.slice('/chaos/'.length))
    const plan = this.#plans[index]
    if (plan === undefined || plan.by === side || this.#accepted.has(index)) {
      return this.#complain(`${stream.protocol} was opened twice, or never`)
    }
    this.#accepted.add(index)
    this.#run(stream, this.flows[2 * index + 1]!, this.flows[2 * index]!)
  }

  #run(stream: Stream, out: Flow, back: Flow): void {
    out.begun[out.writer] = true
    back.begun[out.writer] = true
    this.#write(stream, out).then(
      (end) => {
        out.writeEnd = end
      },
      (error) => {
        out.writeEnd = error
      },
    )
    this.#read(stream, back).then(
      (end) => {
        back.readEnd = end
      },
      (error) => {
        back.readEnd = error
      },
    )
  }

  async #write(stream: Stream, flow: Flow): Promise<FlowEnd> {
    const { writes, pauseMs, burst, end } = flow.plan
    const waiting: Promise<void>[] = []
    for (const [at, size] of writes.entries()) {
      if (pauseMs > 0) await this.#clock.sleep(pauseMs)
      const data = flow.next(size)
      const last = end === 'join' && at === writes.length - 1
      if (last) flow.finishedAt = this.#clock.now
      const written = (last ? stream.end(data) : stream.write(data)).then(() => void data.fill(0xdd))
      if (burst) {
        written.catch(() => {})
        waiting.push(written)
      } else await written
    }
    if (end === 'reset') {
      stream.reset(GIVEN_UP)
      await Promise.allSettled(waiting)
      return 'reset'
    }
    flow.finishedAt = this.#clock.now
    await Promise.all([...waiting, stream.end()])
    return 'done'
  }

  async #read(stream: Stream, flow: Flow): Promise<FlowEnd> {
    const { readPauseMs, sink, cancelAt } = flow.plan
    if (sink) return this.#sink(stream, flow)
    for (;;) {
      const { value, done } = await stream.next()
      if (done === true) break
      this.#take(flow, value)
      if (cancelAt !== undefined && flow.read >= cancelAt) {
        stream.cancel(GIVEN_UP)
        return 'cancelled'
      }
      if (readPauseMs > 0) await this.#clock.sleep(readPauseMs)
    }
    return 'done'
  }

  #sink(stream: Stream, flow: Flow): Promise<FlowEnd> {
    return new Promise((resolve, reject) => {
      let ended = false
      const end = (tell: () => void) => {
        if (ended) this.#complain(`${flow.name}: ended twice`)
        ended = true
        tell()
      }
      stream.pipeTo({
        data: (chunk) => {
          if (ended) this.#complain(`${flow.name}: data after its end`)
          this.#take(flow, chunk)
        },
        end: () => end(() => resolve('done')),
        error: (error) => end(() => reject(error)),
      })
    })
  }

  #take(flow: Flow, chunk: Uint8Array): void {
    const wrong = flow.take(chunk)
    if (wrong !== undefined) this.#complain(wrong)
  }
}
