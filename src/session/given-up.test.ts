import { describe, expect, it } from 'vitest'
import { StreamCode } from './codes.ts'
import type { FrameWriter } from './frame.ts'
import { Hostile } from './hostile.compliance.ts'
import { useWorlds, type World, type WorldOptions } from './memory-path.compliance.ts'
import { GIVEN_UP } from './stream-table.ts'

let world: World

useWorlds(() => world)

/** Opens `count` streams, each with what `after` adds, a thousand to a batch. */
class Flood {
  readonly hostile: Hostile
  opened = 0
  handled = 0

  constructor(options: WorldOptions = {}) {
    this.hostile = new Hostile({
      ...options,
      onStream: (stream, side) => {
        this.handled++
        options.onStream?.(stream, side)
      },
    })
    world = this.hostile.world
  }

  async open(count: number, after: (frames: FrameWriter, id: number) => void): Promise<void> {
    for (const last = this.opened + count; this.opened < last; ) {
      this.hostile.send((frames) => {
        for (let n = 0; n < 1_000 && this.opened < last; n++) {
          const id = 2 * this.opened++
          frames.open(id, '/x/1')
          after(frames, id)
        }
      })
      await this.answer()
    }
  }

  /** Answers pings, so that the path stays. */
  async answer(): Promise<void> {
    for (const [name, token] of await this.hostile.frames()) {
      if (name === 'onPing') this.hostile.loose((frames) => frames.pong(token as Uint8Array))
    }
  }

  async pass(ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += 500) {
      await world.pass(500, 250)
      await this.answer()
    }
  }
}

const giveUp = (frames: FrameWriter, id: number) => {
  frames.reset(id, StreamCode.CANCELLED)
  frames.stop(id, StreamCode.CANCELLED)
}

describe('streams opened only to be given up', () => {
  it.each<[string, (frames: FrameWriter, id: number) => void, number]>([
    ['with RESET and STOP', giveUp, 2],
    [
      'with an end and STOP',
      (frames, id) => {
        frames.data(id, new Uint8Array(0), true)
        frames.stop(id, StreamCode.CANCELLED)
      },
      1,
    ],
    ['beyond those that may be open', () => {}, 1],
  ])('end the session when they are too many: %s', async (_, after, frames) => {
    const flood = new Flood({ maxStreams: 10 })
    await flood.open(30_000, after)
    expect(world.closes[1]).toEqual(['ERR_PEERLINE_LIMIT'])
    expect(flood.handled).toBeLessThanOrEqual(GIVEN_UP.burst / frames + 1)
  })

  it('end it also when whoever handles them answers each RESET with one of its own', async () => {
    const flood = new Flood({
      onStream: (stream) => stream.pipeTo({ data: () => {}, end: () => {}, error: () => stream.reset() }),
    })
    await flood.open(30_000, (frames, id) => frames.reset(id, StreamCode.CANCELLED))
    expect(world.closes[1]).toEqual(['ERR_PEERLINE_LIMIT'])
    expect(flood.handled).toBe(GIVEN_UP.burst + 1)
  })

  it('end it when they come without a pause, however slowly beyond the limit', async () => {
    const flood = new Flood()
    for (let second = 0; second < 60 && world.sessions[1].state !== 'closed'; second++) {
      await flood.open(GIVEN_UP.perSecond, giveUp)
      await flood.pass(1_000)
    }
    expect(world.closes[1]).toEqual(['ERR_PEERLINE_LIMIT'])
    expect(flood.handled).toBeLessThan(GIVEN_UP.burst)
  })

  it('are no offence when it is two thousand at once, or nine hundred a second for long', async () => {
    const flood = new Flood()
    await flood.open(1_999, giveUp)
    await flood.pass(15_000)
    for (let second = 0; second < 20; second++) {
      await flood.open(900, giveUp)
      await flood.pass(1_000)
    }
    expect([world.sessions[1].state, flood.handled]).toEqual(['open', 1_999 + 18_000])
  })

  it('are none of those that are heard to the end, however many', async () => {
    const flood = new Flood({ onStream: (stream) => void stream.end() })
    await flood.open(25_000, (frames, id) => {
      frames.data(id, new Uint8Array(0), true)
      // Late, for a stream that is done.
      giveUp(frames, id)
    })
    expect([world.sessions[1].state, flood.handled]).toEqual(['open', 25_000])
  })

  it('are theirs alone: whoever refuses ours may do so', async () => {
    const flood = new Flood()
    flood.hostile.loose((frames) => frames.ping(new Uint8Array(8)))
    const { hostile } = flood
    for (let count = 0; count < GIVEN_UP.burst + 5_000; count++) {
      const { id } = await world.sessions[1].open('/y/1')
      hostile.send((frames) => giveUp(frames, id))
      if (count % 500 === 0) await hostile.frames()
    }
    expect(world.sessions[1].state).toBe('open')
  })
})
