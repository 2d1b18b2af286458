import { randomBytes } from 'node:crypto'
import { PassThrough, Readable, Writable } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import { expect, test, vi } from 'vitest'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import { sessionPair } from '../session/session-pair.compliance.ts'
import { PIPE_PROTOCOL, pipeTo, type ServePipeOptions, servePipe } from './pipe.ts'
import { useServedPair } from './served-pair.compliance.ts'

const pair = useServedPair()
let served: Promise<{ bytes: number }>

function serve(writable: Writable, options: ServePipeOptions = {}): void {
  pair.onStream = (stream) => {
    served = servePipe(stream, writable, options)
    served.catch(() => {})
  }
}

/** Keeps what is written to it, a turn for each. */
class Sink extends Writable {
  readonly parts: Buffer[] = []
  override _write(chunk: Buffer, _encoding: string, done: (error?: Error) => void): void {
    this.parts.push(Buffer.from(chunk))
    setImmediate(done)
  }
}

async function* never(): AsyncGenerator<Uint8Array> {
  yield Buffer.from('first')
  await new Promise(() => {})
}

test('bytes arrive as they were, and the output is ended', async () => {
  const sink = new Sink()
  serve(sink)
  const content = randomBytes(3_000_000)
  expect(await pipeTo(pair.a, Readable.from(cut(content, 50_000)))).toEqual({ bytes: content.length })
  expect(Buffer.compare(Buffer.concat(sink.parts), content)).toBe(0)
  expect(sink.writableFinished).toBe(true)
  expect(await served).toEqual({ bytes: content.length })
})

function* cut(content: Buffer, size: number): Generator<Buffer> {
  for (let at = 0; at < content.length; at += size) yield content.subarray(at, at + size)
}

test('nothing at all is piped too; an output may be left open', async () => {
  const sink = new Sink()
  serve(sink, { end: false })
  expect(await pipeTo(pair.a, Readable.from([]))).toEqual({ bytes: 0 })
  expect(await pipeTo(pair.a, Readable.from([Buffer.from('more')]))).toEqual({ bytes: 4 })
  expect(sink.writableEnded).toBe(false)
  expect(Buffer.concat(sink.parts).toString()).toBe('more')
  expect(sink.listenerCount('error') + sink.listenerCount('close') + sink.listenerCount('drain')).toBe(0)
})

test('the sender is done only when the output has taken the last byte', async () => {
  let release: (() => void) | undefined
  const slow = new Writable({
    write: (_chunk, _encoding, done) => {
      release = done
    },
  })
  serve(slow)
  let done = false
  const piping = pipeTo(pair.a, Readable.from([Buffer.from('last')])).then(() => {
    done = true
  })
  await vi.waitFor(() => expect(release).toBeDefined())
  for (let i = 0; i < 20; i++) await turn()
  expect(done).toBe(false)
  release!()
  await piping
})

test('a slow output holds the input back', async () => {
  const stuck = new Writable({ highWaterMark: 1, write: () => {} })
  serve(stuck)
  let given = 0
  async function* endless(): AsyncGenerator<Uint8Array> {
    for (;;) {
      given += 65_536
      yield new Uint8Array(65_536)
      await turn()
    }
  }
  const controller = new AbortController()
  const piping = pipeTo(pair.a, endless(), { signal: controller.signal })
  let before = -1
  await vi.waitFor(
    () => {
      const still = given === before
      before = given
      expect(still).toBe(true)
    },
    { interval: 100 },
  )
  expect(given).toBeLessThan(2_000_000)
  controller.abort()
  await expect(piping).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  stuck.destroy()
  await expect(served).rejects.toSatisfy(isPeerlineError)
})

test('an output that closes ends both sides, though the input is silent', async () => {
  const output = new PassThrough()
  serve(output)
  const piping = pipeTo(pair.a, never())
  await new Promise((resolve) => output.once('data', resolve))
  output.destroy(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }))
  await expect(piping).rejects.toMatchObject({ code: 'ERR_PEERLINE_RESET' })
  await expect(served).rejects.toMatchObject({ code: 'ERR_PEERLINE_CLOSED' })
  // One that was closed before.
  await expect(pipeTo(pair.a, never())).rejects.toMatchObject({ code: 'ERR_PEERLINE_RESET' })
  await expect(served).rejects.toMatchObject({ code: 'ERR_PEERLINE_CLOSED' })
})

test('an output that fails, also at its end, is told as a failure', async () => {
  for (const at of ['write', 'final'] as const) {
    const full = Object.assign(new Error('no space'), { code: 'ENOSPC' })
    const failing = new Writable({
      write: (_chunk, _encoding, done) => done(at === 'write' ? full : null),
      final: (done) => done(at === 'final' ? full : null),
    })
    serve(failing)
    await expect(pipeTo(pair.a, Readable.from([Buffer.from('x')]))).rejects.toMatchObject({
      code: 'ERR_PEERLINE_REMOTE',
    })
    await expect(served).rejects.toMatchObject({ code: 'ERR_PEERLINE_DISK_FULL' })
  }
})

test('either side can cancel, and lets go of its input', async () => {
  const early = AbortSignal.abort()
  await expect(pipeTo(pair.a, never(), { signal: early })).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })

  const controller = new AbortController()
  serve(new Sink())
  const input = new PassThrough()
  input.write('some')
  const piping = pipeTo(pair.a, input, { signal: controller.signal })
  await turn()
  controller.abort()
  await expect(piping).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  expect(input.destroyed).toBe(true)
  await vi.waitFor(() => expect(served).rejects.toMatchObject({ code: 'ERR_PEERLINE_RESET' }))

  const other = new AbortController()
  serve(new Sink(), { signal: other.signal })
  const stopped = vi.fn()
  async function* source(): AsyncGenerator<Uint8Array> {
    try {
      for (;;) {
        yield Buffer.from('x')
        await turn()
      }
    } finally {
      stopped()
    }
  }
  const again = pipeTo(pair.a, source())
  await turn()
  other.abort()
  await expect(again).rejects.toMatchObject({ code: 'ERR_PEERLINE_RESET' })
  await expect(served).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  await vi.waitFor(() => expect(stopped).toHaveBeenCalled())
})

test('an input that fails ends both sides, and the output does not take it for whole', async () => {
  const sink = new Sink()
  serve(sink)
  async function* failing(): AsyncGenerator<Uint8Array> {
    yield Buffer.from('half')
    throw new Error('gone')
  }
  await expect(pipeTo(pair.a, failing())).rejects.toMatchObject({ code: 'ERR_PEERLINE_FILE' })
  await vi.waitFor(() => expect(served).rejects.toMatchObject({ code: 'ERR_PEERLINE_RESET' }))
  expect(sink.writableEnded).toBe(false)
})

test('the end of the session ends a pipe', async () => {
  const own = await sessionPair({
    onStreamB: (stream) => {
      served = servePipe(stream, new Sink())
      served.catch(() => {})
    },
  })
  const piping = pipeTo(own.a, never())
  await vi.waitFor(() => expect(own.b.streams).toBe(1))
  own.b.abort(new PeerlineError('ERR_PEERLINE_LIMIT', 'enough'))
  await expect(piping).rejects.toMatchObject({ code: 'ERR_PEERLINE_LIMIT' })
  await expect(served).rejects.toMatchObject({ code: 'ERR_PEERLINE_LIMIT' })
  await own.close()
})

test('property: whatever a receiver does, the sender ends with a count or a typed error', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.uint8Array({ maxLength: 20 }),
      fc.constantFrom('end', 'reset'),
      fc.nat(300),
      async (bytes, last, code) => {
        pair.onStream = (stream) => {
          stream.write(bytes).catch(() => {})
          if (last === 'end') {
            stream.end().catch(() => {})
            stream.cancel(code)
          } else stream.reset(code)
        }
        const outcome = await pipeTo(pair.a, Readable.from([Buffer.from('some')])).catch((error: unknown) => error)
        if (!isPeerlineError(outcome)) expect([outcome, bytes.length, last]).toEqual([{ bytes: 4 }, 0, 'end'])
      },
    ),
    { numRuns: 100 },
  )
  const stream = await pair.a.open(PIPE_PROTOCOL)
  stream.reset()
})
