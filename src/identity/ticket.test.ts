import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { encodeCbor } from '../bytes/cbor.ts'
import { readPasted, writePasted } from '../bytes/pasted-text.ts'
import { isPeerlineError } from '../errors.ts'
import { Identity } from './identity.ts'
import { signRecord } from './record.ts'
import { MAX_TICKET_BYTES, readTicket, type TicketContent, writeTicket } from './ticket.ts'

const identity = Identity.fromSeed(new Uint8Array(32).fill(9))
const peer = identity.peerId
const NOW = 1_700_000_000_000
const NONE = { addresses: [], relays: [], rendezvous: [], topics: [] }
const HINTS = {
  addresses: ['192.0.2.1:4400', '[2001:db8::1]:4400'],
  relays: ['ws://relay.example#x'],
  rendezvous: ['wss://rendezvous.example'],
  topics: ['0.0.5/in=1'],
}
const CAPABILITY = Uint8Array.from({ length: 16 }, (_, at) => at)
const record = signRecord(identity, { sequence: 3, expiresAt: NOW + 60_000, ...HINTS })

const fails = (code: string, message = '') =>
  expect.objectContaining({ code: `ERR_PEERLINE_${code}`, message: expect.stringContaining(message) })

/** A ticket with any content. */
const seal = (content: unknown, version = 1) => writePasted('ticket', Uint8Array.of(version, ...encodeCbor(content)))

const p = identity.publicKey

describe('a ticket', () => {
  test('leads to a peer by its id and hints, or by its record', () => {
    expect(readTicket(writeTicket({ peer }), { now: NOW })).toEqual({ peer, ...NONE })
    expect(readTicket(writeTicket({ peer, ...HINTS }), { now: NOW })).toEqual({ peer, ...HINTS })
    expect(readTicket(writeTicket({ record }), { now: NOW })).toEqual({ peer, record, ...HINTS })
  })

  test('brings what an invitation holds, and says for what and for how long', () => {
    const right = { capability: CAPABILITY, objects: ['/chat/*'], expiresAt: NOW + 1 }
    expect(readTicket(writeTicket({ peer, ...right }), { now: NOW })).toEqual({ peer, ...NONE, ...right })
    expect(readTicket(writeTicket({ record, ...right }), { now: NOW })).toMatchObject(right)
  })

  test('is one line, and small enough for a QR code in a terminal of 80 columns', () => {
    const small = writeTicket({ peer, addresses: HINTS.addresses, capability: CAPABILITY, expiresAt: NOW })
    expect(small).toMatch(/^peerline:[a-z0-9]+$/)
    expect(small.length).toBeLessThan(220)
    const [addresses, rendezvous] = [['192.168.1.20:40123', '203.0.113.7:40123'], [`ws://203.0.113.1:4400#${peer}`]]
    const usual = signRecord(identity, { sequence: NOW, expiresAt: NOW, addresses, rendezvous })
    // 619 letters fit version 13, of 69 modules (ISO/IEC 18004 table 7), with a border of 4 on each side
    expect(writeTicket({ record: usual, capability: CAPABILITY, expiresAt: NOW }).length).toBeLessThan(619)
  })

  test('ends at its time or at that of its record, not before', () => {
    const timed = writeTicket({ peer, expiresAt: NOW })
    expect(readTicket(timed, { now: NOW - 1 }).peer).toBe(peer)
    for (const ticket of [timed, writeTicket({ record, expiresAt: NOW + 1 }), seal({ p, e: 0 })]) {
      expect(() => readTicket(ticket, { now: NOW + 60_000 })).toThrow(fails('EXPIRED', 'the ticket has expired'))
    }
    expect(() => readTicket(writeTicket({ record }), { now: NOW + 60_000 })).toThrow(fails('EXPIRED'))
    expect(() => readTicket(timed, { now: NOW })).toThrow(fails('EXPIRED'))
    expect(() => readTicket(timed)).toThrow(fails('EXPIRED')) // the real clock is past it
  })

  test('is not written with what would not be read', () => {
    const write = (more: object) => () => writeTicket({ peer, ...more } as TicketContent)
    expect(write({ capability: new Uint8Array(15) })).toThrow(fails('INVALID', 'capability'))
    expect(write({ capability: new Uint8Array(33) })).toThrow(fails('INVALID', 'c of the ticket'))
    expect(write({ expiresAt: 0.5 })).toThrow(fails('INVALID', 'e of the ticket'))
    expect(write({ addresses: Array.from({ length: 9 }, () => 'a') })).toThrow(fails('INVALID', 'a of the ticket'))
    expect(write({ rendezvous: ['x'.repeat(257)] })).toThrow(fails('INVALID', 'v of the ticket'))
    expect(write({ objects: ['x'.repeat(129)] })).toThrow(fails('INVALID', 'o of the ticket'))
    expect(write({ peer: 'nobody' })).toThrow(fails('INVALID'))
    expect(write({ record: record.slice(0, -1) })).toThrow(fails('RECORD'))
    const full = (count: number) => Array.from({ length: count }, () => 'x'.repeat(256))
    const much = { addresses: full(8), relays: full(4), rendezvous: full(4), topics: full(8) }
    expect(write(much)).toThrow(fails('TOO_LARGE'))
  })

  test.each<[string, string, string]>([
    ['no bytes at all', writePasted('ticket', new Uint8Array()), 'VERSION'],
    ['a later version', seal({ p }, 2), 'VERSION'],
    ['no CBOR', writePasted('ticket', Uint8Array.of(1, 0xff)), 'INVALID'],
    ['something else than a map', seal([p]), 'INVALID'],
    ['nobody', seal({}), 'INVALID'],
    ['a short key', seal({ p: p.slice(1) }), 'INVALID'],
    ['a key of small order', seal({ p: Uint8Array.of(1, ...new Uint8Array(31)) }), 'INVALID'],
    ['two names', seal({ p, r: record }), 'INVALID'],
    ['a broken record', seal({ r: record.slice(1) }), 'RECORD'],
    ['a short capability', seal({ p, c: new Uint8Array(15) }), 'INVALID'],
    ['addresses that are no texts', seal({ p, a: [1] }), 'INVALID'],
    ['too many topics', seal({ p, t: Array.from({ length: 9 }, () => '') }), 'INVALID'],
    ['a time beyond all', seal({ p, e: 2 ** 53 - 1 }), 'INVALID'],
    ['too much', writePasted('ticket', new Uint8Array(MAX_TICKET_BYTES + 1)), 'TOO_LARGE'],
    ['an offer', writePasted('offer', new Uint8Array(3)), 'INVALID'],
  ])('with %s is refused', (_name, text, code) => {
    expect(() => readTicket(text, { now: NOW })).toThrow(fails(code))
  })

  test('passes over what a later version may add', () => {
    expect(readTicket(seal({ p, zz: [1, 2] }), { now: NOW })).toEqual({ peer, ...NONE })
  })

  test('gives memory of its own', () => {
    const one = readTicket(writeTicket({ peer, capability: CAPABILITY }), { now: NOW })
    expect(one.capability!.buffer.byteLength).toBe(16)
    expect(readTicket(writeTicket({ record }), { now: NOW }).record!.buffer.byteLength).toBe(record.length)
  })

  test('of anything that is said is read as it was written', () => {
    const texts = (max: number) => fc.array(fc.string({ maxLength: 40 }), { maxLength: max })
    const contents = fc.record(
      {
        addresses: texts(8),
        relays: texts(4),
        rendezvous: texts(4),
        topics: texts(8),
        capability: fc.uint8Array({ minLength: 16, maxLength: 32 }),
        objects: texts(16),
        expiresAt: fc.integer({ min: NOW + 1, max: 8.64e15 }),
      },
      { requiredKeys: [] },
    )
    fc.assert(
      fc.property(contents, (content) => {
        expect(readTicket(writeTicket({ peer, ...content }), { now: NOW })).toEqual({ ...NONE, peer, ...content })
      }),
    )
  })

  test('with a letter that is another one is mistyped, and never a ticket of somebody else', () => {
    const text = writeTicket({ record, capability: CAPABILITY, expiresAt: NOW + 9 })
    const letters = 'ybndrfg8ejkmcpqxot1uwisza345h769'
    for (let at = 'peerline:'.length; at < text.length; at++) {
      const letter = letters[(letters.indexOf(text[at]!) + 1 + (at % 31)) % 32]!
      const other = text.slice(0, at) + letter + text.slice(at + 1)
      expect(() => readTicket(other, { now: NOW })).toThrow(fails('INVALID', 'not whole'))
    }
  })

  test('of hostile bytes fails with typed errors only', () => {
    const whole = readPasted('ticket', writeTicket({ record, capability: CAPABILITY }), { maxBytes: MAX_TICKET_BYTES })
    const changed = fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })).map(([at, flip]) => {
      const bytes = whole.slice()
      bytes[at % bytes.length]! ^= flip
      return bytes
    })
    const content = fc.jsonValue({ maxDepth: 3 }).map((json) => {
      try {
        return Uint8Array.of(1, ...encodeCbor(json))
      } catch {
        return Uint8Array.of(1)
      }
    })
    fc.assert(
      fc.property(fc.oneof(changed, content, fc.uint8Array({ maxLength: 200 })), (bytes) => {
        try {
          readTicket(writePasted('ticket', bytes), { now: NOW })
        } catch (error) {
          if (!isPeerlineError(error)) throw error
          const codes = ['INVALID', 'VERSION', 'RECORD', 'EXPIRED'].map((code) => `ERR_PEERLINE_${code}`)
          expect(codes).toContain(error.code)
        }
      }),
      { numRuns: 500 },
    )
  })
})
