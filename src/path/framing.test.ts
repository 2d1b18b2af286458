import fc from 'fast-check'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { FramedPath } from './framing.ts'
import { MAX_FIRST_MESSAGE_BYTES } from './path.ts'
import type { Pipe, PipeHandler } from './pipe.ts'
import { expectSame, framed, lengthOf, Recorder, sample } from './recorder.compliance.ts'
import { turns } from './turns.ts'

/** A pipe whose chunks come exactly as the test says, whether it was paused or not: the worst that a pipe may do. */
class ScriptedPipe implements Pipe {
  ownsChunks = false
  readonly remote = 'script'
  writable = true
  handler!: PipeHandler
  readonly calls: string[] = []

  start(handler: PipeHandler): void {
    this.handler = handler
    this.calls.push('start')
  }

  write(): boolean {
    return this.writable
  }

  pause(): void {
    this.calls.push('pause')
  }

  resume(): void {
    this.calls.push('resume')
  }

  end(): void {
    this.calls.push('end')
  }

  destroy(): void {
    this.calls.push('destroy')
  }
}

/** The same, of chunks that may be given back. */
class ScriptedTurns extends ScriptedPipe {
  rest: Uint8Array | undefined

  takeBack(rest: Uint8Array): void {
    this.rest = rest
  }
}

function scripted(head?: Uint8Array): { pipe: ScriptedPipe; path: FramedPath; at: Recorder } {
  const pipe = new ScriptedPipe()
  return { pipe, path: new FramedPath('tcp', pipe, head), at: new Recorder() }
}

const MESSAGES = [sample(1), sample(7), sample(2), sample(20)]
const BYTES = framed(...MESSAGES)

describe('framing', () => {
  test('every pair of cuts gives the same messages', () => {
    const { pipe, path, at } = scripted()
    path.start(at)
    for (let first = 0; first <= BYTES.length; first++) {
      for (let second = first; second <= BYTES.length; second++) {
        at.messages.length = 0
        pipe.handler.data(BYTES.subarray(0, first))
        pipe.handler.data(BYTES.subarray(first, second))
        pipe.handler.data(BYTES.subarray(second))
        expectSame(at.messages, MESSAGES)
      }
    }
  })

  test('every head that was read already, and the rest', () => {
    for (let cut = 0; cut <= BYTES.length; cut++) {
      const { pipe, path, at } = scripted(BYTES.subarray(0, cut))
      path.start(at)
      pipe.handler.data(BYTES.subarray(cut))
      expectSame(at.messages, MESSAGES)
    }
  })

  test('pauses, resumes and chunks in any order lose nothing, and nothing comes while paused', () => {
    const action = fc.constantFrom('chunk', 'pause', 'resume')
    fc.assert(
      fc.property(
        fc.array(action, { maxLength: 40 }),
        fc.integer({ min: 1, max: 50 }),
        fc.nat(3),
        (acts, size, every) => {
          const { pipe, path, at } = scripted()
          let paused = false
          const want = [...MESSAGES, ...MESSAGES]
          const bytes = framed(...want)
          let fed = 0
          at.onMessage = () => {
            expect(paused).toBe(false)
            if (every > 0 && at.messages.length % every === 0) {
              paused = true
              path.pause()
            }
          }
          path.start(at)
          for (const act of [...acts, ...Array<string>(bytes.length).fill('chunk')]) {
            if (act === 'chunk') {
              pipe.handler.data(bytes.subarray(fed, fed + size))
              fed = Math.min(fed + size, bytes.length)
            } else if (act === 'pause') {
              paused = true
              path.pause()
            } else {
              paused = false
              path.resume()
            }
          }
          for (let i = 0; i <= want.length; i++) {
            paused = false
            path.resume()
          }
          expectSame(at.messages, want)
        },
      ),
      { numRuns: 300 },
    )
  })

  test('a chunk that is given back anywhere, and comes again, loses nothing', () => {
    const over = vi.spyOn(turns, 'over', 'get')
    onTestFinished(() => over.mockRestore())
    fc.assert(
      fc.property(fc.array(fc.boolean()), fc.integer({ min: 1, max: 50 }), (answers, size) => {
        over.mockReset()
        for (const answer of answers) over.mockReturnValueOnce(answer)
        const pipe = new ScriptedTurns()
        const at = new Recorder()
        new FramedPath('tcp', pipe).start(at)
        for (let fed = 0; fed < BYTES.length; fed += size) {
          let chunk: Uint8Array | undefined = BYTES.subarray(fed, fed + size)
          while (chunk !== undefined) {
            pipe.rest = undefined
            pipe.handler.data(chunk)
            expect((pipe.rest as Uint8Array | undefined)?.length ?? 0).toBeLessThan(chunk.length)
            chunk = pipe.rest
          }
        }
        expectSame(at.messages, MESSAGES)
      }),
    )
  })

  test('what nobody reads any more is freed at once, and what was given away is not', () => {
    const chunkOf = (length: number) => {
      const chunk = Buffer.allocUnsafeSlow(20_000)
      chunk.set(lengthOf(length))
      return chunk
    }
    const [refused, given] = [scripted(), scripted()]
    for (const { pipe, path, at } of [refused, given]) {
      pipe.ownsChunks = true
      path.start(at)
    }
    const parts = new ScriptedTurns()
    parts.ownsChunks = true
    new FramedPath('tcp', parts).start(new Recorder())
    const over = vi.spyOn(turns, 'over', 'get').mockReturnValueOnce(true)
    onTestFinished(() => over.mockRestore())
    const long = Buffer.concat([framed(sample(16_000), sample(8_000))])
    parts.handler.data(long)
    expect(long.length).toBeGreaterThan(0)
    parts.handler.data(parts.rest!)
    expect(long.length).toBe(0)

    const tooLong = chunkOf(MAX_FIRST_MESSAGE_BYTES + 1)
    refused.pipe.handler.data(tooLong)
    expect([refused.at.closes.length, tooLong.length]).toEqual([1, 0])
    given.path.pause()
    given.path.release()
    const theirs = chunkOf(1)
    given.pipe.handler.data(theirs)
    expect(theirs.length).toBe(20_000)
  })

  test('pause and resume inside message() do not end a pipe that ended, before the rest of its chunk is out', async () => {
    const { pipe, path, at } = scripted()
    path.start(at)
    path.pause()
    pipe.handler.data(BYTES)
    pipe.handler.close(undefined)
    at.onMessage = () => {
      path.pause()
      path.resume()
    }
    path.resume()
    expect(await at.end()).toBe('in order')
    expectSame(at.messages, MESSAGES)
    expect(at.lateCalls).toBe(0)
  })

  test('a path that closes does not wait for its own paused reader once the pipe has ended', () => {
    for (const closeFirst of [true, false]) {
      const { pipe, path, at } = scripted()
      path.start(at)
      path.pause()
      pipe.handler.data(BYTES)
      if (closeFirst) path.close()
      pipe.handler.close(undefined)
      if (!closeFirst) path.close()
      expect(at.closes).toEqual([undefined])
      path.resume()
      expect(at.messages).toEqual([])
    }
  })

  test('released, it gives away the pipe and what it held, and hears nothing more', () => {
    const { pipe, path, at } = scripted()
    path.start(at)
    at.onMessage = () => path.pause()
    pipe.handler.data(BYTES.subarray(0, 8))
    pipe.handler.data(BYTES.subarray(8, 20))
    const { pipe: given, rest } = path.release()
    expect(given).toBe(pipe)
    expectSame([rest!], [BYTES.subarray(5, 20)])
    pipe.handler.data(BYTES.subarray(20))
    pipe.handler.drain()
    pipe.handler.close(undefined)
    path.destroy()
    expectSame(at.messages, [sample(1)])
    expect([at.drains, at.closes.length]).toEqual([0, 0])
    expect(pipe.calls).not.toContain('destroy')
  })
})
