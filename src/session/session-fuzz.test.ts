import fc from 'fast-check'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { type Side, useFakeTime, World } from './memory-path.compliance.ts'
import type { Stream } from './stream.ts'

beforeEach(useFakeTime)
afterEach(() => vi.useRealTimers())

/** One step of what may happen to two sessions; `pick` chooses a link that is still open. */
type Step =
  | { readonly do: 'write'; readonly side: Side; readonly bytes: number }
  | { readonly do: 'attach'; readonly by: Side; readonly kind: 'tcp' | 'udp' | 'relay' }
  | { readonly do: 'cut'; readonly pick: number; readonly only: Side | undefined }
  | { readonly do: 'dead'; readonly pick: number; readonly to: Side }
  | { readonly do: 'hold'; readonly pick: number; readonly to: Side; readonly on: boolean }
  | { readonly do: 'corrupt' | 'double'; readonly pick: number }
  | { readonly do: 'narrow'; readonly pick: number; readonly bytes: number }
  | { readonly do: 'deliver'; readonly count: number }
  | { readonly do: 'wait'; readonly ms: number }

const side = fc.constantFrom<Side>(0, 1)
const pick = fc.nat(7)
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('write' as const),
      side,
      bytes: fc.oneof(fc.integer({ min: 1, max: 300 }), fc.constantFrom(4_096, 4_097, 30_000, 65_536, 65_537, 300_000)),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('attach' as const),
      by: side,
      kind: fc.constantFrom('tcp' as const, 'udp' as const, 'relay' as const),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant('cut' as const), pick, only: fc.option(side, { nil: undefined }) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('dead' as const), pick, to: side }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('hold' as const), pick, to: side, on: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('corrupt' as const, 'double' as const), pick }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('narrow' as const), pick, bytes: fc.integer({ min: 1, max: 99_999 }) }),
  },
  { weight: 6, arbitrary: fc.record({ do: fc.constant('deliver' as const), count: fc.integer({ min: 1, max: 12 }) }) },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.constantFrom(1, 25, 300, 1_500, 4_500) }),
  },
)

/** Byte `at` of what `from` writes: a lost, doubled or moved one is seen at once. */
function byteAt(at: number, from: Side): number {
  return (at * 31 + (at >>> 8) * 7 + (at >>> 16) + from * 101) & 0xff
}

class Run {
  readonly written: [number, number] = [0, 0]
  readonly read: [number, number] = [0, 0]
  readonly wrong: string[] = []
  readonly ended: [boolean, boolean] = [false, false]
  readonly streams: [Stream | undefined, Stream | undefined] = [undefined, undefined]
  readonly world = new World({ rekey: { records: 5 }, onStream: (stream, at) => this.take(stream, at) })

  take(stream: Stream, at: Side): void {
    this.streams[at] = stream
    const from: Side = at === 0 ? 1 : 0
    stream.pipeTo({
      data: (chunk) => {
        for (const byte of chunk) {
          if (byte !== byteAt(this.read[at]++, from)) this.wrong.push(`byte ${this.read[at] - 1} from ${from}`)
        }
      },
      end: () => {
        this.ended[at] = true
      },
      error: () => {},
    })
  }

  write(at: Side, bytes: number): void {
    const stream = this.streams[at]
    if (stream === undefined) return
    const start = this.written[at]
    const data = Uint8Array.from({ length: bytes }, (_, index) => byteAt(start + index, at))
    this.written[at] += bytes
    stream.write(data).catch(() => {})
  }

  async do(step: Step): Promise<void> {
    const { world } = this
    const open = world.standing
    const link = 'pick' in step && open.length > 0 ? open[step.pick % open.length] : undefined
    switch (step.do) {
      case 'write':
        this.write(step.side, step.bytes)
        break
      case 'attach':
        world.connect(step.kind, step.by)
        break
      case 'cut':
        link?.cut(step.only)
        break
      case 'dead':
        if (link !== undefined) link.dead[step.to] = true
        break
      case 'hold':
        if (link !== undefined) link.held[step.to] = step.on
        break
      case 'corrupt':
      case 'double': {
        if (link === undefined) break
        const altered = step.do
        link.tap = (message) => {
          link.tap = undefined
          if (altered === 'double') return [message, message.slice()]
          const forged = message.slice()
          forged[forged.length >> 1]! ^= 4
          return [forged]
        }
        break
      }
      case 'narrow':
        if (link !== undefined) link.highWater = step.bytes
        break
      case 'deliver':
        await world.turn(0)
        for (let count = 0; count < step.count && world.deliverOne(); count++);
        break
      case 'wait':
        await world.pass(step.ms)
    }
  }
}

it('whatever happens to the paths, bytes arrive exactly and in order, or both sides fail with one typed error', async () => {
  const outcomes = { exact: 0, failed: 0 }
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 5, maxLength: 60 }),
      fc.integer({ min: 1, max: 5 }),
      async (steps, luck) => {
        const run = new Run()
        const { world } = run
        world.connect()
        run.take(await world.sessions[0].open('/fuzz/1'), 0)
        for (const one of steps) await run.do(one)
        // The weather clears: what hangs is noticed, and one good path is there. Or, one time in five, it does not.
        for (const link of world.links) {
          link.held.fill(false)
          if (luck === 1) link.dead.fill(true)
        }
        if (luck !== 1) world.connect('relay')
        await world.pass(1)
        for (const stream of run.streams) stream?.end().catch(() => {})
        await world.pass(12_000, 100)
        for (const stream of run.streams) stream?.end().catch(() => {})
        await world.pass(30_000, 250)
        expect(run.wrong).toEqual([])
        const states = world.sessions.map(({ state }) => state)
        if (states.includes('closed')) {
          outcomes.failed++
          for (const codes of world.closes)
            expect(['ERR_PEERLINE_PATH_LOST', 'ERR_PEERLINE_NO_PATH']).toContain(codes[0])
          expect(world.closes.map((codes) => codes.length)).toEqual([1, 1])
          expect(run.read[0]).toBeLessThanOrEqual(run.written[1])
          expect(run.read[1]).toBeLessThanOrEqual(run.written[0])
        } else {
          outcomes.exact++
          expect(run.read).toEqual([run.written[1], run.written[0]])
          expect(run.ended).toEqual([true, true])
        }
        world.stop()
        await world.pass(1)
        expect(vi.getTimerCount()).toBe(0)
      },
    ),
    { numRuns: 150, seed: 20_260_721 },
  )
  // Both outcomes were met, or the weather was too good or too bad to show anything.
  expect(outcomes.exact).toBeGreaterThan(60)
  expect(outcomes.failed).toBeGreaterThan(10)
})
