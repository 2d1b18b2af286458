import { describe, expect, it } from 'vitest'
import { Bottleneck, type LinkShape } from './link-shape.compliance.ts'
import { type Link, noise, type Side, useWorlds, World } from './memory-path.compliance.ts'
import type { Stream } from './stream.ts'

let world: World
useWorlds(() => world)

/** A way between two sessions on which TCP and UDP fare differently. */
interface Way {
  readonly delayMs: number
  /** Bytes per ms that each comes to. */
  readonly tcp: number
  readonly udp: number
  /** Bytes per ms of the line that both share. */
  readonly line?: number
}

/** A world with a tcp and a udp path of that way, both proven; side 1 counts what it reads, by protocol. */
class Lab {
  readonly tcp: Link
  readonly udp: Link
  readonly got = new Map<string, number>()
  /** ms without anything read, at the longest, since {@link resetStall}. */
  stallMs = 0
  #lastAt = performance.now()
  #writing = true
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor({ delayMs, line, ...way }: Way) {
    world = new World({ onStream: (stream) => this.#read(stream) })
    const shape = (bytesPerMs: number): LinkShape => ({
      delayMs,
      bytesPerMs,
      ...(line === undefined ? {} : { bottleneck }),
    })
    const bottleneck = new Bottleneck(line ?? 1)
    this.tcp = world.connect('tcp', 0, shape(way.tcp))
    this.udp = world.connect('udp', 0, shape(way.udp))
  }

  #read(stream: Stream): void {
    stream.pipeTo({
      data: ({ length }) => {
        this.got.set(stream.protocol, (this.got.get(stream.protocol) ?? 0) + length)
        const now = performance.now()
        this.stallMs = Math.max(this.stallMs, now - this.#lastAt)
        this.#lastAt = now
      },
      end: () => {},
      error: () => {},
    })
  }

  resetStall(): void {
    this.stallMs = 0
    this.#lastAt = performance.now()
  }

  get bytes(): number {
    return this.got.get('/bulk/1') ?? 0
  }

  /** Writes without end, or `chunk` every `everyMs`. */
  async bulk(side: Side = 0, chunk = 65_536, everyMs = 0): Promise<void> {
    const stream = await world.sessions[side].open('/bulk/1')
    const data = noise(chunk)
    const loop = async () => {
      while (this.#writing) {
        await stream.write(data)
        if (everyMs > 0) await new Promise<void>((resolve) => this.#pause(resolve, everyMs))
      }
    }
    loop().catch(() => {})
  }

  #pause(resolve: () => void, ms: number): void {
    this.#timer = setTimeout(resolve, ms)
  }

  stopWriting(): void {
    this.#writing = false
    clearTimeout(this.#timer)
  }

  /** Bytes per ms that were read in the next `ms`. */
  async rate(ms: number): Promise<number> {
    const before = this.bytes
    await world.pass(ms, 5)
    return (this.bytes - before) / ms
  }
}

/** Trials that have ended, at the sender. */
function measured(): number {
  return world.sessions[0].pathHistory.filter(({ what }) => what === 'measured').length
}

async function lab(way: Way): Promise<Lab> {
  const made = new Lab(way)
  await world.pass(1_000, 5)
  expect(world.sessions.map(({ path }) => path)).toEqual(['tcp', 'tcp'])
  return made
}

describe('a bulk transfer has its path settled within three seconds', () => {
  it.each<[string, Way, 'tcp' | 'udp', number]>([
    ['60 ms, clean', { delayMs: 30, tcp: 45_000, udp: 50_000 }, 'tcp', 42_000],
    ['60 ms, 1 % loss, cubic', { delayMs: 30, tcp: 1_000, udp: 39_000 }, 'udp', 36_000],
    ['60 ms, 1 % loss, worse', { delayMs: 30, tcp: 400, udp: 39_000 }, 'udp', 36_000],
    ['60 ms, 1 % loss, bbr', { delayMs: 30, tcp: 18_000, udp: 39_000 }, 'udp', 36_000],
    ['200 ms, 0.1 % loss, cubic', { delayMs: 100, tcp: 450, udp: 10_600 }, 'udp', 8_000],
    ['60 ms, a line of 100 Mbit/s', { delayMs: 30, tcp: 45_000, udp: 50_000, line: 12_500 }, 'tcp', 11_000],
    ['5 ms, some loss', { delayMs: 2.5, tcp: 30_000, udp: 90_000 }, 'tcp', 28_000],
    ['60 ms, udp held back', { delayMs: 30, tcp: 20_000, udp: 200 }, 'tcp', 18_000],
  ])('%s', async (_, way, best, atLeast) => {
    const one = await lab(way)
    await one.bulk()
    await world.pass(3_000, 5)
    expect(world.sessions[0].path).toBe(best)
    const trials = measured()
    expect(await one.rate(1_000)).toBeGreaterThan(atLeast)
    // And it stays.
    await one.rate(3_000)
    expect(world.sessions[0].path).toBe(best)
    expect(measured()).toBe(trials)
    expect(world.changes[0].map(({ to, reason }) => [to, reason])).toEqual(best === 'udp' ? [['udp', 'faster']] : [])
  })
})

describe('no trial is begun', () => {
  it('by a writer that does not fill its path', async () => {
    const one = await lab({ delayMs: 30, tcp: 3_000, udp: 39_000 })
    await one.bulk(0, 65_536, 100)
    await world.pass(10_000, 5)
    expect(one.bytes).toBeGreaterThan(5_000_000)
    expect(measured()).toBe(0)
    one.stopWriting()
  })

  it('where the round trip is short, unless tcp stalls', async () => {
    const one = await lab({ delayMs: 2.5, tcp: 3_000, udp: 39_000 })
    await one.bulk()
    await world.pass(5_000, 5)
    expect(measured()).toBe(0)
    one.tcp.held[1] = true
    await world.pass(1_500, 5)
    expect(world.sessions[0].path).toBe('udp')
    expect(world.changes[0].at(-1)).toEqual({ from: 'tcp', to: 'udp', reason: 'lost' })
    // It answers again, and there tcp is the better one.
    one.tcp.held[1] = false
    await world.pass(1_000, 5)
    expect(world.sessions[0].path).toBe('tcp')
  })

  it('with a udp path that does not answer', async () => {
    const one = await lab({ delayMs: 30, tcp: 1_000, udp: 39_000 })
    one.udp.dead.fill(true)
    await one.bulk()
    one.resetStall()
    await world.pass(10_000, 5)
    expect(one.stallMs).toBeLessThan(350)
    expect(one.udp.ended).toBe(true)
    expect(world.sessions[0].path).toBe('tcp')
    expect(one.bytes).toBeGreaterThan(8_000_000)
  })
})

describe('a trial', () => {
  it('that is swallowed is over at once, and costs half a second', async () => {
    const one = await lab({ delayMs: 30, tcp: 1_000, udp: 39_000 })
    // Pings pass, as through a box that lets little through; nothing else does.
    one.udp.tap = (message, to) => (to === 1 && message.length > 200 ? [] : [message])
    await one.bulk()
    one.resetStall()
    await world.pass(8_000, 5)
    expect(measured()).toBe(1)
    expect(one.stallMs).toBeLessThan(900)
    expect(world.sessions[0].path).toBe('tcp')
    expect(one.bytes).toBeGreaterThan(6_000_000)
  })

  it('is not told of until it has won, and then is', async () => {
    const one = await lab({ delayMs: 30, tcp: 18_000, udp: 39_000 })
    await one.bulk()
    await world.run(() => world.sessions[0].pathInfo.some(({ kind, active }) => active && kind === 'udp'))
    expect(world.sessions[0].path).toBe('tcp')
    expect(world.changes[0]).toEqual([])
    await world.run(() => world.sessions[0].path === 'udp')
    expect(world.changes[0]).toEqual([{ from: 'tcp', to: 'udp', reason: 'faster' }])
    expect(world.sessions[0].pathHistory.slice(-2).map(({ kind, what }) => [kind, what])).toEqual([
      ['udp', 'measured'],
      ['udp', 'used'],
    ])
    expect(one.bytes).toBeGreaterThan(0)
  })

  it('says nothing when the transfer ends in it, and comes anew with the next', async () => {
    const one = await lab({ delayMs: 30, tcp: 18_000, udp: 39_000 })
    await one.bulk()
    await world.run(() => world.sessions[0].pathInfo.some(({ kind, active }) => active && kind === 'udp'))
    one.stopWriting()
    await world.pass(3_000)
    expect(measured()).toBe(0)
    expect(world.sessions[0].pathInfo.find(({ active }) => active)?.kind).toBe('tcp')
  })

  it('is ended by the loss of either path, without loss', async () => {
    for (const lost of ['tcp', 'udp'] as const) {
      const one = await lab({ delayMs: 30, tcp: 18_000, udp: 39_000 })
      await one.bulk()
      await world.run(() => world.sessions[0].pathInfo.some(({ kind, active }) => active && kind === 'udp'))
      one[lost].cut()
      const other = lost === 'tcp' ? 'udp' : 'tcp'
      await world.pass(2_000, 5)
      expect(world.sessions[0].path).toBe(other)
      expect(await one.rate(500)).toBeGreaterThan(10_000)
      world.stop()
      await world.pass(50)
    }
  })

  it.each<[string, Way]>([
    ['where both share a line', { delayMs: 30, tcp: 45_000, udp: 50_000, line: 12_500 }],
    ['where tcp is slow', { delayMs: 30, tcp: 1_000, udp: 39_000 }],
  ])('hardly delays small messages %s', async (_, way) => {
    const one = await lab(way)
    await one.bulk()
    const stream = await world.sessions[0].open('/ping/1')
    const sentAt: number[] = []
    /** When each was sent, and how long it took. */
    const took: { at: number; ms: number }[] = []
    const every = setInterval(() => {
      sentAt.push(performance.now())
      void stream.write(Uint8Array.of(1))
    }, 25)
    world.beforeDelivery = () => {
      const now = performance.now()
      while (took.length < (one.got.get('/ping/1') ?? 0))
        took.push({ at: sentAt[took.length]!, ms: now - sentAt[took.length]! })
    }
    await world.run(() => world.sessions[0].pathInfo.some(({ kind, active }) => active && kind === 'udp'))
    const began = performance.now()
    await world.run(() => measured() === 1)
    await world.pass(1_000, 5)
    clearInterval(every)
    world.beforeDelivery = undefined
    const worst = (from: number, to: number) =>
      Math.max(...took.filter(({ at }) => at >= from && at < to).map(({ ms }) => ms))
    const before = worst(began - 400, began - 100)
    expect(before).toBeGreaterThan(100)
    // What fills the buffers when the trial begins, more and more until then, goes out first.
    expect(worst(began - 100, began + 1_000)).toBeLessThan(before + 500)
  })
})

describe('after it is settled', () => {
  it('the other path is tried again after ten seconds, then thirty, and no more often', async () => {
    const one = await lab({ delayMs: 30, tcp: 8_000, udp: 8_000 })
    await one.bulk()
    await world.pass(9_000, 10)
    expect(measured()).toBe(1)
    await world.pass(5_000, 10)
    expect(measured()).toBe(2)
    await world.pass(25_000, 20)
    expect(measured()).toBe(2)
    await world.pass(10_000, 20)
    expect(measured()).toBe(3)
    expect(world.sessions[0].path).toBe('tcp')
    expect(world.changes[0]).toEqual([])
  })

  it.each<[string, number, boolean]>([
    ['stays when it drains within twenty seconds', 500, true],
    ['goes when it does not, and may be dialled again', 150, false],
  ])('a tcp path that was left with megabytes in its buffers %s', async (_, pace, stays) => {
    const one = await lab({ delayMs: 30, tcp: 20_000, udp: 20_000 })
    await one.bulk()
    await world.pass(6_000, 10)
    one.tcp.shape!.bytesPerMs = pace
    await world.run(() => world.sessions[0].path === 'udp')
    expect(one.tcp.ends[0].queuedBytes).toBeGreaterThan(3_500_000)
    await world.pass(14_000, 20)
    expect(one.tcp.ends[0].ended).toBe(false)
    await world.pass(12_000, 20)
    expect(one.tcp.ends[0].ended).toBe(!stays)
    expect(world.sessions[0].path).toBe('udp')
    // What the other side sends on tcp is acknowledged on udp from then on: at most it tries udp once, before it is.
    expect(world.sessions[1].path).toBe(stays ? 'tcp' : 'udp')
    expect(world.changes[1].length).toBeLessThanOrEqual(stays ? 2 : 1)
  })

  it('a rate that collapses starts a trial ahead of time', async () => {
    const one = await lab({ delayMs: 30, tcp: 20_000, udp: 20_000 })
    await one.bulk()
    await world.pass(6_000, 10)
    expect(measured()).toBe(1)
    one.tcp.shape!.bytesPerMs = 500
    await world.pass(3_500, 10)
    expect(world.sessions[0].path).toBe('udp')
    expect(await one.rate(1_000)).toBeGreaterThan(15_000)
  })

  it('tcp is taken up again when it delivers as much', async () => {
    const one = await lab({ delayMs: 30, tcp: 1_000, udp: 20_000 })
    await one.bulk()
    await world.pass(3_000, 10)
    expect(world.sessions[0].path).toBe('udp')
    one.tcp.shape!.bytesPerMs = 20_000
    await world.pass(33_000, 20)
    expect(world.sessions[0].path).toBe('tcp')
    expect(world.changes[0].map(({ to, reason }) => [to, reason])).toEqual([
      ['udp', 'faster'],
      ['tcp', 'faster'],
    ])
  })

  it('a transfer on udp is not thrown onto a tcp path that comes later, before that was tried', async () => {
    world = new World({ onStream: (stream) => stream.pipeTo({ data: () => {}, end: () => {}, error: () => {} }) })
    await world.open('udp', { delayMs: 30, bytesPerMs: 30_000 })
    const stream = await world.sessions[0].open('/bulk/1')
    const data = noise(65_536)
    let writing = true
    const loop = async () => {
      while (writing) await stream.write(data)
    }
    loop().catch(() => {})
    await world.pass(1_500, 5)
    world.connect('tcp', 0, { delayMs: 30, bytesPerMs: 600 })
    await world.pass(4_000, 5)
    expect(world.sessions[0].path).toBe('udp')
    expect(world.sessions[0].paths).toEqual(['udp', 'tcp'])
    expect(measured()).toBe(1)
    expect(world.changes[0]).toEqual([])
    writing = false
  })
})
