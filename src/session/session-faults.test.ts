import fc from 'fast-check'
import { describe, expect, it, vi } from 'vitest'
import type { PathKind } from '../path/index.ts'
import { writeAttach } from './attach.ts'
import {
  codeOf,
  Link,
  noise,
  readAll,
  type Side,
  testKeys,
  useWorlds,
  World,
  type WorldOptions,
} from './memory-path.compliance.ts'
import type { Stream } from './stream.ts'
import { arrived, expectExact, TOTAL, transferWorld } from './transfer.compliance.ts'

let world: World

useWorlds(() => world)

/** Two sessions with a path, both open. */
async function openWorld(options: WorldOptions = {}, kind: PathKind = 'tcp'): Promise<Link> {
  world = new World(options)
  return world.open(kind)
}

describe('a path that ends in the very message that its proof sets off', () => {
  it('leaves a session that waits for another', async () => {
    world = new World({ onStream: (stream) => void stream.write(noise(10)).catch(() => {}) })
    const link = new Link('tcp', 'adopted')
    world.links.push(link)
    const [, end] = link.ends
    // The answer to the record that proves it finds it broken.
    end.send = () => {
      end.end(undefined)
      return false
    }
    const states: string[] = []
    for (const state of ['open', 'reconnecting', 'reconnected'] as const)
      world.sessions[1].addEventListener(state, () => states.push(state))
    world.sessions[0].adopt(link.ends[0], true)
    world.sessions[1].adopt(end, false)
    await world.sessions[0].open('/x/1')
    await world.run(() => end.ended)
    expect([world.sessions[1].state, states]).toEqual(['reconnecting', ['open', 'reconnecting']])
    link.cut()
    world.connect('relay')
    await world.run(() => states.includes('reconnected'))
    expect(world.sessions[1].state).toBe('open')
  })
})

describe('a spoilt path', () => {
  it.each([
    ['a flipped bit in a record', (message: Uint8Array) => [message.map((byte, at) => (at === 40 ? byte ^ 1 : byte))]],
    ['a message of one byte', () => [Uint8Array.of(1)]],
    ['a forged number', (message: Uint8Array) => [message.map((byte, at) => (at === 7 ? byte + 9 : byte))]],
  ])('goes by itself, the session stays: %s', async (_, spoil) => {
    const payload = [noise(TOTAL), noise(TOTAL)] as const
    const transfer = transferWorld(payload)
    world = transfer.world
    world.connect('relay')
    const tcp = world.connect('tcp')
    await world.run(() => world.sessions.every(({ path }) => path === 'tcp'))
    let once = false
    tcp.tap = (message) => {
      if (once || message.length < 60) return [message]
      once = true
      return spoil(message)
    }
    const stream = await world.sessions[0].open('/transfer/1')
    await stream.write(noise(100))
    await world.run(() => once && arrived(transfer))
    expectExact(transfer, payload)
    await world.run(() => tcp.ended)
    expect(world.sessions.map(({ path, state }) => [path, state])).toEqual([
      ['relay', 'open'],
      ['relay', 'open'],
    ])
  })

  it('may say everything twice: what is loose ends it, what is ordered counts once', async () => {
    const payload = [noise(TOTAL), noise(TOTAL)] as const
    const transfer = transferWorld(payload)
    world = transfer.world
    world.connect('relay')
    const tcp = world.connect('tcp')
    tcp.tap = (message) => [message, message.slice()]
    await world.run(() => arrived(transfer) && tcp.ended)
    expectExact(transfer, payload)
  })

  it('that repeats a loose record goes: those mean something once', async () => {
    await openWorld({}, 'relay')
    const tcp = world.connect('tcp')
    await world.run(() => world.sessions.every(({ path }) => path === 'tcp'))
    await world.pass(100)
    const seen: Uint8Array[] = []
    tcp.tap = (message, to) => {
      if (to === 1 && message[0]! >= 0x80) seen.push(message)
      return [message]
    }
    await world.run(() => seen.length > 0)
    await world.pass(100)
    expect(tcp.ended).toBe(false)
    tcp.ends[1].receive(seen[0]!)
    expect(tcp.ends[1].ended).toBe(true)
    expect(world.sessions[1].state).toBe('open')
  })

  it('that delivers garbage never throws, and costs the session only that path', async () => {
    await openWorld({}, 'relay')
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 90 }),
        fc.constantFrom<Side>(0, 1),
        fc.boolean(),
        async (garbage, side, early) => {
          const link = world.connect('tcp')
          if (!early) await world.run(() => world.sessions[side].path === 'tcp')
          if (early && side === 1) link.tap = () => [garbage]
          else if (garbage.length > 0) link.ends[side].receive(garbage)
          await world.run(() => world.deliverOne() === false)
          expect(world.sessions.map(({ state }) => state)).toEqual(['open', 'open'])
          link.cut()
        },
      ),
      { numRuns: 100 },
    )
  })

  it('cannot make a session believe that an attached path is another one', async () => {
    await openWorld({}, 'relay')
    const first = world.connect('tcp')
    const second = world.connect('tcp')
    // The answers are crossed: both are authentic, and neither is for the path it comes on.
    const answers: Uint8Array[] = []
    for (const link of [first, second]) {
      link.tap = (message, to) => {
        if (to === 1) return [message]
        answers.push(message)
        return []
      }
    }
    await world.run(() => answers.length >= 2)
    first.ends[0].receive(answers[1]!)
    expect(first.ends[0].ended).toBe(true)
    expect(world.sessions[0].state).toBe('open')
  })
})

describe('an attach message', () => {
  it('attaches once: a copy of it is refused', async () => {
    const seen: Uint8Array[] = []
    world = new World()
    const link = world.connect()
    link.tap = (message) => {
      seen.push(message)
      return [message]
    }
    await world.run(() => world.sessions.every(({ state }) => state === 'open'))
    const copy = world.connect('tcp')
    copy.tap = (_, to) => (to === 1 ? [seen[0]!] : [])
    await world.run(() => world.refused.length === 1)
    expect(world.refused[0]).toMatchObject({ code: 'ERR_PEERLINE_HANDSHAKE' })
    expect(world.sessions.map(({ state, paths }) => [state, paths.length])).toEqual([
      ['open', 1],
      ['open', 1],
    ])
  })

  it.each([0, 1, 3])('with the path number %d, which the initiator never attaches, is refused', async (pathNumber) => {
    await openWorld()
    const link = world.connect('tcp')
    const keys = testKeys(true)
    link.tap = () => [writeAttach(keys.sessionId, { pathNumber, received: 0 }, keys.attachSend)]
    await world.run(() => world.refused.length === 1)
    expect(world.refused[0]).toMatchObject({ code: 'ERR_PEERLINE_HANDSHAKE' })
  })

  it('is taken also after thousands of paths, and old copies are still refused', async () => {
    let first: Uint8Array | undefined
    await openWorld({}, 'relay')
    for (let count = 0; count < 1_100; count++) {
      const link = world.connect('tcp')
      link.tap = (message) => {
        first ??= message
        return [message]
      }
      await world.run(() => link.ends[1].sent > 0 && !link.ready(0))
      link.cut()
    }
    expect(world.refused).toEqual([])
    world.connect('tcp').tap = () => [first!]
    await world.run(() => world.refused.length === 1)
  })

  it('beyond eight paths is refused, and taken again when one has gone', async () => {
    const link = await openWorld()
    for (let count = 1; count < 8; count++) world.connect('relay')
    await world.pass(100)
    expect(world.sessions[0].paths.length).toBe(8)
    expect(world.connect('relay').ends[0].ended).toBe(true)
    link.cut()
    world.connect('tcp')
    await world.pass(100)
    expect(world.sessions[1].paths.length).toBe(8)
  })
})

describe('a silent path', () => {
  it('is noticed within six seconds while data waits, and the data goes again on the other', async () => {
    const got: Uint8Array[] = []
    await openWorld({ onStream: (stream) => readAll(stream).then((bytes) => got.push(bytes)) }, 'relay')
    const tcp = world.connect('tcp')
    await world.run(() => world.sessions.every(({ path }) => path === 'tcp'))
    tcp.dead.fill(true)
    const start = performance.now()
    const stream = await world.sessions[0].open('/silent/1')
    const payload = noise(90_000)
    await stream.end(payload)
    await world.run(() => got.length === 1)
    expect(Buffer.compare(got[0]!, payload)).toBe(0)
    expect(performance.now() - start).toBeLessThan(6_000)
    expect(world.sessions[0].path).toBe('relay')
    expect(world.sessions[0].state).toBe('open')
  })

  it('is noticed within 30 seconds when nothing is sent', async () => {
    await openWorld({}, 'relay')
    const tcp = world.connect('tcp')
    await world.run(() => world.sessions.every(({ path }) => path === 'tcp'))
    tcp.dead.fill(true)
    await world.pass(30_000)
    expect(world.sessions.map(({ paths }) => paths)).toEqual([['relay'], ['relay']])
  })

  it('is not mistaken for one when the process merely slept', async () => {
    const link = await openWorld()
    await world.pass(7_000)
    // The clock jumps by an hour in one go: timers fire before anything is read.
    const { now } = performance
    const spy = vi.spyOn(performance, 'now').mockImplementation(() => now.call(performance) + 3_600_000)
    await world.pass(5_000)
    expect(link.ended).toBe(false)
    expect(world.sessions.map(({ state }) => state)).toEqual(['open', 'open'])
    await world.pass(20_000)
    expect(link.ended).toBe(false)
    spy.mockRestore()
  })

  it('that never answers an attach is let go', async () => {
    await openWorld({}, 'relay')
    const link = world.connect('tcp')
    link.held.fill(true)
    await world.pass(8_000)
    expect(link.ends[0].ended).toBe(true)
  })
})

describe('an idle session', () => {
  it('is kept alive by pings, with no more timers after an hour than at first', async () => {
    const link = await openWorld()
    await world.pass(1_000)
    const timers = vi.getTimerCount()
    const sent = link.ends[0].sent
    await world.pass(3_600_000, 2_500)
    expect(vi.getTimerCount()).toBeLessThanOrEqual(timers)
    expect(link.ended).toBe(false)
    const pings = link.ends[0].sent - sent
    expect(pings).toBeGreaterThan(100)
    expect(pings).toBeLessThan(800)
  })
})

describe('a session without a path', () => {
  it('fails with one typed error on both sides and on every stream, five seconds after the last was lost', async () => {
    const remote: Stream[] = []
    const link = await openWorld({ onStream: (stream) => remote.push(stream) })
    const local = [await world.sessions[0].open('/a/1'), await world.sessions[0].open('/b/1')]
    await world.run(() => remote.length === 2)
    const reads = [...local, ...remote].map((stream) => codeOf(stream.next()))
    const blocked = codeOf(local[0]!.write(new Uint8Array(1_000_000)))
    link.cut()
    await world.pass(4_900)
    expect(world.sessions.map(({ state }) => state)).toEqual(['reconnecting', 'reconnecting'])
    const later = codeOf(local[1]!.write(new Uint8Array(100_000)))
    await world.pass(200)
    expect(world.closes).toEqual([['ERR_PEERLINE_PATH_LOST'], ['ERR_PEERLINE_PATH_LOST']])
    for (const failure of [...reads, blocked, later]) expect(await failure).toBe('ERR_PEERLINE_PATH_LOST')
    expect(await codeOf(local[0]!.write(Uint8Array.of(1)))).toBe('ERR_PEERLINE_PATH_LOST')
    expect(await codeOf(world.sessions[0].open('/c/1'))).toBe('ERR_PEERLINE_PATH_LOST')
    await world.sessions[0].closed
  })

  it('that never had one fails with ERR_PEERLINE_NO_PATH, not before its 15 seconds, whatever failed meanwhile', async () => {
    world = new World()
    const opened = codeOf(world.sessions[0].opened())
    const stream = await world.sessions[0].open('/never/1')
    const failed = codeOf(stream.next())
    world.connect('tcp').cut()
    await world.pass(14_900)
    expect(world.sessions[0].state).toBe('connecting')
    await world.pass(200)
    expect(await opened).toBe('ERR_PEERLINE_NO_PATH')
    expect(await failed).toBe('ERR_PEERLINE_NO_PATH')
    expect(world.closes).toEqual([['ERR_PEERLINE_NO_PATH'], ['ERR_PEERLINE_NO_PATH']])
  })

  it('gets its five seconds anew after each path', async () => {
    await openWorld()
    for (let count = 0; count < 5; count++) {
      world.links.at(-1)!.cut()
      await world.pass(4_000)
      world.connect()
      await world.pass(1_000)
      expect(world.sessions.map(({ state }) => state)).toEqual(['open', 'open'])
    }
  })

  it('takes no path after its end', async () => {
    await openWorld()
    world.stop()
    const link = world.connect()
    expect(link.ends[0].ended).toBe(true)
    const adopted = new Link('tcp', 'adopted')
    world.sessions[0].adopt(adopted.ends[0], true)
    expect(adopted.ends[0].ended).toBe(true)
  })
})

describe('a change of keys', () => {
  it('by volume goes on through paths lost in the middle of it', async () => {
    const payload = noise(2_000_000)
    const got: Uint8Array[] = []
    await openWorld({
      rekey: { records: 8 },
      onStream: (stream) => readAll(stream).then((bytes) => got.push(bytes)),
    })
    const stream = await world.sessions[0].open('/rekey/1')
    void stream.end(payload)
    let last = world.delivered
    world.beforeDelivery = () => {
      if (world.delivered - last < 13) return
      last = world.delivered
      world.links.at(-1)!.cut()
      world.connect(last % 2 === 0 ? 'tcp' : 'relay')
    }
    await world.run(() => got.length === 1)
    expect(Buffer.compare(got[0]!, payload)).toBe(0)
    expect(world.sessions[0].epoch).toBeGreaterThan(1)
  })

  it('waits until the other side has seen the present key, so that no record comes two keys ahead', async () => {
    const got: Uint8Array[] = []
    await openWorld(
      { rekey: { records: 4 }, onStream: (stream) => readAll(stream).then((bytes) => got.push(bytes)) },
      'relay',
    )
    const relay = world.links[0]!
    const stream = await world.sessions[0].open('/ahead/1')
    const payload = noise(240_000)
    const chunk = (at: number) => payload.subarray(at * 10_000, (at + 1) * 10_000)
    for (let at = 0; at < 4; at++) await stream.write(chunk(at))
    await world.pass(100)
    // From here on the relay is slow: what is sealed on it is not seen until much later.
    relay.held[1] = true
    for (let at = 4; at < 14; at++) await stream.write(chunk(at))
    const tcp = world.connect('tcp')
    await world.run(() => world.sessions[0].path === 'tcp')
    for (let at = 14; at < 24; at++) await stream.write(chunk(at))
    await stream.end()
    await world.pass(100)
    relay.held[1] = false
    await world.run(() => got.length === 1)
    expect(Buffer.compare(got[0]!, payload)).toBe(0)
    expect([relay.ended, tcp.ended]).toEqual([false, false])
    expect(world.sessions[0].epoch).toBeGreaterThan(0)
  })

  it('by time happens at the next record after the hour', async () => {
    await openWorld({ rekey: { ms: 60_000 } })
    const stream = await world.sessions[0].open('/time/1')
    await stream.write(noise(10))
    await world.pass(61_000)
    expect(world.sessions[0].epoch).toBe(0)
    await stream.write(noise(10))
    await world.pass(100)
    expect(world.sessions[0].epoch).toBe(1)
  })
})
