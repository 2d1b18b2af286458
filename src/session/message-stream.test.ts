import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { encodeCbor } from '../bytes/index.ts'
import type { PeerlineError } from '../errors.ts'
import { StreamCode } from './codes.ts'
import { MessageStream } from './message-stream.ts'
import { Stream } from './stream.ts'

const MAX_BYTES = 1_000

function framed(value: unknown): Buffer {
  const body = encodeCbor(value)
  const head = Buffer.alloc(4)
  head.writeUInt32BE(body.length)
  return Buffer.concat([head, body])
}

/** A stream whose other side is the test: `deliver` is what comes, `written` what went, `sent` the resets and stops. */
function make(options: { onMessage?: (message: unknown) => void; credit?: boolean } = {}) {
  const got: unknown[] = []
  const ends: (PeerlineError | undefined)[] = []
  const written: Buffer[] = []
  const sent: [string, number][] = []
  const stream: Stream = new Stream(
    {
      writeSmall: (_stream, data) => {
        if (options.credit === false) return false
        written.push(Buffer.from(data))
        return true
      },
      wantSend: () => {},
      sendReset: (_stream, code) => sent.push(['reset', code]),
      sendStop: (_stream, code) => sent.push(['stop', code]),
      sendWindow: () => {},
      credit: (_stream, bytes) => bytes,
      hold: () => true,
      release: () => {},
      reserveWindow: () => true,
      releaseWindow: () => {},
      rttMs: 1,
      streamDone: () => {},
    },
    0,
    '/control/1',
  )
  const messages = new MessageStream(stream, {
    maxBytes: MAX_BYTES,
    onMessage: (message) => {
      got.push(message)
      options.onMessage?.(message)
    },
    onEnd: (error) => ends.push(error),
  })
  return { stream, messages, got, ends, written, sent, deliver: (bytes: Uint8Array) => stream.onData(bytes, false) }
}

const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })
const VALUES = [{ t: 'a' }, [1, 2, 3], 'x'.repeat(300), null, { t: 'b', n: new Uint8Array([1, 2]) }]
const BYTES = Buffer.concat(VALUES.map(framed))

describe('messages', () => {
  test('come whole and in order, wherever the stream is cut in two', () => {
    for (let at = 0; at <= BYTES.length; at++) {
      const { deliver, got, ends } = make()
      deliver(BYTES.subarray(0, at))
      deliver(BYTES.subarray(at))
      expect(got).toEqual(VALUES)
      expect(ends).toEqual([])
    }
  })

  test('come whole and in order in any pieces, down to single bytes', () => {
    const one = make()
    for (const byte of BYTES) one.deliver(Uint8Array.of(byte))
    expect(one.got).toEqual(VALUES)
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 30 }), (sizes) => {
        const { deliver, got } = make()
        for (let at = 0, turn = 0; at < BYTES.length; turn++) {
          const size = sizes[turn % sizes.length]!
          deliver(BYTES.subarray(at, at + size))
          at += size
        }
        expect(got).toEqual(VALUES)
      }),
    )
  })

  test('are sent as they are read', async () => {
    const { messages, written } = make()
    for (const value of VALUES) await messages.send(value)
    expect(Buffer.concat(written)).toEqual(BYTES)
  })
})

describe('the end', () => {
  test('in order is told without an error, once', () => {
    const { stream, ends, got } = make()
    stream.onData(BYTES, true)
    stream.reset()
    expect(got).toEqual(VALUES)
    expect(ends).toEqual([undefined])
  })

  test('in the middle of a message is told as what it is', () => {
    for (const cut of [1, 4, 5, BYTES.length - 1]) {
      const { stream, ends } = make()
      stream.onData(BYTES.subarray(0, cut), true)
      expect(ends).toEqual([code('ERR_PEERLINE_PROTOCOL')])
    }
  })

  test('by a reset is told with its reason', () => {
    const { stream, ends } = make()
    stream.onReset(StreamCode.BUSY)
    expect(ends).toEqual([code('ERR_PEERLINE_BUSY')])
  })

  test('comes with a message above the limit, at its announcement, and nothing is read after it', () => {
    for (const length of [MAX_BYTES + 1, 0xffffffff]) {
      const { deliver, ends, got, sent } = make()
      const head = Buffer.alloc(4)
      head.writeUInt32BE(length)
      deliver(Buffer.concat([framed('before'), head]))
      deliver(BYTES)
      expect(got).toEqual(['before'])
      expect(ends).toEqual([code('ERR_PEERLINE_TOO_LARGE')])
      expect(sent).toEqual([
        ['reset', StreamCode.FAILED],
        ['stop', StreamCode.FAILED],
      ])
    }
  })

  test('comes with what the receiver throws', () => {
    const { deliver, ends, got } = make({
      onMessage: () => {
        throw new TypeError('a bug in the receiver')
      },
    })
    deliver(BYTES)
    expect(got.length).toBe(1)
    expect(ends).toEqual([code('ERR_PEERLINE_PROTOCOL')])
  })

  test('comes with garbage: typed, once, whatever it is', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ minLength: 1, maxLength: 100 }), { maxLength: 10 }), (chunks) => {
        const { stream, ends } = make()
        for (const chunk of chunks) stream.onData(chunk, false)
        stream.onData(new Uint8Array(0), true)
        expect(ends.length).toBe(1)
        if (ends[0] !== undefined) expect(ends[0].code).toMatch(/^ERR_PEERLINE_(PROTOCOL|TOO_LARGE)$/)
      }),
      { numRuns: 300 },
    )
  })

  test('comes to whoever does not read what it is told, before it costs more than some MiB', async () => {
    const { messages, ends, sent } = make({ credit: false })
    const text = 'z'.repeat(900)
    const sends: Promise<unknown>[] = []
    while (ends.length === 0) {
      sends.push(messages.send(text).catch((error: unknown) => error))
      expect(sends.length).toBeLessThan(10_000)
    }
    expect(sends.length * text.length).toBeGreaterThan(1_048_576)
    expect(await sends.at(-1)).toEqual(code('ERR_PEERLINE_LIMIT'))
    expect(await sends[0]).toEqual(code('ERR_PEERLINE_CLOSED'))
    expect(sent[0]).toEqual(['reset', StreamCode.BUSY])
    await expect(messages.send(text)).rejects.toEqual(code('ERR_PEERLINE_CLOSED'))
  })
})
