import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { varintSize } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
import { MAX_MESSAGE_BYTES } from '../path/index.ts'
import {
  checkProtocol,
  type FrameVisitor,
  FrameWriter,
  MAX_CANDIDATES_BYTES,
  MAX_DATAGRAM_BYTES,
  MAX_PROTOCOL_BYTES,
  readFrames,
} from './frame.ts'
import { RECORD_HEAD_BYTES } from './record.ts'

/** A frame as a list: its name, then its fields; bytes as plain arrays. */
type Seen = readonly [string, ...unknown[]]

function collect(seen: Seen[]): FrameVisitor {
  return {
    onOpen: (...fields) => seen.push(['open', ...fields]),
    onData: (stream, data, fin) => seen.push(['data', stream, [...data], fin]),
    onReset: (...fields) => seen.push(['reset', ...fields]),
    onStop: (...fields) => seen.push(['stop', ...fields]),
    onWindow: (...fields) => seen.push(['window', ...fields]),
    onAck: (...fields) => seen.push(['ack', ...fields]),
    onPing: (token) => seen.push(['ping', [...token]]),
    onPong: (token) => seen.push(['pong', [...token]]),
    onCandidates: (bytes) => seen.push(['candidates', [...bytes]]),
    onClose: (...fields) => seen.push(['close', ...fields]),
    onDatagram: (data) => seen.push(['datagram', [...data]]),
  }
}

function read(record: Uint8Array): Seen[] {
  const seen: Seen[] = []
  readFrames(record, collect(seen), () => false)
  return seen
}

/** Takes all batches; each is copied, since the next write reuses it. */
function batches(writer: FrameWriter): Uint8Array[] {
  const all: Uint8Array[] = []
  for (let batch = writer.take(); batch !== undefined; batch = writer.take()) all.push(batch.slice())
  return all
}

const number = fc.oneof(fc.nat(70), fc.nat(0x4000), fc.nat(0x7fffffff), fc.constant(Number.MAX_SAFE_INTEGER))
const name = fc
  .string({ unit: 'grapheme', minLength: 1, maxLength: 40 })
  .filter((text) => new TextEncoder().encode(text).length <= MAX_PROTOCOL_BYTES)
const token = fc.uint8Array({ minLength: 8, maxLength: 8 })
const frame: fc.Arbitrary<Seen> = fc.oneof(
  fc.tuple(fc.constant('open' as const), number, name),
  fc.tuple(
    fc.constant('data' as const),
    number,
    fc.uint8Array({ maxLength: 4096, size: 'max' }).map((data) => [...data]),
    fc.boolean(),
  ),
  fc.tuple(fc.constantFrom('reset', 'stop', 'window'), number, number),
  fc.tuple(fc.constant('ack'), number),
  fc.tuple(
    fc.constantFrom('ping', 'pong'),
    token.map((bytes) => [...bytes]),
  ),
  fc.tuple(
    fc.constant('candidates'),
    fc.uint8Array({ maxLength: MAX_CANDIDATES_BYTES, size: 'max' }).map((bytes) => [...bytes]),
  ),
  fc.tuple(
    fc.constant('datagram'),
    fc.uint8Array({ maxLength: 4096, size: 'max' }).map((bytes) => [...bytes]),
  ),
  fc.tuple(fc.constant('close'), fc.string({ maxLength: 20 }), fc.string({ unit: 'grapheme', maxLength: 20 })),
)

function write(writer: FrameWriter, [kind, ...fields]: Seen): void {
  const plain = fields.map((field) => (Array.isArray(field) ? Uint8Array.from(field as number[]) : field))
  if (kind === 'datagram') return writer.datagrams(plain as Uint8Array[])
  const call = writer[kind as 'open'] as (...args: unknown[]) => void
  call.apply(writer, plain)
}

describe('frames', () => {
  it('are read as they were written, all of them, across batches that never split one', () => {
    fc.assert(
      fc.property(fc.array(frame, { maxLength: 40 }), (frames) => {
        const writer = new FrameWriter()
        for (const one of frames) write(writer, one)
        const all = batches(writer)
        // Each batch is read by itself: a frame that went on in the next would fail here.
        expect(all.flatMap(read)).toEqual(frames)
        expect(writer.bytes).toBe(0)
        for (const batch of all) expect(batch.length).toBeLessThanOrEqual(16_384)
      }),
      { numRuns: 150 },
    )
  })

  it('fill batches exactly to their end without a loss', () => {
    for (let length = 4_050; length <= 4_096; length++) {
      const writer = new FrameWriter()
      const sent: Seen[] = []
      for (let i = 0; i < 9; i++) {
        sent.push(['data', i, [...new Uint8Array(length).fill(i)], false])
        write(writer, sent.at(-1)!)
      }
      expect(batches(writer).flatMap(read)).toEqual(sent)
    }
  })

  it('of data to the end of the record take what is sealed behind the batch', () => {
    for (const fin of [false, true]) {
      const writer = new FrameWriter()
      writer.ack(5)
      writer.dataToEnd(8, fin)
      const record = Buffer.concat([writer.take()!, Uint8Array.of(1, 2, 3)])
      expect(read(record)).toEqual([
        ['ack', 5],
        ['data', 8, [1, 2, 3], fin],
      ])
      expect(read(record.subarray(0, -3)).at(-1)).toEqual(['data', 8, [], fin])
    }
  })

  it.each([64, 16_384])(
    'of datagrams are one batch, with an acknowledgement, whatever their size and batches of %d',
    (size) => {
      fc.assert(
        fc.property(fc.array(fc.nat(MAX_DATAGRAM_BYTES), { minLength: 1, maxLength: 4 }), number, (lengths, count) => {
          const writer = new FrameWriter(size)
          const all = lengths.map((length, at) => new Uint8Array(length).fill(at))
          writer.datagrams(all)
          writer.ack(count)
          const batch = writer.take()!
          expect(writer.take()).toBeUndefined()
          const got: Uint8Array[] = []
          let acked: number | undefined
          const visitor = {
            ...collect([]),
            onDatagram: (data: Uint8Array) => got.push(data),
            onAck: (to: number) => {
              acked = to
            },
          }
          readFrames(batch, visitor, () => false)
          expect(acked).toBe(count)
          expect(got.map(({ length }) => length)).toEqual(lengths)
          expect(got.every((data, at) => Buffer.compare(data, all[at]!) === 0)).toBe(true)
        }),
        { numRuns: 50 },
      )
    },
  )

  it('of the largest datagram fit a message of every path, beside number, tag and acknowledgement', () => {
    const writer = new FrameWriter()
    writer.datagrams([new Uint8Array(MAX_DATAGRAM_BYTES)])
    writer.ack(Number.MAX_SAFE_INTEGER)
    expect(writer.take()!.length + RECORD_HEAD_BYTES).toBeLessThanOrEqual(MAX_MESSAGE_BYTES)
  })

  it('larger than a batch leave none of that size behind', () => {
    const writer = new FrameWriter()
    writer.datagrams([new Uint8Array(40_000)])
    writer.take()
    writer.release()
    writer.ping(new Uint8Array(8))
    expect(writer.take()!.buffer.byteLength).toBeLessThanOrEqual(16_384)
  })

  it('stop being read when the session has ended', () => {
    const writer = new FrameWriter()
    for (let i = 0; i < 3; i++) writer.ack(i)
    const seen: Seen[] = []
    readFrames(writer.take()!, collect(seen), () => seen.length === 1)
    expect(seen).toEqual([['ack', 0]])
  })

  it('read a name as it is, its byte order mark included, also from the cache', () => {
    for (const protocol of ['/x/1', '\ufeff/x/1', '/ü/1', '/x/1', '\ufeff/x/1']) {
      const writer = new FrameWriter()
      writer.open(2, protocol)
      expect(read(writer.take()!)).toEqual([['open', 2, protocol]])
    }
  })

  it('know the size of an acknowledgement', () => {
    fc.assert(
      fc.property(number, (count) => {
        const writer = new FrameWriter()
        writer.ack(count)
        expect(writer.bytes).toBe(1 + varintSize(count))
      }),
    )
  })
})

describe('a batch', () => {
  it('says whether small data still fits, header included, and is let go when empty', () => {
    const writer = new FrameWriter()
    expect(writer.fits(16_384 - 13)).toBe(true)
    expect(writer.fits(16_384 - 12)).toBe(false)
    writer.data(2, new Uint8Array(16_384 - 13), false)
    expect(writer.fits(0)).toBe(false)
    expect(writer.take()!.length).toBeLessThanOrEqual(16_384)
    writer.release()
    expect(writer.take()).toBeUndefined()
    expect(writer.fits(0)).toBe(true)
  })

  it('takes nothing small while full ones wait: order is kept', () => {
    const writer = new FrameWriter()
    for (let i = 0; i < 5; i++) writer.candidates(new Uint8Array(4_096))
    expect(writer.fits(0)).toBe(false)
    writer.take()
    expect(writer.fits(0)).toBe(true)
  })
})

describe('a farewell', () => {
  it('is clipped to what the other side reads, between two characters', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom('a', 'ü', '€', '💡'), maxLength: 200 }),
        fc.string({ unit: fc.constantFrom('a', 'ü', '€', '💡'), maxLength: 600 }),
        (code, message) => {
          const writer = new FrameWriter()
          writer.close(code, message)
          const [[, gotCode, gotMessage]] = read(writer.take()!) as [Seen]
          expect(code.startsWith(gotCode as string)).toBe(true)
          expect(message.startsWith(gotMessage as string)).toBe(true)
          const lost = (whole: string, part: unknown) => Buffer.byteLength(whole) - Buffer.byteLength(part as string)
          if (Buffer.byteLength(code) <= 64) expect(gotCode).toBe(code)
          else expect(Buffer.byteLength(gotCode as string)).toBeGreaterThan(64 - 7)
          if (Buffer.byteLength(message) <= 256) expect(gotMessage).toBe(message)
          else expect(lost(message, gotMessage)).toBeLessThanOrEqual(Buffer.byteLength(message) - 256 + 6)
        },
      ),
    )
  })
})

describe('protocol names', () => {
  it.each(['', 'a'.repeat(129), '€'.repeat(43)])('are refused when empty or over 128 bytes: %j', (protocol) => {
    expect(() => checkProtocol(protocol)).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  })

  it('may have 128 bytes', () => {
    const protocol = `${'€'.repeat(42)}aa`
    checkProtocol(protocol)
    const writer = new FrameWriter()
    writer.open(1, protocol)
    expect(read(writer.take()!)).toEqual([['open', 1, protocol]])
  })
})

describe('what is malformed', () => {
  const failure = (record: Uint8Array): unknown => {
    try {
      read(record)
      return undefined
    } catch (error) {
      return error
    }
  }

  it.each([
    ['an unknown frame', [0x00]],
    ['a frame of the future', [0x14]],
    ['a frame cut short', [0x02, 0x04]],
    ['data cut short', [0x10, 0x04, 0x05, 1, 2]],
    ['a ping cut short', [0x06, 1, 2, 3]],
    ['an integer above 2^53', [0x05, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]],
    ['a name of 129 bytes', [0x01, 0x04, 0x40, 129, ...new Uint8Array(129)]],
    ['a name that is not UTF-8', [0x01, 0x04, 2, 0xc3, 0x28]],
    ['a datagram of 65537 bytes', [0x0a, 0x80, 0x01, 0x00, 0x01, ...new Uint8Array(65_537)]],
    ['a datagram cut short', [0x0a, 4, 1, 2, 3]],
    ['candidates of 4097 bytes', [0x08, 0x50, 0x01, ...new Uint8Array(4097)]],
    ['a farewell with a code of 65 bytes', [0x09, 0x40, 65, ...new Uint8Array(66)]],
  ])('is an error of protocol: %s', (_, bytes) => {
    expect(failure(Uint8Array.from(bytes))).toMatchObject({ code: 'ERR_PEERLINE_PROTOCOL' })
  })

  it('fails with that error and no other, whatever comes', () => {
    const edits = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 })
    const mutated = fc.tuple(fc.array(frame, { minLength: 1, maxLength: 5 }), edits, fc.nat(5)).map((parts) => {
      const [frames, changes, cut] = parts
      const writer = new FrameWriter()
      for (const one of frames) write(writer, one)
      const record = writer.take()!.slice()
      for (const [at, byte] of changes) record[at % record.length] = byte
      return record.subarray(0, Math.max(0, record.length - cut))
    })
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 80 }), mutated), (record) => {
        const error = failure(record)
        if (error === undefined) return
        expect(error).toBeInstanceOf(PeerlineError)
        expect((error as PeerlineError).code).toBe('ERR_PEERLINE_PROTOCOL')
      }),
      { numRuns: 500 },
    )
  })
})
