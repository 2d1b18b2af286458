import { describe, expect, it } from 'vitest'
import { Pacer } from './byte-rate.ts'
import { Link } from './memory-path.compliance.ts'
import { Outbox, type PieceSource } from './outbox.ts'
import { newPathState, type PathState } from './paths.ts'
import { readNumber } from './record.ts'

const RECORD_BYTES = 10_000
/** Number, tag and the header of the data. */
const HEAD_BYTES = 26

/** An outbox with `records` pieces to send, and two paths. */
class Bench {
  #left: number
  readonly links = [new Link('tcp', 'a'), new Link('udp', 'b')] as const
  readonly a: PathState = newPathState(this.links[0].ends[0], 2, 'proven')
  readonly b: PathState = newPathState(this.links[1].ends[0], 4, 'proven')
  readonly outbox: Outbox

  constructor(records: number, pacer?: Pacer) {
    this.#left = records
    const source: PieceSource = {
      ready: () => this.#left > 0,
      pending: () => this.#left > 0,
      next: () => (this.#left > 0 ? { stream: 0, data: new Uint8Array(RECORD_BYTES), fin: false } : undefined),
      sent: () => {
        this.#left--
      },
    }
    this.outbox = new Outbox(new Uint8Array(32), source, { pacer })
  }

  add(records: number): void {
    this.#left += records
  }

  pump(path: PathState): void {
    this.outbox.pump(path, () => undefined)
  }

  /** Numbers of the records that went on a path so far. */
  on(at: 0 | 1): number[] {
    return this.links[at].ends[0].queue.map((message) => readNumber(message!)!.count)
  }
}

describe('an outbox', () => {
  it('tells each path what was sent on it, what is on its way, and what arrived', () => {
    const bench = new Bench(3)
    const { a, b, outbox } = bench
    bench.pump(a)
    expect(bench.on(0)).toEqual([0, 1, 2])
    expect(a.sentBytes).toBe(3 * (RECORD_BYTES + HEAD_BYTES))
    expect(a.unackedBytes).toBe(outbox.inFlight)
    expect(a.deliveredBytes).toBe(0)
    outbox.ack(2)
    expect(a.deliveredBytes).toBe(2 * (RECORD_BYTES + HEAD_BYTES))
    bench.add(1)
    bench.pump(b)
    expect(a.unackedBytes + b.unackedBytes).toBe(outbox.inFlight)
    expect(outbox.oldestPath).toBe(a)
    outbox.ack(4)
    expect([a.unackedBytes, b.unackedBytes, outbox.inFlight]).toEqual([0, 0, 0])
    expect(b.deliveredBytes).toBe(RECORD_BYTES + HEAD_BYTES)
    expect(outbox.oldestPath).toBeUndefined()
  })

  it('sends again what is taken back, in order and before anything new, and counts it as delivered by neither', () => {
    const bench = new Bench(4)
    const { a, b, outbox } = bench
    bench.pump(a)
    outbox.ack(1)
    const inFlight = outbox.inFlight
    outbox.takeBack(a)
    expect(a.unackedBytes).toBe(0)
    expect(outbox.held).toBe(true)
    bench.add(1)
    bench.pump(b)
    expect(bench.on(1)).toEqual([1, 2, 3, 4])
    expect(outbox.held).toBe(false)
    expect(b.unackedBytes).toBe(outbox.inFlight)
    expect(outbox.inFlight).toBeGreaterThan(inFlight)
    outbox.ack(5)
    expect(a.deliveredBytes).toBe(RECORD_BYTES + HEAD_BYTES)
    expect(b.deliveredBytes).toBe(RECORD_BYTES + HEAD_BYTES)
    expect(b.unackedBytes).toBe(0)
  })

  it('does not send again what was acknowledged before its turn came', () => {
    const bench = new Bench(4)
    bench.pump(bench.a)
    bench.outbox.takeBack(bench.a)
    bench.outbox.ack(3)
    bench.pump(bench.b)
    expect(bench.on(1)).toEqual([3])
    expect(bench.b.unackedBytes).toBe(bench.outbox.inFlight)
  })

  it('takes back from one path only, and keeps what waits for another turn', () => {
    const bench = new Bench(2)
    bench.pump(bench.a)
    bench.add(2)
    bench.pump(bench.b)
    bench.outbox.takeBack(bench.a)
    expect(bench.b.unackedBytes).toBeGreaterThan(0)
    bench.outbox.takeBack(bench.b)
    bench.pump(bench.a)
    expect(bench.on(0)).toEqual([0, 1, 0, 1, 2, 3])
  })

  it('holds nothing back that waits for our own rate', () => {
    const pacer = new Pacer({ perSecond: 1_000, burst: 1_000 }, () => {})
    const bench = new Bench(1, pacer)
    pacer.spend(1_000)
    expect([bench.outbox.held, bench.outbox.empty]).toEqual([true, false])
    bench.pump(bench.a)
    expect([bench.on(0), bench.outbox.held, bench.outbox.empty]).toEqual([[], false, false])
    pacer.close()
  })

  it('holds more back while a writer waits for credit', () => {
    const bench = new Bench(1)
    expect(bench.outbox.held).toBe(true)
    bench.pump(bench.a)
    expect(bench.outbox.held).toBe(false)
  })
})
