/**
 * The contract of `path.ts` as a test suite. Every kind of path must pass it.
 *
 * A pair is two ends of one connection: `a` and `b`. Where a test needs bytes that no path would send, `b` is never
 * started and its pipe, `rawB`, is written to directly.
 */
import fc from 'fast-check'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { MAX_FIRST_MESSAGE_BYTES, MAX_MESSAGE_BYTES, type Path } from './path.ts'
import { PIPE_HIGH_WATER_BYTES, type Pipe } from './pipe.ts'
import { expectSame, framed, lengthOf, QUIET_TURNS, quiet, Recorder, sample, turns } from './recorder.compliance.ts'

/** Two ends of one connection. */
export interface PathPair {
  readonly a: Path
  readonly b: Path
  /** The pipe under `b`. */
  readonly rawB: Pipe
  /** Bytes that wait in user space below `a`. */
  waiting(): number
  teardown(): Promise<void>
}

/** Ends `pipe` in order. It reads on, as a WebSocket must to see its close answered. */
function finish(pipe: Pipe): void {
  pipe.resume()
  pipe.end()
}

/** What a reader with no cleverness makes of `bytes` and an end after them. */
function reference(bytes: Buffer, limit: number): { messages: Buffer[]; end: string } {
  const messages: Buffer[] = []
  for (let at = 0; at < bytes.length; ) {
    if (bytes.length - at < 4) return { messages, end: 'ERR_PEERLINE_PROTOCOL' }
    const length = bytes.readUInt32BE(at)
    if (length === 0) return { messages, end: 'ERR_PEERLINE_PROTOCOL' }
    if (length > limit) return { messages, end: 'ERR_PEERLINE_TOO_LARGE' }
    if (bytes.length - at - 4 < length) return { messages, end: 'ERR_PEERLINE_PROTOCOL' }
    messages.push(bytes.subarray(at + 4, at + 4 + length))
    at += 4 + length
  }
  return { messages, end: 'in order' }
}

/** Checks that the paths of `makePair` keep the contract of `path.ts`. */
export function describePath(name: string, makePair: () => Promise<PathPair>): void {
  const pairs: PathPair[] = []
  const recorders: Recorder[] = []

  const open = async (): Promise<PathPair> => {
    const pair = await makePair()
    pairs.push(pair)
    return pair
  }
  const record = (): Recorder => {
    const recorder = new Recorder()
    recorders.push(recorder)
    return recorder
  }
  const started = (path: Path): Recorder => {
    const recorder = record()
    path.start(recorder)
    return recorder
  }

  describe(`${name} keeps the contract of a path`, () => {
    afterEach(async () => {
      vi.useRealTimers()
      await Promise.all(pairs.splice(0).map((pair) => pair.teardown()))
      for (const recorder of recorders.splice(0)) {
        expect(recorder.closes.length).toBeLessThanOrEqual(1)
        expect(recorder.lateCalls).toBe(0)
      }
    })

    describe('messages', () => {
      test('arrive whole and in order, both ways', async () => {
        const { a, b } = await open()
        const [atA, atB] = [started(a), started(b)]
        const sizes = [1, 2, 3, 4, 5, 100, 16_383, 16_384, 16_385, MAX_FIRST_MESSAGE_BYTES, 1]
        const messages = sizes.map((size, i) => sample(size, i))
        for (const message of messages) {
          a.send([message])
          b.send([message])
        }
        await Promise.all([atA.count(sizes.length), atB.count(sizes.length)])
        expectSame(atA.messages, messages)
        expectSame(atB.messages, messages)
      })

      test('of many parts arrive as one, and the parts stay as they were', async () => {
        const { a, b } = await open()
        const atB = started(b)
        b.maxMessageBytes = MAX_MESSAGE_BYTES
        const parts = [sample(1), sample(8), new Uint8Array(0), sample(20_000), sample(16), sample(30_000), sample(7)]
        const before = Buffer.concat(parts)
        for (let i = 0; i < 3; i++) a.send(parts) // a sealed record is kept and may go out again
        a.send([sample(3), new Uint8Array(0), sample(40)])
        await atB.count(4)
        expectSame(atB.messages, [before, before, before, Buffer.concat([sample(3), sample(40)])])
        expectSame([Buffer.concat(parts)], [before])
      })

      test('cut in two at every byte arrive whole', async () => {
        const { a, rawB } = await open()
        const atA = started(a)
        const messages = [sample(1), sample(2), sample(90), sample(1, 9), sample(40)]
        const bytes = framed(...messages)
        for (let cut = 0; cut <= bytes.length; cut++) {
          if (cut > 0) rawB.write([bytes.subarray(0, cut)])
          await turns(2)
          if (cut < bytes.length) rawB.write([bytes.subarray(cut)])
          await atA.count((cut + 1) * messages.length)
          expectSame(atA.messages.slice(-messages.length), messages)
        }
        expect(atA.messages.length).toBe((bytes.length + 1) * messages.length)
      })

      test('that trickle in byte by byte arrive whole', async () => {
        const { a, rawB } = await open()
        const atA = started(a)
        const messages = [sample(1), sample(3), sample(50)]
        for (const byte of framed(...messages)) {
          rawB.write([Uint8Array.of(byte)])
          await turns(1)
        }
        await atA.count(3)
        expectSame(atA.messages, messages)
      })

      test('of one chunk arrive one by one', async () => {
        const { a, rawB } = await open()
        const atA = started(a)
        const messages = Array.from({ length: 500 }, (_, i) => sample(1 + (i % 29), i))
        rawB.write([framed(...messages)])
        await atA.count(messages.length)
        expectSame(atA.messages, messages)
      })

      test('are kept from the receiver until start', async () => {
        const { a, b } = await open()
        const messages = [sample(10), sample(2_000)]
        for (const message of messages) a.send([message])
        await turns(QUIET_TURNS)
        const atB = record()
        b.start(atB)
        await atB.count(2)
        expectSame(atB.messages, messages)
      })

      test('may be kept by the receiver: later ones do not overwrite them', async () => {
        const { a, b } = await open()
        const atB = started(b)
        const copies: Buffer[] = []
        atB.onMessage = (message) => void copies.push(Buffer.from(message))
        for (let i = 0; i < 200; i++) a.send([sample(1 + ((i * 97) % 9_000), i)])
        await atB.count(200)
        expectSame(atB.messages, copies)
      })
    })

    describe('back-pressure', () => {
      test('a paused reader makes the writer wait; all arrives in order after resume, and drain is told', async () => {
        const { a, b, waiting } = await open()
        const [atA, atB] = [started(a), started(b)]
        b.maxMessageBytes = MAX_MESSAGE_BYTES
        a.send([sample(1)]) // lets a relay join first
        await atB.count(1)
        b.pause()

        const most = 64 * 1024 // messages: far more than all the buffers on the way hold
        const body = sample(MAX_MESSAGE_BYTES - 4)
        let sent = 1
        let highest = 0
        let answeredTrue = true
        const pump = (): void => {
          while (sent < most && answeredTrue) {
            answeredTrue = a.send([lengthOf(sent++), body])
            expect(a.writable).toBe(answeredTrue)
            highest = Math.max(highest, waiting())
          }
        }
        atA.onDrain = () => {
          expect(answeredTrue).toBe(false) // drain answers a false, nothing else
          expect(a.writable).toBe(true)
          answeredTrue = true
          pump()
        }
        pump()
        await quiet(() => sent)
        expect(answeredTrue).toBe(false)
        expect(a.writable).toBe(false)
        expect(sent).toBeLessThan(most / 64)
        expect(highest).toBeGreaterThanOrEqual(PIPE_HIGH_WATER_BYTES)
        expect(highest).toBeLessThan(PIPE_HIGH_WATER_BYTES + 2 * MAX_MESSAGE_BYTES)
        expect(atB.messages.length).toBe(1)

        const drainsBefore = atA.drains
        const stop = sent + 64
        atA.onDrain = () => {
          answeredTrue = true
          while (sent < stop && answeredTrue) answeredTrue = a.send([lengthOf(sent++), body])
        }
        b.resume()
        await atB.until(() => sent === stop && atB.messages.length === stop)
        expect(atA.drains).toBeGreaterThan(drainsBefore)
        atB.messages.slice(1).forEach((message, i) => {
          if (Buffer.from(message).readUInt32BE(0) !== i + 1) expect.fail(`message ${i + 1} is out of order`)
          if (Buffer.compare(message.subarray(4), body) !== 0) expect.fail(`message ${i + 1} is altered`)
        })
      })

      test('pause inside message() holds back the rest of the chunk', async () => {
        const { a, rawB } = await open()
        const atA = started(a)
        const messages = [sample(5), sample(6), sample(7), sample(8)]
        atA.onMessage = () => a.pause()
        rawB.write([framed(...messages)])
        for (let n = 1; n <= messages.length; n++) {
          await atA.count(n)
          await turns(5)
          expect(atA.messages.length).toBe(n)
          a.resume()
        }
        expectSame(atA.messages, messages)
      })

      test('pause and resume inside one message() change nothing', async () => {
        const { a, rawB } = await open()
        const atA = started(a)
        atA.onMessage = () => {
          a.pause()
          a.resume()
        }
        const messages = [sample(5), sample(6), sample(7)]
        rawB.write([framed(...messages)])
        await atA.count(3)
        expectSame(atA.messages, messages)
      })

      test('what comes in many chunks while paused is there after resume', async () => {
        const { a, rawB } = await open()
        const atA = started(a)
        const messages = Array.from({ length: 40 }, (_, i) => sample(100 + i))
        rawB.write([framed(sample(1))])
        await atA.count(1)
        a.pause()
        a.pause()
        for (const byte of messages) {
          rawB.write([framed(byte)])
          await turns(1)
        }
        expect(atA.messages.length).toBe(1)
        a.resume()
        await atA.count(1 + messages.length)
        expectSame(atA.messages.slice(1), messages)
      })

      test('pause before start holds too; resume before start loses nothing', async () => {
        const { a, b } = await open()
        b.pause()
        a.send([sample(9)])
        await turns(QUIET_TURNS)
        const atB = started(b)
        await turns(QUIET_TURNS)
        expect(atB.messages.length).toBe(0)
        b.resume()
        await atB.count(1)

        a.resume()
        b.send([sample(11)])
        await turns(QUIET_TURNS)
        const atA = started(a)
        await atA.count(1)
        expectSame([...atA.messages, ...atB.messages], [sample(11), sample(9)])
      })
    })

    describe('limits', () => {
      test('a message of maxMessageBytes arrives, one byte more ends the path', async () => {
        const { a, rawB } = await open()
        const atA = started(a)
        expect(a.maxMessageBytes).toBe(MAX_FIRST_MESSAGE_BYTES)
        rawB.write([framed(sample(MAX_FIRST_MESSAGE_BYTES))])
        await atA.count(1)
        rawB.write([lengthOf(MAX_FIRST_MESSAGE_BYTES + 1)])
        expect(await atA.end()).toBe('ERR_PEERLINE_TOO_LARGE')
        expect(a.writable).toBe(false)
        expect(a.send([sample(1)])).toBe(false)
        expectSame(atA.messages, [sample(MAX_FIRST_MESSAGE_BYTES)])
      })

      test.each([0x4000_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff])(
        'no memory is taken for an announced %i bytes',
        async (announced) => {
          const { a, rawB } = await open()
          const atA = started(a)
          const before = process.memoryUsage().arrayBuffers
          rawB.write([lengthOf(announced), sample(100)])
          expect(await atA.end()).toBe('ERR_PEERLINE_TOO_LARGE')
          expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(16 * 2 ** 20)
          expect(atA.messages).toEqual([])
        },
      )

      test('an empty message ends the path, and what follows in the chunk is not read', async () => {
        const { a, rawB } = await open()
        const atA = started(a)
        rawB.write([framed(sample(3), new Uint8Array(0), sample(4))])
        expect(await atA.end()).toBe('ERR_PEERLINE_PROTOCOL')
        expectSame(atA.messages, [sample(3)])
      })

      test('the limit may be raised inside message(), for the very next message of the chunk', async () => {
        const { a, rawB } = await open()
        const atA = started(a)
        atA.onMessage = () => {
          a.maxMessageBytes = MAX_MESSAGE_BYTES
        }
        const messages = [sample(2), sample(MAX_MESSAGE_BYTES)]
        rawB.write([framed(...messages)])
        await atA.count(2)
        expectSame(atA.messages, messages)
        rawB.write([lengthOf(MAX_MESSAGE_BYTES + 1)])
        expect(await atA.end()).toBe('ERR_PEERLINE_TOO_LARGE')
      })

      test('whatever bytes come, they are messages within the limit or a typed error', async () => {
        const bytes = (maxLength: number) => fc.uint8Array({ minLength: 1, maxLength }).map((b) => Buffer.from(b))
        const piece = fc.oneof(
          { weight: 4, arbitrary: bytes(60).map((message) => framed(message)) },
          { weight: 1, arbitrary: bytes(12) },
          { weight: 1, arbitrary: fc.integer({ min: 0, max: 70 }).map(lengthOf) },
        )
        await fc.assert(
          fc.asyncProperty(fc.array(piece, { maxLength: 8 }), fc.nat(400), async (pieces, cut) => {
            const { a, rawB } = await open()
            a.maxMessageBytes = 64
            const atA = started(a)
            const stream = Buffer.concat(pieces)
            const parts = [stream.subarray(0, cut), stream.subarray(cut)].filter((part) => part.length > 0)
            for (const part of parts) {
              rawB.write([part])
              await turns(2)
            }
            finish(rawB)
            const want = reference(stream, 64)
            expect(await atA.end()).toBe(want.end)
            expectSame(atA.messages, want.messages)
            await pairs.pop()!.teardown()
          }),
          { numRuns: 40 },
        )
      })
    })

    describe('the end', () => {
      test.each([1, 3, 4, 5, 13])('after %i bytes of a message is an error', async (bytes) => {
        const { a, rawB } = await open()
        const atA = started(a)
        rawB.write([framed(sample(7))])
        rawB.write([framed(sample(10)).subarray(0, bytes)])
        finish(rawB)
        expect(await atA.end()).toBe('ERR_PEERLINE_PROTOCOL')
        expectSame(atA.messages, [sample(7)])
      })

      test('between two messages is in order', async () => {
        const { a, rawB } = await open()
        const atA = started(a)
        rawB.write([framed(sample(7))])
        finish(rawB)
        expect(await atA.end()).toBe('in order')
        expect(a.writable).toBe(false)
        expect(a.send([sample(1)])).toBe(false)
        expectSame(atA.messages, [sample(7)])
      })

      test('comes after all that was sent, and both sides are told', async () => {
        const { a, b } = await open()
        const [atA, atB] = [started(a), started(b)]
        b.maxMessageBytes = MAX_MESSAGE_BYTES
        const messages = Array.from({ length: 80 }, (_, i) => sample(MAX_MESSAGE_BYTES - i))
        let told = true
        for (const message of messages) told = a.send([message])
        expect(told).toBe(false) // there is a queue when it closes
        a.close()
        expect(a.send([sample(1)])).toBe(false)
        expect(a.writable).toBe(false)
        a.close()
        expect(await atB.end()).toBe('in order')
        expect(await atA.end()).toBe('in order')
        expectSame(atB.messages, messages)
        a.close()
        b.close()
        a.destroy()
        b.destroy()
        await turns(QUIET_TURNS)
      })

      test('waits for a paused reader who has messages to read', async () => {
        const { a, rawB } = await open()
        const atA = started(a)
        const messages = [sample(5), sample(6), sample(7)]
        atA.onMessage = () => a.pause()
        rawB.write([framed(...messages)])
        finish(rawB)
        await atA.count(1)
        await turns(QUIET_TURNS)
        expect([atA.messages.length, atA.closes.length]).toEqual([1, 0])
        a.resume()
        await turns(QUIET_TURNS)
        expect([atA.messages.length, atA.closes.length]).toEqual([2, 0])
        atA.onMessage = undefined
        a.resume()
        expect(await atA.end()).toBe('in order')
        expectSame(atA.messages, messages)
      })

      test('in the middle of a message is an error for a paused reader too', async () => {
        const { a, rawB } = await open()
        const atA = started(a)
        atA.onMessage = () => a.pause()
        rawB.write([framed(sample(5), sample(6), sample(7)).subarray(0, -1)])
        finish(rawB)
        await atA.count(1)
        await turns(QUIET_TURNS)
        a.resume()
        await atA.count(2)
        a.resume()
        expect(await atA.end()).toBe('ERR_PEERLINE_PROTOCOL')
        expectSame(atA.messages, [sample(5), sample(6)])
      })

      test('destroy cuts a paused reader off at once', async () => {
        const { a, rawB } = await open()
        const atA = started(a)
        atA.onMessage = () => a.pause()
        rawB.write([framed(sample(5), sample(6))])
        finish(rawB)
        await atA.count(1)
        await turns(QUIET_TURNS)
        a.destroy(new PeerlineError('ERR_PEERLINE_LIMIT', 'enough'))
        expect(atA.closes.map((error) => error?.code)).toEqual(['ERR_PEERLINE_LIMIT'])
        a.resume()
        await turns(QUIET_TURNS)
        expectSame(atA.messages, [sample(5)])
      })

      test('of a side that is paused itself comes within the grace time', async () => {
        const { a, b } = await open()
        const [atA, atB] = [started(a), started(b)]
        b.send([sample(1)])
        await atA.count(1)
        vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
        a.pause()
        a.send([sample(4)])
        a.close()
        await atB.count(1)
        vi.advanceTimersByTime(5_000)
        expect(await atA.end()).toBe('in order')
        expect(await atB.end()).toBe('in order')
        expectSame(atB.messages, [sample(4)])
      })

      test('asked for before start is told after it', async () => {
        const { a, b } = await open()
        const atB = started(b)
        a.send([sample(4)])
        a.close()
        const atA = started(a)
        expect(await atA.end()).toBe('in order')
        expect(await atB.end()).toBe('in order')
        expectSame(atB.messages, [sample(4)])
      })

      test('that came before start is told after it, with all that was sent', async () => {
        const { a, b } = await open()
        const atA = started(a)
        a.send([sample(4)])
        a.close()
        await turns(QUIET_TURNS)
        const atB = started(b)
        expect(await atB.end()).toBe('in order')
        expect(await atA.end()).toBe('in order')
        expectSame(atB.messages, [sample(4)])
      })

      test('by destroy before start is told to whoever starts', async () => {
        const { a } = await open()
        a.destroy(new PeerlineError('ERR_PEERLINE_ABORTED', 'not wanted'))
        await turns(QUIET_TURNS)
        expect(a.writable).toBe(false)
        expect(a.send([sample(1)])).toBe(false)
        const atA = started(a)
        expect(atA.closes).toEqual([]) // never from inside start
        expect(await atA.end()).toBe('ERR_PEERLINE_ABORTED')
      })

      test('by destroy after close, with a queue, is told once, at once', async () => {
        const { a, b } = await open()
        const [atA, atB] = [started(a), started(b)]
        b.maxMessageBytes = MAX_MESSAGE_BYTES
        b.pause()
        while (a.send([sample(MAX_MESSAGE_BYTES)]));
        a.close()
        expect(atA.closes).toEqual([])
        a.destroy(new PeerlineError('ERR_PEERLINE_ABORTED', 'no time'))
        expect(atA.closes.map((error) => error?.code)).toEqual(['ERR_PEERLINE_ABORTED'])
        b.resume()
        await atB.end()
        await turns(QUIET_TURNS)
      })

      test('from inside message() stops the rest of the chunk', async () => {
        const { a, rawB } = await open()
        const atA = started(a)
        atA.onMessage = () => a.destroy()
        rawB.write([framed(sample(1), sample(2))])
        expect(await atA.end()).toBe('in order')
        await turns(QUIET_TURNS)
        expectSame(atA.messages, [sample(1)])
      })
    })

    describe('handing over', () => {
      test('from inside message() takes effect with the next message of the chunk', async () => {
        const { a, b, rawB } = await open()
        const [first, second] = [started(a), record()]
        first.onMessage = () => a.start(second)
        rawB.write([framed(sample(5), sample(6), sample(7))])
        finish(rawB)
        expect(await second.end()).toBe('in order')
        expectSame(first.messages, [sample(5)])
        expectSame(second.messages, [sample(6), sample(7)])
        expect(first.closes).toEqual([])
        b.destroy()
      })

      test('while paused gives all that was held to the new handler', async () => {
        const { a, rawB } = await open()
        const [first, second] = [started(a), record()]
        first.onMessage = () => a.pause()
        rawB.write([framed(sample(5), sample(6))])
        await first.count(1)
        a.start(second)
        await turns(QUIET_TURNS)
        expect(second.messages).toEqual([])
        a.resume()
        await second.count(1)
        expectSame(second.messages, [sample(6)])
        expect(first.messages.length).toBe(1)
      })

      test('after the end tells the new handler too', async () => {
        const { a, b } = await open()
        const first = started(a)
        started(b)
        b.close()
        await first.end()
        const second = started(a)
        expect(await second.end()).toBe('in order')
      })
    })
  })
}
