import { describe, expect, it } from 'vitest'
import type { PathKind } from '../path/index.ts'
import {
  type MeteredPath,
  type MeterVerdict,
  PathMeter,
  RETRY_MS,
  STALL_MS,
  TICK_MS,
  UDP_MARGIN,
} from './path-meter.ts'

/** A path of which the test says what it does. */
class Way implements MeteredPath {
  readonly path: { readonly kind: PathKind }
  deliveredBytes = 0
  unackedBytes = 0
  minRttMs: number | undefined
  answeredAt: number = Number.NEGATIVE_INFINITY
  pingedAt: number | undefined
  /** Bytes per ms that it delivers. */
  pace: number
  rate: number | undefined

  constructor(kind: PathKind, pace: number, rttMs: number | undefined) {
    this.path = { kind }
    this.pace = pace
    this.minRttMs = rttMs
  }
}

/** A transfer, tick by tick; what the meter says is done, and noted. */
class Bench {
  readonly meter = new PathMeter()
  used: Way
  rival: Way | undefined
  now = 1_000
  waiting = true
  inFlight = true
  elsewhere: Way | undefined
  acked = 0
  readonly said: [number, MeterVerdict][] = []
  readonly #start = this.now

  constructor(tcp: number, udp: number | undefined, rttMs: number | undefined = 60, used: 'tcp' | 'udp' = 'tcp') {
    const ways = [new Way('tcp', tcp, rttMs), udp === undefined ? undefined : new Way('udp', udp, rttMs)] as const
    this.used = used === 'tcp' ? ways[0] : ways[1]!
    this.rival = used === 'tcp' ? ways[1] : ways[0]
  }

  get ms(): number {
    return this.now - this.#start
  }

  /** What was said, without the knocks. */
  get moves(): MeterVerdict[] {
    return this.said.map(([, verdict]) => verdict).filter((verdict) => verdict !== 'knock')
  }

  run(ms: number, until?: MeterVerdict): void {
    const { rival } = this
    for (const end = this.now + ms; this.now < end; ) {
      this.now += TICK_MS
      if (this.inFlight && this.used.pace > 0) {
        this.used.deliveredBytes += this.used.pace * TICK_MS
        this.acked++
      }
      const { now, used, waiting, inFlight, acked, elsewhere } = this
      const verdict = this.meter.tick({
        now,
        used,
        rival: this.rival,
        waiting,
        inFlight,
        acked,
        elsewhere,
        late: false,
      })
      if (verdict === 'stay') continue
      this.said.push([this.ms, verdict])
      if (verdict === 'knock') this.rival!.answeredAt = now + (rival?.minRttMs ?? 0)
      if (verdict === 'gather') this.elsewhere = undefined
      if (verdict === 'try' || verdict === 'flee' || verdict === 'back')
        [this.used, this.rival] = [this.rival!, this.used]
      if (verdict === until) return
    }
  }
}

describe('a meter', () => {
  it.each<[string, Bench, MeterVerdict[]]>([
    ['udp that is much faster: tried, and kept', new Bench(1_000, 39_000), ['try', 'won']],
    ['udp that is faster by less than its cost: tried, and left', new Bench(10_000, 12_000), ['try', 'back']],
    ['udp that is slower: tried, and left', new Bench(10_000, 1_000), ['try', 'back']],
    ['udp that delivers nothing: fled from', new Bench(10_000, 0), ['try', 'flee']],
    ['tcp that does what udp could at best: left alone', new Bench(45_000, 54_000), []],
    ['a short round trip: left alone', new Bench(3_000, 39_000, 19), []],
    ['no udp path: left alone', new Bench(1_000, undefined), []],
    ['a slow tcp path at 200 ms', new Bench(450, 10_600, 200), ['try', 'won']],
    ['from udp, tcp as good: tried, and kept', new Bench(19_000, 20_000, 60, 'udp'), ['try', 'won']],
    ['from udp, tcp not as good: tried, and left', new Bench(17_000, 20_000, 60, 'udp'), ['try', 'back']],
  ])('%s', (_, bench, moves) => {
    bench.run(3_000)
    expect(bench.moves).toEqual(moves)
    expect(bench.meter.trying).toBe(false)
  })

  it('asks whether the rival is there before it tries it, and does not try one that does not answer', () => {
    const bench = new Bench(1_000, 39_000)
    bench.run(3_000, 'try')
    expect(bench.said.map(([, verdict]) => verdict)).toEqual(['knock', 'try'])
    const deaf = new Bench(1_000, 39_000)
    deaf.rival!.pingedAt = 0
    deaf.run(10_000)
    expect(deaf.said).toEqual([])
  })

  it.each<[string, (bench: Bench) => void]>([
    [
      'nothing waits to be sent',
      (bench) => {
        bench.waiting = false
      },
    ],
    [
      'nothing is on its way, for the reader is slow',
      (bench) => {
        bench.waiting = false
        bench.inFlight = false
      },
    ],
  ])('takes nothing for evidence while %s', (_, set) => {
    const bench = new Bench(1_000, 39_000)
    set(bench)
    bench.run(20_000)
    expect(bench.said).toEqual([])
    expect(bench.meter.rate).toBeUndefined()
  })

  it('takes nothing for evidence of a writer that fills its path now and then', () => {
    const bench = new Bench(1_000, 39_000)
    for (let tick = 0; tick < 200; tick++) {
      bench.waiting = tick % 2 === 0
      bench.run(TICK_MS)
    }
    expect(bench.said).toEqual([])
    expect(bench.meter.rate).toBeUndefined()
  })

  it('waits while the rate still grows, but not for ever', () => {
    const bench = new Bench(100, 39_000)
    for (let tick = 0; bench.moves.length === 0 && tick < 100; tick++) {
      bench.used.pace *= 1.1
      bench.run(TICK_MS)
    }
    expect(bench.ms).toBeGreaterThan(1_400)
    expect(bench.ms).toBeLessThanOrEqual(1_600)
  })

  it('does not count what had piled up behind the tail of the path before', () => {
    const bench = new Bench(10_000, 10_000)
    bench.run(3_000, 'try')
    bench.used.pace = 0
    for (let tick = 0; tick < 4; tick++) {
      bench.acked++
      bench.run(TICK_MS)
    }
    bench.used.pace = 10_000
    bench.used.deliveredBytes += 4_000_000
    bench.run(3_000)
    expect(bench.moves).toEqual(['try', 'back'])
    expect(bench.meter.outcome?.rate).toBeLessThan(10_000 * UDP_MARGIN)
  })

  it('sends a tail again that does not come through, before it judges a trial', () => {
    const bench = new Bench(1_000, 39_000)
    bench.run(3_000, 'try')
    bench.used.pace = 0
    bench.elsewhere = bench.rival
    bench.run(500, 'gather')
    bench.used.pace = 39_000
    bench.run(2_000)
    expect(bench.moves).toEqual(['try', 'gather', 'won'])
  })

  it('sends a tail again that comes through too slowly, before it judges a trial', () => {
    const bench = new Bench(1_000, 39_000)
    bench.run(3_000, 'try')
    const rival = bench.rival!
    rival.unackedBytes = 1
    bench.used.pace = 0
    bench.elsewhere = rival
    for (let tick = 0; bench.elsewhere !== undefined && tick < 40; tick++) {
      bench.acked++
      bench.run(TICK_MS)
    }
    rival.unackedBytes = 0
    bench.used.pace = 39_000
    bench.run(2_000)
    expect(bench.moves).toEqual(['try', 'gather', 'won'])
  })

  it('leaves a trial when the transfer ends in it, and that counts for nothing', () => {
    const bench = new Bench(10_000, 12_000)
    bench.run(3_000, 'try')
    bench.waiting = false
    bench.inFlight = false
    bench.run(2_000)
    expect(bench.moves).toEqual(['try', 'back'])
    expect(bench.meter.outcome).toBeUndefined()
    bench.waiting = true
    bench.inFlight = true
    bench.run(2_500)
    expect(bench.moves).toEqual(['try', 'back', 'try', 'back'])
  })

  it('tries again after longer and longer pauses', () => {
    const bench = new Bench(10_000, 11_000)
    bench.run(300_000)
    const tries = bench.said.filter(([, verdict]) => verdict === 'try').map(([ms]) => ms)
    const pauses = tries.slice(1).map((ms, at) => ms - tries[at]!)
    expect(pauses.length).toBe(4)
    for (const [at, pause] of pauses.entries()) {
      expect(pause).toBeGreaterThanOrEqual(RETRY_MS[at]!)
      expect(pause).toBeLessThan(RETRY_MS[at]! + 2_000)
    }
  })

  it('tries ahead of time when the rate falls to less than half, and not for less', () => {
    const bench = new Bench(10_000, 11_000)
    bench.run(6_000)
    expect(bench.moves).toEqual(['try', 'back'])
    bench.used.pace = 6_000
    bench.run(3_000)
    expect(bench.moves.length).toBe(2)
    bench.used.pace = 3_000
    bench.run(2_500)
    expect(bench.moves).toEqual(['try', 'back', 'try', 'won'])
  })
})

describe('a stall', () => {
  it('is fled from, at any round trip and to any kind, when the rival answers and nothing has moved since', () => {
    for (const [rttMs, kind] of [
      [5, 'udp'],
      [60, 'relay'],
    ] as const) {
      const bench = new Bench(10_000, undefined, rttMs)
      bench.rival = new Way(kind, 5_000, rttMs)
      bench.run(1_000)
      const from = bench.now
      bench.used.pace = 0
      // An answer from before the stall says nothing.
      bench.rival.answeredAt = from - 1
      bench.run(3_000, 'flee')
      expect(bench.said.map(([, verdict]) => verdict)).toEqual(['knock', 'flee'])
      expect(bench.now - from).toBeGreaterThanOrEqual(STALL_MS)
      expect(bench.now - from).toBeLessThan(STALL_MS + 4 * TICK_MS)
      bench.run(1_000)
      expect(bench.moves).toEqual(['flee', 'won'])
    }
  })

  it('of both paths at once is nobody’s fault: nothing moves while the rival does not answer', () => {
    const bench = new Bench(10_000, 10_000, 5)
    bench.run(1_000)
    bench.used.pace = 0
    bench.rival!.pingedAt = bench.now
    bench.run(20_000)
    expect(bench.moves).toEqual([])
  })

  it('of two paths that answer pings and deliver nothing moves them less and less often', () => {
    const bench = new Bench(10_000, 0, 5)
    bench.run(1_000)
    bench.used.pace = 0
    bench.run(60_000)
    expect(bench.moves).toEqual(['flee', 'flee', 'flee', 'flee', 'flee', 'flee'])
  })

  it('that ends before the rival answers is none', () => {
    const bench = new Bench(10_000, 10_000, 5)
    bench.run(1_000)
    bench.used.pace = 0
    bench.rival!.pingedAt = bench.now
    bench.run(STALL_MS + 200)
    bench.used.pace = 10_000
    bench.rival!.answeredAt = bench.now
    bench.run(5_000)
    expect(bench.moves).toEqual([])
  })

  it('of a slow line is one after three records at its rate, not after half a second', () => {
    const bench = new Bench(100, 10_000, 5)
    bench.used.unackedBytes = 1_000_000
    bench.run(2_000)
    bench.used.pace = 0
    bench.run(1_500)
    expect(bench.moves).toEqual([])
    bench.run(1_000)
    expect(bench.moves[0]).toBe('flee')
  })

  it('for what waits on a path that was left is ended by sending that again', () => {
    const bench = new Bench(10_000, undefined, 5)
    bench.run(1_000)
    bench.used.pace = 0
    bench.elsewhere = new Way('relay', 0, 5)
    bench.run(STALL_MS + 100)
    expect(bench.moves).toEqual(['gather'])
  })

  it('is not seen in a process that slept', () => {
    const bench = new Bench(10_000, 10_000, 5)
    bench.run(1_000)
    bench.used.pace = 0
    bench.run(300)
    bench.now += 3_600_000
    bench.run(300)
    bench.used.pace = 10_000
    bench.run(1_000)
    expect(bench.moves).toEqual([])
  })

  it('is over when all has been acknowledged, though nothing more was to be measured', () => {
    const bench = new Bench(10_000, undefined, 60)
    bench.rival = new Way('relay', 0, 60)
    bench.run(1_000)
    bench.used.pace = 0
    bench.run(3_000, 'flee')
    bench.acked++
    bench.inFlight = false
    bench.waiting = false
    bench.run(100)
    expect(bench.moves).toEqual(['flee', 'won'])
  })
})
