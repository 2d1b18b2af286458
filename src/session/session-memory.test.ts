import fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import { Hostile } from './hostile.compliance.ts'
import { MemoryBudget } from './memory-budget.ts'
import { codeOf, noise, readAll, type Side, useFakeTime, useWorlds, World } from './memory-path.compliance.ts'
import { INITIAL_WINDOW_BYTES, type Stream } from './stream.ts'

const STEP = 262_144
const NONE = new MemoryBudget(0)

let world: World | undefined

useWorlds(() => world)
afterEach(() => {
  expect(NONE.used).toBe(0)
})

async function openWorld(memory: MemoryBudget, onStream: (stream: Stream, side: Side) => void): Promise<World> {
  world = new World({ memory, onStream })
  await world.open()
  return world
}

describe('where all memory is used up', () => {
  it('transfers still work: in the first windows, with little on its way', async () => {
    const got: Promise<Uint8Array>[] = []
    const { sessions, ...rest } = await openWorld(NONE, (stream) => got.push(readAll(stream)))
    const payload = noise(5_000_000)
    const link = rest.links[0]!
    let most = 0
    world!.beforeDelivery = () => {
      most = Math.max(most, link.ends[0].queuedBytes)
    }
    const sending = (await sessions[0].open('/x/1')).end(payload)
    await world!.run(() => got.length === 1)
    expect(Buffer.compare(await world!.settled(got[0]!), payload)).toBe(0)
    await sending
    expect(most).toBeLessThan(STEP + 70_000)
    expect(most).toBeGreaterThan(STEP / 2)
  })

  it('a stream that nobody reads is given up above 512 KiB of the session, and what is read goes on', async () => {
    const seen: Stream[] = []
    const { sessions } = await openWorld(NONE, (stream) => seen.push(stream))
    const open = async (bytes: number) => {
      const stream = await sessions[0].open('/x/1')
      await world!.settled(stream.write(noise(bytes)))
      await world!.quiet()
      return stream
    }
    const all = [await open(STEP), await open(STEP - 1_000)]
    const late = await open(900)
    const failed = codeOf((await open(200)).next())
    expect(await world!.settled(failed)).toBe('ERR_PEERLINE_BUSY')
    expect(await codeOf(seen[3]!.next())).toBe('ERR_PEERLINE_LIMIT')
    // What is read as it comes is not held.
    const fifth = await sessions[0].open('/x/1')
    await world!.quiet()
    seen[4]!.pipeTo({ data: () => {}, end: () => {}, error: () => {} })
    await world!.settled(fifth.end(noise(1_000_000)))
    // And what was there before is still there.
    for (const stream of [...all, late]) await stream.end()
    const read = await world!.settled(Promise.all(seen.slice(0, 3).map(readAll)))
    expect(read.map(({ length }) => length)).toEqual([STEP, STEP - 1_000, 900])
  })

  it('what was read and is kept counts until its stream is done', async () => {
    const seen: Stream[] = []
    const hostile = new Hostile({ memory: NONE, onStream: (stream) => seen.push(stream) })
    world = hostile.world
    hostile.send((frames) => {
      frames.open(0, '/x/1')
      frames.open(2, '/x/1')
    })
    const [first, second] = seen as [Stream, Stream]
    expect([first.retain(2 * STEP), second.retain(1)]).toEqual([true, false])
    first.reset()
    expect([second.retain(2 * STEP), second.retain(1)]).toEqual([true, false])
  })

  it('records that come early are kept up to a first window, and above that their path is let go', async () => {
    const hostile = new Hostile({ memory: NONE })
    world = hostile.world
    const never = hostile.sealer.ordered(Uint8Array.of(1), undefined)
    expect(never.length).toBeGreaterThan(0)
    const body = new Uint8Array(50_000)
    for (let count = 0; count < 5; count++) hostile.send((frames) => frames.dataToEnd(0, false), body)
    expect(hostile.link.ends[1].ended).toBe(false)
    hostile.send((frames) => frames.dataToEnd(0, false), body)
    expect(hostile.link.ends[1].ended).toBe(true)
  })
})

describe('a budget of all sessions', () => {
  it('is what their windows grow from, one as the other, and no further', async () => {
    const memory = new MemoryBudget(4 * INITIAL_WINDOW_BYTES)
    const readers: Stream[] = []
    await openWorld(memory, (stream) => {
      readers.push(stream)
      stream.pipeTo({ data: () => {}, end: () => {}, error: () => {} })
    })
    let most = 0
    world!.beforeDelivery = () => {
      most = Math.max(most, memory.used)
    }
    const stream = await world!.sessions[0].open('/x/1')
    await world!.settled(stream.end(noise(8_000_000)))
    await world!.quiet()
    expect(most).toBe(memory.limit)
    for (const one of [stream, ...readers]) one.reset()
    await world!.pass(100)
    expect(memory.used).toBe(0)
  })

  it('has it all back when sessions end, though their streams are still to be read', async () => {
    const memory = new MemoryBudget()
    const seen: Stream[] = []
    await openWorld(memory, (stream) => seen.push(stream))
    for (let count = 0; count < 10; count++) {
      await world!.settled((await world!.sessions[0].open('/x/1')).end(noise(150_000)))
    }
    await world!.quiet()
    // Above the first 512 KiB, in steps.
    expect(memory.used).toBe(4 * STEP)
    world!.stop()
    expect(memory.used).toBe(0)
    for (const stream of seen) expect((await readAll(stream)).length).toBe(150_000)
    expect(memory.used).toBe(0)
  })

  type Step =
    | { readonly do: 'open' | 'end' | 'reset' | 'read' | 'cancel'; readonly at: number; readonly pick: number }
    | { readonly do: 'write'; readonly at: number; readonly pick: number; readonly bytes: number }
    | { readonly do: 'cut' | 'attach' | 'close'; readonly at: number }
    | { readonly do: 'wait'; readonly ms: number }

  it('is never exceeded, and unused when all have ended, whatever happens', async () => {
    const [at, pick] = [fc.nat(3), fc.nat(30)]
    const kind = <K extends string>(...names: K[]) => fc.constantFrom(...names)
    const step: fc.Arbitrary<Step> = fc.oneof(
      {
        weight: 9,
        arbitrary: fc.record({ do: kind('open', 'open', 'open', 'read', 'end', 'reset', 'cancel'), at, pick }),
      },
      {
        weight: 4,
        arbitrary: fc.record({ do: kind('write'), at, pick, bytes: fc.constantFrom(10, 5_000, 200_000, 600_000) }),
      },
      { weight: 1, arbitrary: fc.record({ do: kind('cut', 'attach', 'close'), at }) },
      { weight: 3, arbitrary: fc.record({ do: kind('wait'), ms: fc.constantFrom(1, 30, 600) }) },
    )
    const met = { full: 0, free: 0 }
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 5 }),
        fc.array(step, { minLength: 20, maxLength: 60 }),
        async (units, steps) => {
          useFakeTime()
          const memory = new MemoryBudget(units * INITIAL_WINDOW_BYTES)
          const streams: Stream[][] = Array.from({ length: 4 }, () => [])
          const worlds = [0, 2].map(
            (first) => new World({ memory, onStream: (stream, side) => streams[first + side]!.push(stream) }),
          )
          const watch = () => {
            expect(memory.used).toBeLessThanOrEqual(memory.limit)
            expect(memory.used).toBeGreaterThanOrEqual(0)
            if (memory.used > 0) met[memory.used === memory.limit ? 'full' : 'free']++
          }
          for (const each of worlds) {
            each.beforeDelivery = watch
            await each.open()
          }
          for (const one of steps) {
            if (one.do === 'wait') {
              for (const each of worlds) await each.pass(one.ms)
              continue
            }
            const [each, side] = [worlds[one.at >> 1]!, (one.at & 1) as Side]
            const session = each.sessions[side]
            const stream = 'pick' in one ? streams[one.at]![one.pick % Math.max(1, streams[one.at]!.length)] : undefined
            if (one.do === 'open') {
              const opened = await Promise.race([session.open('/x/1').catch(() => {}), each.quiet()])
              if (opened !== undefined) streams[one.at]!.push(opened)
            } else if (one.do === 'write') stream?.write(noise(one.bytes)).catch(() => {})
            else if (one.do === 'end') stream?.end().catch(() => {})
            else if (one.do === 'reset') stream?.reset()
            else if (one.do === 'cancel') stream?.cancel()
            else if (one.do === 'read') stream?.pipeTo({ data: () => {}, end: () => {}, error: () => {} })
            else if (one.do === 'cut') each.standing[0]?.cut()
            else if (one.do === 'attach') each.connect('relay', side)
            else if (one.do === 'close') void session.close()
            watch()
          }
          for (const each of worlds) {
            each.stop()
            await each.pass(20)
          }
          expect(memory.used).toBe(0)
        },
      ),
      { numRuns: 80, seed: 20_261_121 },
    )
    // It was met, or nothing was shown.
    expect(met.full).toBeGreaterThan(100)
    expect(met.free).toBeGreaterThan(100)
  })
})
