import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isPeerlineError } from '../errors.ts'
import { type DhtMessage, MAX_MESSAGE_BYTES, readBencode, readDhtMessage } from './dht-message.ts'
import { bencode } from './private-dht.compliance.ts'

const PROTOCOL = expect.objectContaining({ code: 'ERR_PEERLINE_PROTOCOL' })
const id = Buffer.alloc(20, 1)
const bytes = (length: number) => Buffer.alloc(length, 7)

type Encodable = Parameters<typeof bencode>[0]
const query = (q: string, a: Encodable) => bencode({ t: 'aa', y: 'q', q, a })
const answer = (r: Encodable) => bencode({ t: 'aa', y: 'r', r })

describe('messages that are passed on', () => {
  test.each<[string, Buffer, DhtMessage]>([
    ['a ping', query('ping', { id }), { kind: 'query', method: 'ping', target: undefined }],
    ['a get', query('get', { id, target: bytes(20) }), { kind: 'query', method: 'get', target: bytes(20) }],
    [
      'a get that says what it knows',
      query('get', { id, target: bytes(20), seq: 5 }),
      { kind: 'query', method: 'get', target: bytes(20) },
    ],
    [
      'a search for a torrent',
      query('get_peers', { id, info_hash: bytes(20), want: ['n4'] }),
      { kind: 'query', method: 'get_peers', target: bytes(20) },
    ],
    [
      'a put',
      query('put', { id, k: bytes(32), salt: 'x', seq: 2 ** 53 - 1, sig: bytes(64), token: 'a', v: bytes(1_000) }),
      { kind: 'query', method: 'put', target: undefined },
    ],
    ['keys in any order', Buffer.from(`d1:y1:q1:t1:a1:q4:ping1:ad2:id20:${id}ee`), expect.anything()],
    ['an answer', answer({ id, nodes: bytes(52), token: 'a', values: [bytes(6), bytes(18)] }), { kind: 'answer' }],
    ['an error', bencode({ t: 'aa', y: 'e', e: [203, 'no'] }), { kind: 'answer' }],
    ['a version beside it', bencode({ t: 'aa', y: 'r', v: 'LT', ip: bytes(6), r: { id, p: 5 } }), { kind: 'answer' }],
  ])('%s', (_, message, read) => {
    expect(readDhtMessage(message)).toEqual(read)
  })
})

describe('messages that are not', () => {
  test.each<[string, Buffer]>([
    ['nothing', Buffer.alloc(0)],
    ['no map', bencode(['a'])],
    ['without a transaction', bencode({ y: 'q', q: 'ping', a: { id } })],
    ['of another kind', bencode({ t: 'aa', y: 'x' })],
    ['whose kind is a map', bencode({ t: 'aa', y: { toString: 'x' } })],
    ['without a method', bencode({ t: 'aa', y: 'q', a: { id } })],
    ['without arguments', bencode({ t: 'aa', y: 'q', q: 'ping' })],
    ['of nobody', query('ping', {})],
    ['of a short id', query('ping', { id: bytes(19) })],
    ['with a number for a target', query('get', { id, target: 5 })],
    ['with a short target', query('find_node', { id, target: bytes(5) })],
    ['with a list for a torrent', query('get_peers', { id, info_hash: ['x'] })],
    ['with a number for a token', query('put', { id, token: 5, v: 'x' })],
    ['with an item without its key', query('put', { id, token: 'a', sig: bytes(64), seq: 1, v: 'x' })],
    ['with an item without its signature', query('put', { id, token: 'a', k: bytes(32), seq: 1, v: 'x' })],
    ['with an item without its sequence', query('put', { id, token: 'a', k: bytes(32), sig: bytes(64), v: 'x' })],
    ['with a negative sequence', query('put', { id, k: bytes(32), sig: bytes(64), seq: -1, v: 'x' })],
    ['with a value that is too large', query('put', { id, token: 'a', v: bytes(1_001) })],
    ['with a value that is no string', query('put', { id, token: 'a', v: { a: 'b' } })],
    ['with half a node', answer({ id, nodes: bytes(27) })],
    ['with peers that are numbers', answer({ id, values: [5] })],
    ['with a port that is none', query('announce_peer', { id, port: 65_536 })],
    ['with an error without a code', bencode({ t: 'aa', y: 'e', e: 'no' })],
    ['with a key of every object', Buffer.from(`d9:__proto__de1:ad2:id20:${id}e1:q4:ping1:t1:a1:y1:qe`)],
    ['with a key twice', Buffer.from(`d1:ad2:id20:${id}e1:q4:ping1:q4:ping1:t1:a1:y1:qe`)],
    ['that are too long', bencode({ t: 'aa', y: 'r', r: { id }, x: bytes(MAX_MESSAGE_BYTES) })],
    ['that end too soon', query('ping', { id }).subarray(0, -1)],
    ['that something follows', Buffer.concat([query('ping', { id }), Buffer.from('x')])],
    ['that are too deep', bencode({ t: 'aa', y: 'r', r: { id, x: [[[['a']]]] } })],
    ['that are very deep', Buffer.from('l'.repeat(2_000))],
  ])('%s', (_, message) => {
    expect(() => readDhtMessage(message)).toThrow(PROTOCOL)
  })

  test.each([
    'i01e',
    'i-0e',
    'ie',
    'i1.5e',
    'i9007199254740992e',
    'i+1e',
    'i1',
    '01:a',
    '-1:a',
    '2:a',
    '1e5:a',
    'de1',
    'd1:ae',
  ])('bencode %s', (text) => expect(() => readBencode(Buffer.from(text))).toThrow(PROTOCOL))

  test('any bytes are a message or an error of ours', () => {
    const valid = query('put', { id, k: bytes(32), salt: 'x', seq: 7, sig: bytes(64), token: 'a', v: bytes(30) })
    const changed = fc
      .array(fc.tuple(fc.nat(valid.length - 1), fc.constantFrom(...Buffer.from('dlie0159:-q'))), { maxLength: 4 })
      .map((changes) => {
        const copy = Buffer.from(valid)
        for (const [at, byte] of changes) copy[at] = byte
        return copy
      })
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 100 }), changed), (message) => {
        try {
          expect(['query', 'answer']).toContain(readDhtMessage(message).kind)
        } catch (error) {
          expect(isPeerlineError(error)).toBe(true)
        }
      }),
      { numRuns: 2_000 },
    )
  })

  test('what is written is read', () => {
    const leaf = fc.oneof(fc.maxSafeInteger(), fc.uint8Array({ maxLength: 20 }))
    const value = fc.oneof(leaf, fc.array(fc.oneof(leaf, fc.array(leaf))))
    const plain = (read: unknown): unknown =>
      read instanceof Uint8Array ? Uint8Array.from(read) : Array.isArray(read) ? read.map(plain) : read
    fc.assert(
      fc.property(value, (written) => {
        expect(plain(readBencode(bencode(written)))).toEqual(written)
      }),
    )
  })
})
