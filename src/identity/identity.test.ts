import { inspect } from 'node:util'
import { x25519 } from '@noble/curves/ed25519.js'
import { base58 } from '@scure/base'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { fromHex, toHex } from '../bytes/bytes.ts'
import { encodeZbase32 } from '../bytes/zbase32.ts'
import { Identity, toX25519, verifySignature } from './identity.ts'
import type { PeerId } from './peer-id.ts'

const seed = fc.uint8Array({ minLength: 32, maxLength: 32 })

describe('Identity', () => {
  // RFC 8032 section 7.1, tests 1 to 3
  it.each([
    [
      '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60',
      'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a',
      '',
      'e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b',
    ],
    [
      '4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb',
      '3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c',
      '72',
      '92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00',
    ],
    [
      'c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7',
      'fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025',
      'af82',
      '6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a',
    ],
  ])('signs as RFC 8032 does with %s', (secret, publicKey, message, signature) => {
    const identity = Identity.fromSeed(fromHex(secret))
    expect(toHex(identity.publicKey)).toBe(publicKey)
    expect(toHex(identity.sign(fromHex(message)))).toBe(signature)
    expect(verifySignature(identity.peerId, fromHex(message), fromHex(signature))).toBe(true)
  })

  // keyAgreementKeyPair of the did:key vectors (W3C CCG)
  it.each([
    [0, '7By6kV2t2d188odEM4ExAve1UithKT6dLva4dwsDT3ak', '6QN8DfuN9hjgHgPvLXqgzqYE3jRRGRrmJQZkd5tL8paR'],
    [1, 'FcoNC5NqP9CePWbhfz95iHaEsCjGkZUioK9Ck7Qiw286', 'HBTcN2MrXNRj9xF9oi8QqYyuEPv3JLLjQKuEgW9oxVKP'],
    [2, 'A5fe37PAxhX5WNKngBpGHhC1KpNE7nwbK9oX2tqwxYxU', 'ACa4PPJ1LnPNq1iwS33V3Akh7WtnC71WkKFZ9ccM6sX2'],
  ])('has the X25519 form of the did:key vector of seed %i', (last, publicKey, privateKey) => {
    const { staticKey } = Identity.fromSeed(new Uint8Array(32).fill(last, 31))
    expect(base58.encode(staticKey.publicKey)).toBe(publicKey)
    expect(base58.encode(staticKey.privateKey)).toBe(privateKey)
  })

  it('has an X25519 form whose two halves belong together, and which follows from the peer id', () => {
    fc.assert(
      fc.property(seed, (bytes) => {
        const { staticKey, publicKey } = Identity.fromSeed(bytes)
        expect(x25519.getPublicKey(staticKey.privateKey)).toEqual(staticKey.publicKey)
        expect(toX25519(publicKey)).toEqual(staticKey.publicKey)
      }),
      { numRuns: 20 },
    )
  })

  it('is new every time it is generated', () => {
    expect(Identity.generate().peerId).not.toBe(Identity.generate().peerId)
  })

  it('keeps its own copy of the seed', () => {
    const bytes = new Uint8Array(32).fill(5)
    const identity = Identity.fromSeed(bytes)
    bytes.fill(0)
    identity.seed.fill(0)
    expect(identity.seed).toEqual(new Uint8Array(32).fill(5))
  })

  it('never shows a private key when printed or serialised', () => {
    const identity = Identity.generate()
    expect(Object.keys(identity).sort()).toEqual(['peerId', 'publicKey'])
    const shown = inspect(identity, { depth: 9, showHidden: true }) + JSON.stringify(identity)
    expect(shown).toContain(identity.peerId)
    for (const secret of [identity.seed, identity.staticKey.privateKey]) {
      expect(shown).not.toContain(toHex(secret).slice(0, 16))
      expect(shown).not.toContain([...secret.subarray(0, 8)].join(', '))
    }
  })

  it.each([0, 31, 33, 64])('refuses a seed of %i bytes', (length) => {
    const refused = expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' })
    expect(() => Identity.fromSeed(new Uint8Array(length))).toThrow(refused)
  })

  it('refuses to map a key that is no safe point', () => {
    const refused = expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' })
    expect(() => toX25519(Uint8Array.of(1, ...new Uint8Array(31)))).toThrow(refused)
    expect(() => toX25519(new Uint8Array(5))).toThrow(refused)
  })
})

describe('verifySignature', () => {
  const identity = Identity.generate()
  const message = new TextEncoder().encode('hello')
  const signature = identity.sign(message)

  it('is false for another message, another peer and any changed bit', () => {
    expect(verifySignature(identity.peerId, message, signature)).toBe(true)
    expect(verifySignature(identity.peerId, message.subarray(1), signature)).toBe(false)
    expect(verifySignature(Identity.generate().peerId, message, signature)).toBe(false)
    fc.assert(
      fc.property(fc.nat(511), (bit) => {
        const changed = signature.slice()
        changed[bit >> 3]! ^= 1 << (bit & 7)
        expect(verifySignature(identity.peerId, message, changed)).toBe(false)
      }),
    )
  })

  it('is false for any bytes, of any length', () => {
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array(), fc.uint8Array({ minLength: 64, maxLength: 64 })), (bytes) => {
        expect(verifySignature(identity.peerId, message, bytes)).toBe(false)
      }),
    )
  })

  it('does not take a signature with S raised by the group order (RFC 8032 section 5.1.7)', () => {
    const order = 2n ** 252n + 27742317777372353535851937790883648493n
    let s = order
    for (let i = 31; i >= 0; i--) s += BigInt(signature[32 + i]!) << BigInt(8 * i)
    const raised = signature.slice()
    for (let i = 0; i < 32; i++) raised[32 + i] = Number((s >> BigInt(8 * i)) & 0xffn)
    expect(verifySignature(identity.peerId, message, raised)).toBe(false)
  })

  it('does not verify for a small-order key that a cast calls a peer id', () => {
    const id = encodeZbase32(Uint8Array.of(1, ...new Uint8Array(31))) as PeerId
    const forged = Uint8Array.of(1, ...new Uint8Array(63)) // R = identity, S = 0: valid under a small-order key
    expect(() => verifySignature(id, message, forged)).toThrow(
      expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }),
    )
  })
})
