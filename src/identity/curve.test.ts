import { x25519 as noble } from '@noble/curves/ed25519.js'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { generateKeyPair, publicKeyFrom, x25519 } from './curve.ts'

const key = fc.uint8Array({ minLength: 32, maxLength: 32 })
const hex = (text: string) => new Uint8Array(Buffer.from(text, 'hex'))
const HANDSHAKE = expect.objectContaining({ name: 'PeerlineError', code: 'ERR_PEERLINE_HANDSHAKE' })

test('RFC 7748 section 6.1: the keys and the secret of Alice and Bob', () => {
  const alice = hex('77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a')
  const bob = hex('5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb')
  expect(publicKeyFrom(alice)).toEqual(hex('8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a'))
  expect(publicKeyFrom(bob)).toEqual(hex('de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f'))
  const secret = hex('4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742')
  expect(x25519(alice, publicKeyFrom(bob))).toEqual(secret)
  expect(x25519(bob, publicKeyFrom(alice))).toEqual(secret)
})

test('agrees with @noble/curves on random keys and random points', () => {
  fc.assert(
    fc.property(key, key, (privateKey, point) => {
      let expected: Uint8Array | undefined
      try {
        expected = noble.getSharedSecret(privateKey, point)
      } catch {
        expected = undefined
      }
      if (expected === undefined) expect(() => x25519(privateKey, point)).toThrow(HANDSHAKE)
      else expect(x25519(privateKey, point)).toEqual(expected)
      expect(publicKeyFrom(privateKey)).toEqual(noble.getPublicKey(privateKey))
    }),
    { numRuns: 60 },
  )
})

test('a generated pair belongs together, and both sides get one secret', () => {
  const a = generateKeyPair()
  const b = generateKeyPair()
  expect(a.publicKey).toEqual(noble.getPublicKey(a.privateKey))
  expect(a.privateKey).not.toEqual(b.privateKey)
  expect(x25519(a.privateKey, b.publicKey)).toEqual(x25519(b.privateKey, a.publicKey))
  // the remembered form, and a fresh import of the same bytes
  expect(x25519(a.privateKey, b.publicKey)).toEqual(x25519(a.privateKey.slice(), b.publicKey))
})

test('points of small order are refused', () => {
  const { privateKey } = generateKeyPair()
  const weak = [
    '0000000000000000000000000000000000000000000000000000000000000000',
    '0100000000000000000000000000000000000000000000000000000000000000',
    'e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800',
    '5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157',
    'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
    'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
    'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  ]
  for (const point of weak) expect(() => x25519(privateKey, hex(point))).toThrow(HANDSHAKE)
})

test('keys of another length are refused', () => {
  const pair = generateKeyPair()
  for (const length of [0, 31, 33, 64]) {
    expect(() => x25519(pair.privateKey, new Uint8Array(length).fill(9))).toThrow(HANDSHAKE)
    expect(() => x25519(new Uint8Array(length).fill(9), pair.publicKey)).toThrow(HANDSHAKE)
  }
})
