import { ED25519_TORSION_SUBGROUP } from '@noble/curves/ed25519.js'
import { base58 } from '@scure/base'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { fromHex } from '../bytes/bytes.ts'
import { encodeZbase32 } from '../bytes/zbase32.ts'
import { PeerlineError } from '../errors.ts'
import { BoundedMap } from './bounded-map.ts'
import { fromDidKey, toDidKey } from './did-key.ts'
import { Identity } from './identity.ts'
import { type PeerId, parsePeerId, peerIdFromPublicKey, publicKeyOf } from './peer-id.ts'

// RFC 8032 section 7.1, test 1
const PUBLIC_KEY = fromHex('d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a')
const ID = peerIdFromPublicKey(PUBLIC_KEY)

const invalid = (message = '') =>
  expect.objectContaining({ code: 'ERR_PEERLINE_INVALID', message: expect.stringContaining(message) })

const seed = fc.uint8Array({ minLength: 32, maxLength: 32 })

describe('peer id', () => {
  it('is 52 characters of z-base-32 and leads back to the key', () => {
    expect(ID).toMatch(/^[ybndrfg8ejkmcpqxot1uwisza345h769]{52}$/)
    expect(publicKeyOf(ID)).toEqual(PUBLIC_KEY)
    expect(parsePeerId(ID)).toBe(ID)
  })

  it('hands out keys that may be changed without harm', () => {
    publicKeyOf(ID).fill(0)
    expect(publicKeyOf(ID)).toEqual(PUBLIC_KEY)
  })

  it.each<[string, string, string]>([
    ['an empty text', '', '52 characters, this has 0'],
    ['a cut one', ID.slice(1), '52 characters, this has 51'],
    ['one with a space', `${ID} `, '52 characters, this has 53'],
    ['upper case', ID.toUpperCase(), 'lower case'],
    ['a foreign letter', `v${ID.slice(1)}`, '"v" is not a letter'],
    ['padding bits', ID.slice(0, -1) + (ID.endsWith('b') ? 'n' : 'b'), 'stray bits'],
    ['a huge text', 'y'.repeat(1_000_000), '52 characters'],
  ])('refuses %s and says why', (_name, text, why) => {
    expect(() => parsePeerId(text)).toThrow(invalid(why))
  })

  it.each([undefined, null, 7, {}])('refuses %s, which is no text', (value) => {
    expect(() => parsePeerId(value as unknown as string)).toThrow(invalid('text'))
  })

  it.each(ED25519_TORSION_SUBGROUP.map((hex) => [hex]))('refuses the small-order point %s', (hex) => {
    expect(() => peerIdFromPublicKey(fromHex(hex))).toThrow(invalid('not a valid'))
    expect(() => parsePeerId(encodeZbase32(fromHex(hex)))).toThrow(invalid('not a valid'))
  })

  it.each([
    ['y = p, another zero', `ed${'ff'.repeat(30)}7f`],
    ['y = p + 1, another one', `ee${'ff'.repeat(30)}7f`],
    ['y = p + 3, above the field', `f0${'ff'.repeat(30)}7f`],
    ['x = 0 with its sign set', `01${'00'.repeat(30)}80`],
    ['no point of the curve', `02${'00'.repeat(31)}`],
  ])('refuses a key that is not canonical: %s', (_name, hex) => {
    expect(() => peerIdFromPublicKey(fromHex(hex))).toThrow(invalid('not a valid'))
  })

  it('checks a string that a cast calls a peer id', () => {
    expect(() => publicKeyOf('y'.repeat(52) as PeerId)).toThrow(invalid('not a valid'))
    expect(() => publicKeyOf('' as PeerId)).toThrow(invalid())
  })

  it.each([0, 31, 33])('refuses a key of %i bytes', (length) => {
    expect(() => peerIdFromPublicKey(new Uint8Array(length).fill(1))).toThrow(invalid(`this has ${length}`))
  })

  it('parses any text with typed errors only', () => {
    const mutated = fc.tuple(fc.constantFrom(ID, toDidKey(ID)), fc.nat(), fc.string({ maxLength: 3 }), fc.nat(3))
    const near = mutated.map(([text, at, put, drop]) => {
      const place = at % text.length
      return text.slice(0, place) + put + text.slice(place + drop)
    })
    fc.assert(
      fc.property(fc.oneof(fc.string(), near), (text) => {
        try {
          expect([parsePeerId(text), toDidKey(parsePeerId(text))]).toContain(text)
        } catch (error) {
          if (!(error instanceof PeerlineError)) throw error
          expect(error.code).toBe('ERR_PEERLINE_INVALID')
        }
      }),
      { numRuns: 500 },
    )
  })
})

describe('did:key', () => {
  // Ed25519 vectors of the did:key method (W3C CCG), seeds 0 to 4 in the last byte
  it.each([
    [0, 'did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp'],
    [1, 'did:key:z6MkjchhfUsD6mmvni8mCdXHw216Xrm9bQe2mBH1P5RDjVJG'],
    [2, 'did:key:z6MknGc3ocHs3zdPiJbnaaqDi58NGb4pk1Sp9WxWufuXSdxf'],
    [3, 'did:key:z6MkvqoYXQfDDJRv8L4wKzxYeuKyVZBfi9Qo6Ro8MiLH3kDQ'],
    [4, 'did:key:z6MkwW6aqMnjgrhJXFUko3NnZPGzVpkNzhYK7yEhnsibmLwL'],
  ])('agrees with the vector of seed %i', (last, did) => {
    const { peerId } = Identity.fromSeed(new Uint8Array(32).fill(last, 31))
    expect(toDidKey(peerId)).toBe(did)
    expect(fromDidKey(did)).toBe(peerId)
    expect(parsePeerId(did)).toBe(peerId)
  })

  it('round-trips any key', () => {
    fc.assert(
      fc.property(seed, (bytes) => {
        const { peerId } = Identity.fromSeed(bytes)
        expect(fromDidKey(toDidKey(peerId))).toBe(peerId)
      }),
      { numRuns: 30 },
    )
  })

  const did = toDidKey(ID)
  it.each([
    ['another method', did.replace('did:key', 'did:web')],
    ['another multibase', did.replace(':z', ':m')],
    ['an X25519 key', 'did:key:z6LShs9GGnqk85isEBzzshkuVWrVKsRp24GnDuHk8QWkARMW'],
    ['a fragment', `${did}#x`],
    ['a cut one', did.slice(0, -1)],
    ['a letter base58 leaves out', `${did.slice(0, -1)}0`],
    ['a small-order key', `did:key:z${base58.encode(Uint8Array.of(0xed, 1, 1, ...new Uint8Array(31)))}`],
    ['a huge text', `${did}${'1'.repeat(1_000_000)}`],
  ])('refuses %s', (_name, text) => {
    expect(() => fromDidKey(text)).toThrow(invalid())
    expect(() => parsePeerId(text)).toThrow(invalid())
  })
})

describe('BoundedMap', () => {
  it('keeps the latest entries, and nothing of what failed', () => {
    const map = new BoundedMap<number, string>(2)
    for (const key of [1, 2, 3]) expect(map.getOrMake(key, () => `made ${key}`)).toBe(`made ${key}`)
    expect(map.size).toBe(2)
    expect(map.getOrMake(3, () => 'again')).toBe('made 3')
    expect(map.getOrMake(1, () => 'again')).toBe('again')
    expect(() =>
      map.getOrMake(9, () => {
        throw new RangeError('no')
      }),
    ).toThrow(RangeError)
    expect(map.getOrMake(9, () => 'now')).toBe('now')
  })
})
