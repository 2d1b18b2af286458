import { describe, expect, it } from 'vitest'
import type { PathKind } from '../path/index.ts'
import { type Link, noise, readAll, type Side, useWorlds, World, type WorldOptions } from './memory-path.compliance.ts'
import type { Stream } from './stream.ts'
import { arrived, expectExact, TOTAL, transferWorld } from './transfer.compliance.ts'

let world: World

useWorlds(() => world)

/** Two sessions with a path, both open. */
async function openWorld(options: WorldOptions = {}, kind: PathKind = 'tcp'): Promise<Link> {
  world = new World(options)
  return world.open(kind)
}

describe('a path cut at every message boundary', () => {
  const payload = [noise(TOTAL), noise(TOTAL)] as const

  /** Runs the transfer once for each message, with `cut` called before that message is delivered. */
  async function atEvery(
    cut: (at: number) => void,
    begin: () => void,
    options: Parameters<typeof transferWorld>[1] = {},
  ): Promise<number> {
    for (let at = 0; ; at++) {
      const transfer = transferWorld(payload, options)
      world = transfer.world
      begin()
      let reached = false
      world.beforeDelivery = () => {
        if (reached || world.delivered < at) return
        reached = true
        cut(at)
      }
      await world.run(() => arrived(transfer), 20_000, 25)
      expectExact(transfer, payload)
      world.beforeDelivery = undefined
      if (!reached) return at
      world.stop()
      await world.pass(1)
    }
  }

  it('and replaced at once loses, doubles and moves nothing', async () => {
    const points = await atEvery(
      (at) => {
        world.links.at(-1)!.cut()
        world.connect('tcp', (at % 2) as Side)
      },
      () => world.connect(),
    )
    expect(points).toBeGreaterThan(12)
  })

  it('and replaced two seconds later loses nothing either', async () => {
    await atEvery(
      () => {
        const cutWorld = world
        cutWorld.links.at(-1)!.cut()
        setTimeout(() => cutWorld.connect('relay'), 2_000)
      },
      () => world.connect(),
    )
    await world.pass(2_000)
  })

  it('while another path stands by loses nothing, and needs no new one', async () => {
    await atEvery(
      () => world.links[1]!.cut(),
      () => {
        world.connect('relay')
        world.connect('tcp')
      },
    )
    expect(world.links.length).toBe(2)
  })

  it('at one end only, so that the other end hangs, is noticed and made good', async () => {
    await atEvery(
      (at) => {
        world.links.at(-1)!.cut((at % 2) as Side)
        world.connect('tcp', (at % 2) as Side)
      },
      () => world.connect(),
    )
  })

  it('without a word is noticed at both ends and made good', async () => {
    await atEvery(
      () => {
        world.links[1]!.dead.fill(true)
      },
      () => {
        world.connect('relay')
        world.connect('tcp')
      },
    )
  })

  it('with the key changed every two records loses nothing', async () => {
    await atEvery(
      (at) => {
        world.links.at(-1)!.cut()
        world.connect('tcp', (at % 2) as Side)
      },
      () => world.connect(),
      { rekey: { records: 2 }, pauseMs: 30 },
    )
    expect(world.sessions.map(({ epoch }) => epoch > 0)).toEqual([true, true])
  })

  it('again and again, every few messages, loses nothing as long as some get through', async () => {
    // Below that, a path is used up by attaching it.
    for (let every = 8; every < 15; every++) {
      const transfer = transferWorld(payload)
      world = transfer.world
      world.connect()
      let last = 0
      world.beforeDelivery = () => {
        if (world.delivered - last < every) return
        last = world.delivered
        world.links.at(-1)!.cut()
        world.connect('tcp', (every % 2) as Side)
      }
      await world.run(() => arrived(transfer), 20_000, 25)
      expectExact(transfer, payload)
      expect(world.links.length).toBeGreaterThan(1)
      world.stop()
      await world.pass(1)
    }
  })
})

describe('the path in use', () => {
  it('moves from relay to tcp when that is proven, and not before, and back when it is lost', async () => {
    await openWorld({}, 'relay')
    const tcp = world.connect('tcp')
    tcp.held.fill(true)
    await world.pass(100)
    expect(world.sessions.map(({ path }) => path)).toEqual(['relay', 'relay'])
    tcp.held.fill(false)
    await world.run(() => world.changes.every((changes) => changes.length === 1))
    expect(world.changes).toEqual([
      [{ from: 'relay', to: 'tcp', reason: 'better' }],
      [{ from: 'relay', to: 'tcp', reason: 'better' }],
    ])
    expect(world.sessions.map(({ paths }) => paths)).toEqual([
      ['relay', 'tcp'],
      ['relay', 'tcp'],
    ])
    tcp.cut()
    await world.run(() => world.changes.every((changes) => changes.length === 2))
    for (const changes of world.changes) expect(changes[1]).toEqual({ from: 'tcp', to: 'relay', reason: 'lost' })
    expect(world.sessions.map(({ path }) => path)).toEqual(['relay', 'relay'])
  })

  it('stays when a worse or an equal one is attached', async () => {
    await openWorld()
    world.connect('relay')
    world.connect('tcp')
    await world.pass(1_000)
    expect(world.changes).toEqual([[], []])
    expect(world.sessions[0].paths).toEqual(['tcp', 'relay', 'tcp'])
  })

  it('is told of once it is proven, when the one before was lost long ago', async () => {
    const tcp = await openWorld()
    tcp.cut()
    await world.pass(1_000)
    expect(world.sessions.map(({ path }) => path)).toEqual([undefined, undefined])
    world.connect('relay', 1)
    await world.run(() => world.changes.every((changes) => changes.length === 1))
    expect(world.changes[0]).toEqual([{ from: 'tcp', to: 'relay', reason: 'lost' }])
  })

  it('is wanted until one is proven: what merely opened may come to nothing', async () => {
    const wanted = () => world.sessions.map(({ needsPath }) => needsPath)
    const tcp = await openWorld()
    expect(wanted()).toEqual([false, false])
    tcp.cut()
    const relay = world.connect('relay')
    relay.held[0] = true
    await world.pass(1_000)
    expect(world.sessions.map(({ pathInfo }) => pathInfo.map(({ stage }) => stage))).toEqual([
      ['attaching'],
      ['unproven'],
    ])
    expect(wanted()).toEqual([true, true])
    relay.cut()
    expect(wanted()).toEqual([true, true])
    world.connect('tcp')
    await world.run(() => world.sessions.every(({ state }) => state === 'open'))
    expect(wanted()).toEqual([false, false])
  })

  it('carries data in its first flight, before anything is proven', async () => {
    const got: Uint8Array[] = []
    world = new World({ onStream: (stream) => readAll(stream).then((bytes) => got.push(bytes)) })
    const stream = await world.sessions[0].open('/first/1')
    const payload = noise(3_000)
    await stream.end(payload)
    const link = world.connect()
    link.held[0] = true
    await world.run(() => got.length === 1)
    expect(Buffer.compare(got[0]!, payload)).toBe(0)
    expect(world.sessions[0].state).toBe('connecting')
    expect(world.sessions[1].state).toBe('open')
    link.held[0] = false
    await world.settled(world.sessions[0].opened())
  })

  it('has a measured round trip at the side that attached it', async () => {
    const link = await openWorld()
    await world.pass(25_000)
    expect(world.sessions[0].rttMs).toBeLessThan(10)
    link.held[0] = true
    await world.pass(25_000, 500)
    expect(link.ended).toBe(true)
    expect(world.sessions[0].rttMs).toBeUndefined()
  })
})

describe('records on two paths', () => {
  /** A transfer that moves from a relay, which holds its tail back, to tcp. */
  async function moved(payload: readonly [Uint8Array, Uint8Array]) {
    const transfer = transferWorld(payload, { pauseMs: 100 })
    world = transfer.world
    const relay = world.connect('relay')
    await world.pass(250)
    relay.held.fill(true)
    await world.pass(200)
    const tcp = world.connect('tcp')
    await world.pass(350)
    expect(world.sessions.map(({ path }) => path)).toEqual(['tcp', 'tcp'])
    expect(tcp.ends[0].sent).toBeGreaterThan(4)
    expect(arrived(transfer)).toBe(false)
    return { transfer, relay }
  }

  it('are put in order again when the newer path is faster', async () => {
    const payload = [noise(TOTAL), noise(TOTAL)] as const
    const { transfer, relay } = await moved(payload)
    relay.held.fill(false)
    await world.run(() => arrived(transfer))
    expectExact(transfer, payload)
    expect(relay.ended).toBe(false)
  })

  it('are sent again on the newer path when the tail of the older does not come, and those that come later count once', async () => {
    const payload = [noise(TOTAL), noise(TOTAL)] as const
    const { transfer, relay } = await moved(payload)
    await world.run(() => arrived(transfer), 1_500)
    expectExact(transfer, payload)
    relay.held.fill(false)
    await world.pass(1_000)
    expect(relay.ended).toBe(false)
    expect(world.sessions.map(({ state, paths }) => [state, paths])).toEqual([
      ['open', ['relay', 'tcp']],
      ['open', ['relay', 'tcp']],
    ])
  })

  it('come twice after a loss, and are delivered once', async () => {
    const got: Uint8Array[] = []
    const link = await openWorld({ onStream: (stream) => readAll(stream).then((bytes) => got.push(bytes)) })
    // What comes is received and the word of it never goes back.
    link.dead[0] = true
    const stream = await world.sessions[0].open('/twice/1')
    const payload = noise(200_000)
    for (let at = 0; at < payload.length; at += 50_000) await stream.write(payload.subarray(at, at + 50_000))
    await world.pass(200)
    link.cut()
    world.connect('relay')
    await stream.end()
    await world.run(() => got.length === 1)
    expect(Buffer.compare(got[0]!, payload)).toBe(0)
    // The acknowledgements that were lost are made good, or this would wait for its deadline.
    const before = performance.now()
    await world.settled(world.sessions[0].close())
    expect(performance.now() - before).toBeLessThan(1_000)
  })

  it('are acknowledged anew when the acknowledgement was lost with a path that carried no data', async () => {
    const relay = await openWorld({}, 'relay')
    const stream = await world.sessions[0].open('/ack/1')
    // Session 1 goes on in the belief that the tcp path works; session 0 sends on the relay and waits.
    const tcp = world.connect('tcp')
    await world.run(() => world.sessions.every(({ path }) => path === 'tcp'))
    tcp.cut(0)
    await stream.write(noise(10_000))
    await world.pass(60_000)
    expect(tcp.ends[1].ended).toBe(true)
    expect(relay.ended).toBe(false)
    const before = performance.now()
    await world.settled(world.sessions[0].close())
    expect(performance.now() - before).toBeLessThan(1_000)
  })
})

describe('a path that is full', () => {
  it('gets the acknowledgement that was due when it takes more again, though nothing else is to be said', async () => {
    const remote: Stream[] = []
    const link = await openWorld({ onStream: (stream) => remote.push(stream) })
    const local = await world.sessions[0].open('/full/1')
    await world.run(() => remote.length === 1)
    await world.pass(100)
    // One message fills the path of session 1, and is all it has to send.
    link.held[0] = true
    link.highWater = 1
    void remote[0]!.write(noise(4_000))
    void local.write(noise(50_000))
    await world.pass(300)
    link.held[0] = false
    const before = performance.now()
    await world.settled(world.sessions[0].close())
    expect(performance.now() - before).toBeLessThan(500)
  })

  it('and ends while a record is handed to it loses nothing and doubles nothing', async () => {
    const payload = [noise(TOTAL), noise(TOTAL)] as const
    for (let at = 1; at < 12; at++) {
      const transfer = transferWorld(payload)
      world = transfer.world
      world.connect('relay')
      const [end] = world.connect('tcp').ends
      const send = end.send.bind(end)
      let count = 0
      end.send = (parts) => {
        if (++count === at) end.destroy()
        return send(parts)
      }
      await world.run(() => arrived(transfer))
      expectExact(transfer, payload)
      world.stop()
      await world.pass(1)
    }
  })

  it('never has more than 16 MiB on it that are not acknowledged, however many streams write', async () => {
    const read: number[] = []
    const link = await openWorld({ onStream: (stream) => readAll(stream).then(({ length }) => read.push(length)) })
    link.highWater = Number.POSITIVE_INFINITY
    link.held[1] = true
    for (let count = 0; count < 72; count++) {
      const stream = await world.sessions[0].open('/many/1')
      void stream.end(new Uint8Array(262_144))
    }
    await world.pass(100)
    expect(link.ends[0].queuedBytes).toBeGreaterThan(16_000_000)
    expect(link.ends[0].queuedBytes).toBeLessThan(16_777_216 + 66_560)
    link.held[1] = false
    await world.run(() => read.length === 72)
    expect(new Set(read)).toEqual(new Set([262_144]))
  })
})
