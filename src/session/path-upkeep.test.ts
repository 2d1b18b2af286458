import { describe, expect, it } from 'vitest'
import {
  codeOf,
  type Link,
  noise,
  readAll,
  type Side,
  useWorlds,
  World,
  type WorldOptions,
} from './memory-path.compliance.ts'
import { readNumber } from './record.ts'
import type { Stream } from './stream.ts'
import { arrived, expectExact, TOTAL, transferWorld } from './transfer.compliance.ts'

let world: World
useWorlds(() => world)

const paths = () => world.sessions.map((session) => [...session.paths].sort())

/** Bytes of a ping or a pong; an acknowledgement is shorter. */
const PING_BYTES = 33

/** Reads what comes and forgets it. */
function drop(stream: Stream): void {
  stream.pipeTo({ data: () => {}, end: () => {}, error: () => {} })
}

/** Counts messages delivered to each side by kind: ordered records and loose ones. */
function count(link: Link): { ordered: [number, number]; loose: [number, number] } {
  const seen = { ordered: [0, 0] as [number, number], loose: [0, 0] as [number, number] }
  link.tap = (message, to) => {
    const number = readNumber(message)
    if (number !== undefined) seen[number.loose ? 'loose' : 'ordered'][to]++
    return [message]
  }
  return seen
}

/** A relay and a tcp path; side 1 sends on the relay, for it never saw tcp proven, and side 0 on tcp. */
async function crossed(): Promise<{ relay: Link; tcp: Link }> {
  world = new World({ onStream: drop })
  const relay = await world.open('relay')
  const tcp = world.connect('tcp')
  await world.run(() => world.sessions.every(({ path }) => path === 'tcp'))
  await world.pass(100)
  return { relay, tcp }
}

/** Two tcp paths, of which each side uses its own. */
async function each(options: WorldOptions = {}): Promise<{ mine: Link; theirs: Link }> {
  world = new World({ onStream: drop, ...options })
  const theirs = world.connect('tcp', 1)
  // Side 0 hears the attach, and nothing more until its own path is proven.
  theirs.tap = (message) => {
    theirs.tap = undefined
    theirs.held[0] = true
    return [message]
  }
  await world.run(() => world.sessions[1].path === 'tcp')
  const mine = world.connect('tcp', 0)
  await world.run(() => world.sessions[0].path === 'tcp')
  theirs.held[0] = false
  await world.run(() => world.sessions.every((session) => session.paths.length === 2))
  await world.pass(100)
  const remotes = world.sessions.map(({ remote }) => remote)
  expect(remotes).toEqual([mine.ends[0].remote, theirs.ends[1].remote])
  return { mine, theirs }
}

describe('an acknowledgement', () => {
  it('goes to where the data came from, not to where this side would send', async () => {
    const { relay, tcp } = await crossed()
    // Side 0 falls back to the relay; side 1 does not know, and has nothing to say.
    tcp.cut(0)
    await world.pass(100)
    const [onRelay, onTcp] = [count(relay), count(tcp)]
    const stream = await world.sessions[0].open('/x/1')
    await stream.end(noise(3_000))
    const before = performance.now()
    await world.settled(world.sessions[0].close())
    expect(performance.now() - before).toBeLessThan(100)
    expect(onRelay.loose[0]).toBeGreaterThan(0)
    expect(onTcp.loose).toEqual([0, 0])
  })

  it('rides on data that goes there anyway, and on none that goes elsewhere', async () => {
    world = new World({ onStream: (stream) => void readAll(stream).then((bytes) => stream.end(bytes)) })
    const link = await world.open()
    await world.pass(100)
    const seen = count(link)
    for (let times = 0; times < 10; times++) {
      const stream = await world.sessions[0].open('/echo/1')
      await stream.end(noise(100))
      await world.settled(readAll(stream))
    }
    // Ten questions and ten answers; what is acknowledged by itself is at most the last answer.
    expect(seen.ordered[0]).toBeGreaterThanOrEqual(10)
    expect(seen.loose[0]).toBeLessThanOrEqual(1)
  })

  it('does not ride on data that goes elsewhere', async () => {
    const { mine } = await each()
    const seen = count(mine)
    const streams = [await world.sessions[0].open('/x/1'), await world.sessions[1].open('/y/1')]
    for (let times = 0; times < 20; times++) {
      for (const stream of streams) await stream.write(noise(10))
      await world.pass(30)
    }
    // Side 1 sends on the other path, twenty times, and acknowledges on this one.
    expect(seen.ordered[0]).toBe(0)
    expect(seen.loose[0]).toBeGreaterThanOrEqual(10)
  })

  it('does not queue up behind a tail of ours on a path that is out of use', async () => {
    world = new World({ onStream: drop })
    const relay = await world.open('relay')
    await world.pass(100)
    relay.held[1] = true
    const bulk = await world.sessions[0].open('/bulk/1')
    await bulk.write(noise(200_000))
    await bulk.write(noise(62_000))
    const more = await world.sessions[0].open('/bulk/1')
    await more.write(noise(100_000))
    // Side 1 does not hear that the tcp path is proven, and sends on the relay.
    const tcp = world.connect('tcp')
    tcp.tap = (message, to) => (to === 1 && message[0]! >= 0x80 ? [] : [message])
    await world.run(() => world.sessions[0].path === 'tcp')
    const seen = count(tcp)
    const stream = await world.sessions[1].open('/y/1')
    await stream.write(noise(10))
    await world.run(() => seen.loose[1] > 0, 200)
    relay.held[1] = false
  })

  it('does not queue up behind what was taken back from such a path, either', async () => {
    let got = 0
    const take = ({ length }: Uint8Array) => {
      got += length
    }
    world = new World({
      onStream: (stream, side) => {
        if (side === 0) stream.pipeTo({ data: take, end: () => {}, error: () => {} })
        else drop(stream)
      },
    })
    const relay = await world.open('relay')
    const stream = await world.sessions[1].open('/y/1')
    const bulk = await world.sessions[0].open('/bulk/1')
    await world.pass(100)
    relay.held.fill(true)
    await bulk.write(noise(70_000))
    await world.pass(100)
    await stream.write(noise(20_000))
    await world.pass(10)
    world.connect('tcp')
    await world.run(() =>
      world.sessions[0].pathInfo.some(({ kind, sentBytes }) => kind === 'tcp' && sentBytes > 70_000),
    )
    expect(got).toBe(0)
    // What side 1 sent comes on the relay, on which side 0 has a tail that it has sent again elsewhere.
    const acks = () =>
      relay.ends[0].queue.filter((message) => message![0]! >= 0x80 && message!.length < PING_BYTES).length
    const before = acks()
    relay.held[0] = false
    await world.run(() => got === 20_000)
    await world.pass(100)
    expect(acks()).toBe(before)
    relay.held[1] = false
  })

  it('takes the path in use when the one the data came from is full', async () => {
    world = new World({ onStream: drop })
    const relay = await world.open('relay')
    await world.pass(400)
    // Side 1 knows the tcp path to be proven; side 0 has not heard its ping, and sends on the relay.
    const tcp = world.connect('tcp', 1)
    tcp.tap = (message, to) => (to === 0 && message[0]! >= 0x80 ? [] : [message])
    await world.run(() => world.sessions[1].path === 'tcp')
    // One acknowledgement fills the relay.
    relay.held[0] = true
    relay.highWater = 1
    const stream = await world.sessions[0].open('/x/1')
    relay.ends[0].queuedBytes -= 1_000_000
    await stream.write(noise(10))
    await world.pass(50)
    expect([relay.ends[1].queue.length, relay.ends[1].writable]).toEqual([1, false])
    const seen = count(tcp)
    await stream.write(noise(10))
    await world.run(() => seen.loose[0] > 0, 200)
    relay.ends[0].queuedBytes += 1_000_000
  })
})

describe('a path that only one side knows to be dead', () => {
  it('is left by the other as soon as data comes on another of its kind, and nothing on it', async () => {
    let got = 0
    world = new World({
      onStream: (stream) =>
        stream.pipeTo({
          data: ({ length }) => {
            got += length
          },
          end: () => {},
          error: () => {},
        }),
    })
    const first = await world.open('tcp')
    world.connect('tcp')
    await world.pass(200)
    const stream = await world.sessions[0].open('/bulk/1')
    const payload = noise(20_000_000)
    void stream.end(payload)
    await world.run(() => got > 1_000_000)
    const before = performance.now()
    first.cut(0)
    await world.run(() => got === payload.length)
    // Windows that were sent on the dead path had to be sent again.
    expect(performance.now() - before).toBeLessThan(1_500)
    expect(first.ends[1].ended).toBe(false)
  })

  it('makes two sides that send to each other agree, and neither chase the other', async () => {
    const payload = [noise(TOTAL), noise(TOTAL)] as const
    const transfer = transferWorld(payload, { pauseMs: 200 })
    world = transfer.world
    world.connect('tcp', 0)
    world.connect('tcp', 1)
    await world.run(() => arrived(transfer))
    expectExact(transfer, payload)
    await world.pass(10_000)
    for (const changes of world.changes) expect(changes.length).toBeLessThanOrEqual(1)
  })
})

describe('a path that swallows what is sent', () => {
  it.each<Side>([0, 1])('is left within two seconds when another answers: side %d', async (side) => {
    const read: Uint8Array[] = []
    world = new World({ onStream: (stream) => void readAll(stream).then((bytes) => read.push(bytes)) })
    await world.open('relay')
    const tcp = world.connect('tcp')
    await world.run(() => world.sessions.every(({ path }) => path === 'tcp'))
    tcp.dead.fill(true)
    const before = performance.now()
    const stream = await world.sessions[side].open('/x/1')
    const payload = noise(300_000)
    void stream.end(payload)
    await world.run(() => read.length === 1)
    expect(Buffer.compare(read[0]!, payload)).toBe(0)
    // The windows that the other side grants must find their way, too.
    expect(performance.now() - before).toBeLessThan(4_500)
    expect(world.changes[side].at(-1)).toEqual({ from: 'tcp', to: 'relay', reason: 'lost' })
    await world.pass(6_000)
    expect(tcp.ends[side].ended).toBe(true)
  })

  it('and answers again is taken up again', async () => {
    world = new World({ onStream: drop })
    await world.open('relay')
    const tcp = world.connect('tcp')
    await world.run(() => world.sessions.every(({ path }) => path === 'tcp'))
    tcp.held.fill(true)
    const stream = await world.sessions[0].open('/x/1')
    void stream.write(noise(100_000))
    await world.run(() => world.sessions[0].path === 'relay')
    tcp.held.fill(false)
    await world.run(() => world.sessions[0].path === 'tcp')
    expect(world.changes[0].map(({ to, reason }) => [to, reason])).toEqual([
      ['tcp', 'better'],
      ['relay', 'lost'],
      ['tcp', 'better'],
    ])
    expect(tcp.ended).toBe(false)
  })
})

describe('of several paths of a kind', () => {
  it('one stays, five seconds after both were proven, and nothing is lost', async () => {
    const payload = [noise(TOTAL), noise(TOTAL)] as const
    const transfer = transferWorld(payload, { pauseMs: 1_200 })
    world = transfer.world
    for (const kind of ['relay', 'tcp', 'udp'] as const) {
      for (const by of [0, 1] as const) world.connect(kind, by)
    }
    await world.pass(4_500)
    expect(paths().map((kinds) => kinds.length)).toEqual([6, 6])
    await world.run(() => arrived(transfer))
    expectExact(transfer, payload)
    await world.pass(8_000)
    expect(paths()).toEqual([
      ['relay', 'tcp', 'udp'],
      ['relay', 'tcp', 'udp'],
    ])
    expect(world.standing.length).toBe(3)
    expect(world.sessions[0].pathHistory.filter(({ what }) => what === 'trimmed').length).toBe(3)
    expect(world.sessions[1].pathHistory.filter(({ what }) => what === 'trimmed')).toEqual([])
  })

  it('the one that goes may carry data both ways until its end', async () => {
    for (let hold = 0; hold < 4; hold++) {
      const payload = [noise(TOTAL), noise(TOTAL)] as const
      const transfer = transferWorld(payload, { pauseMs: 1_700 })
      world = transfer.world
      const [first, second] = [world.connect('tcp', 0), world.connect('tcp', 1)]
      // What is under way when it is closed comes late, or never.
      await world.pass(4_900)
      for (const link of [first, second]) link.held[(hold % 2) as Side] = hold < 2
      await world.pass(300)
      for (const link of [first, second]) link.held.fill(false)
      await world.run(() => arrived(transfer))
      expectExact(transfer, payload)
      await world.pass(5_000)
      expect(world.standing.length).toBe(1)
      world.stop()
      await world.pass(1)
    }
  })

  it('none is closed while the one to stay does not answer', async () => {
    const { mine } = await each()
    await world.pass(1_000)
    // Side 0 uses it, and would keep it.
    mine.dead.fill(true)
    await world.pass(20_000)
    expect(world.sessions[0].pathHistory.filter(({ what }) => what === 'trimmed')).toEqual([])
    expect(mine.ends[0].ended).toBe(true)
    expect(world.sessions.map(({ state, path }) => [state, path])).toEqual([
      ['open', 'tcp'],
      ['open', 'tcp'],
    ])
  })

  it('the one that goes delivers what was under way on it, and is no path any more meanwhile', async () => {
    const read: number[] = []
    const { mine, theirs } = await each({
      onStream: (stream) => stream.pipeTo({ data: ({ length }) => read.push(length), end: () => {}, error: () => {} }),
    })
    const stream = await world.sessions[1].open('/x/1')
    await stream.write(noise(10))
    await world.pass(4_500)
    // Side 1 does not hear yet that it is closed, and sends on it.
    theirs.held[1] = true
    await world.run(() => world.sessions[0].pathHistory.some(({ what }) => what === 'trimmed'))
    await stream.write(noise(20))
    await world.run(() => read.length === 2, 100)
    expect(theirs.ended).toBe(false)
    expect(world.sessions[0].paths).toEqual(['tcp'])
    expect(world.sessions[0].pathInfo.map(({ stage }) => stage).sort()).toEqual(['proven', 'retired'])
    // And it saves no session.
    mine.cut()
    await world.run(() => world.sessions[0].state === 'closed', 5_100)
    expect(world.closes[0]).toEqual(['ERR_PEERLINE_PATH_LOST'])
  })

  it('a session that ends closes the one that is going, too', async () => {
    world = new World()
    await world.open('tcp')
    const second = world.connect('tcp')
    await world.pass(4_900)
    second.held.fill(true)
    await world.run(() => world.sessions[0].pathHistory.some(({ what }) => what === 'trimmed'))
    world.stop()
    second.held.fill(false)
    await world.run(() => world.standing.length === 0)
  })
})

describe('keeping alive', () => {
  it('pings each kind of path as often as was asked', async () => {
    world = new World()
    const tcp = await world.open('tcp')
    const udp = world.connect('udp')
    await world.pass(1_000)
    for (const session of world.sessions) session.keepAliveMs = { udp: 2_000 }
    expect(world.sessions[0].keepAliveMs).toEqual({ tcp: 20_000, udp: 2_000, webrtc: 20_000, relay: 20_000 })
    const [onTcp, onUdp] = [count(tcp), count(udp)]
    let last = performance.now()
    let longest = 0
    const tap = udp.tap!
    udp.tap = (message, to) => {
      longest = Math.max(longest, performance.now() - last)
      last = performance.now()
      return tap(message, to)
    }
    await world.pass(120_000, 250)
    expect(longest).toBeLessThan(3_000)
    expect(onUdp.loose[0] + onUdp.loose[1]).toBeGreaterThan(2 * (onTcp.loose[0] + onTcp.loose[1]))
    expect(onTcp.loose[0]).toBeLessThan(20)
  })

  it('is no more often after a transfer than before', async () => {
    world = new World({ onStream: drop })
    const link = await world.open()
    const stream = await world.sessions[0].open('/x/1')
    await stream.write(noise(200_000))
    await world.pass(1_000)
    const seen = count(link)
    await world.pass(15_000)
    expect(seen.loose).toEqual([0, 0])
  })

  it.each([0, 999, 300_001, Number.NaN])('every %d ms is refused', async (ms) => {
    world = new World()
    const set = async () => {
      world.sessions[0].keepAliveMs = { udp: ms }
    }
    expect(await codeOf(set())).toBe('ERR_PEERLINE_INVALID')
    expect(world.sessions[0].keepAliveMs.udp).toBe(20_000)
  })
})

describe('what a session tells of its paths', () => {
  it('is plain data: how each is doing, and what became of them', async () => {
    world = new World({ onStream: drop })
    await world.open('relay')
    await world.pass(1_000)
    const tcp = world.connect('tcp')
    await world.run(() => world.sessions.every(({ path }) => path === 'tcp'))
    const stream = await world.sessions[0].open('/x/1')
    await stream.write(noise(50_000))
    await world.pass(500)
    const [session] = world.sessions
    expect(JSON.parse(JSON.stringify(session.pathInfo))).toEqual([
      expect.objectContaining({ kind: 'relay', stage: 'proven', proven: true, active: false, sentBytes: 0, since: 0 }),
      expect.objectContaining({
        kind: 'tcp',
        remote: 'tcp-1#1',
        proven: true,
        active: true,
        rttMs: expect.any(Number),
      }),
    ])
    expect(session.pathInfo[1]!.sentBytes).toBeGreaterThan(50_000)
    expect(session.pathInfo[1]!.since).toBeGreaterThanOrEqual(1_000)
    tcp.cut()
    await world.pass(100)
    const history = session.pathHistory.map(({ kind, what }) => `${kind} ${what}`)
    expect(history).toEqual([
      'relay attached',
      'relay used',
      'relay proven',
      'tcp attached',
      'tcp proven',
      'tcp used',
      'tcp lost',
      'relay used',
    ])
    expect(session.pathHistory.at(-2)).toMatchObject({ detail: 'tcp-1#1 was cut', remote: 'tcp-1#1' })
    expect(session.pathHistory.map(({ atMs }) => atMs)).toEqual(
      session.pathHistory.map(({ atMs }) => atMs).sort((a, b) => a - b),
    )
  })

  it('is bounded: the last 32 events', async () => {
    world = new World()
    await world.open('relay')
    for (let times = 0; times < 20; times++) {
      world.connect('tcp').cut()
      await world.pass(10)
    }
    expect(world.sessions[0].pathHistory.length).toBe(32)
    expect(world.sessions[0].pathHistory.at(-1)).toMatchObject({ kind: 'tcp', what: 'lost' })
  })
})

describe('an address that is about to be dialled again', () => {
  it('loses its tcp path where nothing answers, and keeps it otherwise', async () => {
    world = new World({ onStream: drop })
    const tcp = await world.open('tcp')
    const relay = world.connect('relay')
    await world.run(() => world.sessions[0].paths.length === 2)
    const [session] = world.sessions
    const stream = await session.open('/x/1')
    await world.pass(1_000)
    const vacate = () => session.vacate(new Set([session.pathInfo.find(({ kind }) => kind === 'tcp')?.remote ?? '']))
    tcp.dead.fill(true)
    void stream.write(noise(100_000))
    await world.pass(400)
    vacate()
    expect(session.paths).toContain('tcp')
    relay.dead.fill(true)
    await world.run(() => session.needsPath)
    session.vacate(new Set(['192.0.2.1:1']))
    expect(session.pathInfo.map(({ kind }) => kind).sort()).toEqual(['relay', 'tcp'])
    vacate()
    expect(session.pathInfo.map(({ kind }) => kind)).toEqual(['relay'])
  })
})

describe('who writes and waits for a reader', () => {
  it('notices within three seconds, however long that has lasted, that the other side is gone', async () => {
    world = new World()
    const link = await world.open('tcp')
    const stream = await world.sessions[0].open('/bulk/1')
    void stream.write(noise(1_000_000)).catch(() => {})
    await world.pass(9_500)
    expect(world.sessions[0].pathInfo[0]!.stage).toBe('proven')
    let troubles = 0
    world.sessions[0].addEventListener('trouble', () => troubles++)
    const seen = count(link)
    await world.pass(10_000)
    expect([troubles, seen.ordered]).toEqual([0, [0, 0]])
    expect(seen.loose[1]).toBeLessThanOrEqual(10)
    link.dead.fill(true)
    await world.pass(3_000)
    expect(troubles).toBe(1)
  })
})

describe('who only receives', () => {
  const big = 100_000

  /** Side 1 has got much, and owes nothing but acknowledgements. */
  async function received(): Promise<Link> {
    let got = 0
    const take = ({ length }: Uint8Array) => {
      got += length
    }
    world = new World({ onStream: (stream) => stream.pipeTo({ data: take, end: () => {}, error: () => {} }) })
    const link = await world.open('tcp')
    const stream = await world.sessions[0].open('/bulk/1')
    await world.pass(1_000)
    void stream.write(noise(big))
    await world.run(() => got === big)
    await world.pass(100)
    return link
  }

  it('notices within a second that nothing comes any more', async () => {
    const link = await received()
    link.dead.fill(true)
    let troubles = 0
    world.sessions[1].addEventListener('trouble', () => troubles++)
    await world.pass(1_000)
    expect(troubles).toBe(1)
  })

  it('asks once when all has come, and is content with the answer', async () => {
    const link = await received()
    const pings: number[] = []
    link.tap = (message, to) => {
      if (to === 0 && message[0]! >= 0x80 && message.length === PING_BYTES) pings.push(performance.now())
      return [message]
    }
    await world.pass(5_000)
    // Its own, and the answer to the other side's.
    expect(pings.length).toBe(2)
  })
})
