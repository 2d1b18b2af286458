import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fromHex, toHex } from '../bytes/bytes.ts'
import { generateKeyPair, type KeyPair, publicKeyFrom } from '../identity/curve.ts'
import { NoiseHandshake, type NoisePattern } from './noise.ts'
import { decrypt, encrypt, rekey } from './symmetric-state.ts'

interface Vector {
  source: string
  protocol_name: string
  init_prologue: string
  init_static: string
  init_ephemeral: string
  init_remote_static?: string
  resp_prologue: string
  resp_static: string
  resp_ephemeral: string
  handshake_hash?: string
  messages: { payload: string; ciphertext: string }[]
}

const { vectors } = JSON.parse(readFileSync(new URL('./noise.vectors.json', import.meta.url), 'utf8')) as {
  vectors: Vector[]
}
const HANDSHAKE = expect.objectContaining({ name: 'PeerlineError', code: 'ERR_PEERLINE_HANDSHAKE' })
const NONE = new Uint8Array(0)
const utf8 = (text: string) => new TextEncoder().encode(text)
const pairOf = (privateKey: Uint8Array): KeyPair => ({ privateKey, publicKey: publicKeyFrom(privateKey) })
const patternOf = (vector: Vector) => vector.protocol_name.slice(6, 8) as NoisePattern

describe('published vectors', () => {
  test('both patterns are there, from two sources', () => {
    const names = vectors.map((vector) => `${vector.source} ${patternOf(vector)}`)
    expect(names.sort()).toEqual(['cacophony IK', 'cacophony XX', 'snow IK', 'snow XX'])
  })

  for (const vector of vectors) {
    test(`${vector.protocol_name} of ${vector.source}`, () => {
      const pattern = patternOf(vector)
      const initiator = new NoiseHandshake({
        pattern,
        initiator: true,
        prologue: fromHex(vector.init_prologue),
        staticKey: pairOf(fromHex(vector.init_static)),
        ephemeral: pairOf(fromHex(vector.init_ephemeral)),
        ...(vector.init_remote_static === undefined ? {} : { remoteStatic: fromHex(vector.init_remote_static) }),
      })
      const responder = new NoiseHandshake({
        pattern,
        initiator: false,
        prologue: fromHex(vector.resp_prologue),
        staticKey: pairOf(fromHex(vector.resp_static)),
        ephemeral: pairOf(fromHex(vector.resp_ephemeral)),
      })
      const sealed = [0n, 0n]
      vector.messages.forEach(({ payload, ciphertext }, index) => {
        const side = index % 2
        const [from, to] = side === 0 ? [initiator, responder] : [responder, initiator]
        if (!from.complete) {
          expect(toHex(from.writeMessage(fromHex(payload)))).toBe(ciphertext)
          expect(toHex(to.readMessage(fromHex(ciphertext)))).toBe(payload)
          return
        }
        const n = sealed[side]!++
        expect(toHex(encrypt(from.split().send, n, NONE, fromHex(payload)))).toBe(ciphertext)
        expect(toHex(decrypt(to.split().receive, n, NONE, fromHex(ciphertext)))).toBe(payload)
      })
      expect(sealed[0]! + sealed[1]!).toBeGreaterThan(0n)
      expect(responder.hash).toEqual(initiator.hash)
      if (vector.handshake_hash !== undefined) expect(toHex(initiator.hash)).toBe(vector.handshake_hash)
      expect(responder.remoteStatic).toEqual(publicKeyFrom(fromHex(vector.init_static)))
      expect(initiator.remoteStatic).toEqual(publicKeyFrom(fromHex(vector.resp_static)))
    })
  }
})

/** Two fresh sides that agree on everything. */
function sides(
  pattern: NoisePattern,
  prologues: [string, string] = ['same', 'same'],
): [NoiseHandshake, NoiseHandshake] {
  const [a, b] = [generateKeyPair(), generateKeyPair()]
  const known = pattern === 'IK' ? { remoteStatic: b.publicKey } : {}
  return [
    new NoiseHandshake({ pattern, initiator: true, prologue: utf8(prologues[0]), staticKey: a, ...known }),
    new NoiseHandshake({ pattern, initiator: false, prologue: utf8(prologues[1]), staticKey: b }),
  ]
}

/** Runs a handshake to its end, with each message passed through `carry`. */
function run(pair: [NoiseHandshake, NoiseHandshake], carry = (message: Uint8Array, _index: number) => message): void {
  const count = pair[0].pattern === 'IK' ? 2 : 3
  for (let index = 0; index < count; index++) {
    const message = pair[index % 2]!.writeMessage(utf8(`payload ${index}`))
    expect(pair[1 - (index % 2)]!.readMessage(carry(message, index))).toEqual(utf8(`payload ${index}`))
  }
}

function expectDead(handshake: NoiseHandshake): void {
  expect(handshake.complete).toBe(false)
  expect(() => handshake.writeMessage(NONE)).toThrow(HANDSHAKE)
  expect(() => handshake.readMessage(new Uint8Array(200))).toThrow(HANDSHAKE)
  expect(() => handshake.split()).toThrow(HANDSHAKE)
  expect(() => handshake.exportSecret('x')).toThrow(HANDSHAKE)
  expect(() => handshake.clone()).toThrow(HANDSHAKE)
  expect(() => handshake.hash).toThrow(HANDSHAKE)
  expect(() => handshake.remoteStatic).toThrow(HANDSHAKE)
}

describe.each(['IK', 'XX'] as const)('%s', (pattern) => {
  test('both sides get the same keys, crossed, and the same exported secrets', () => {
    const [a, b] = sides(pattern)
    run([a, b])
    expect(a.split().send).toEqual(b.split().receive)
    expect(a.split().receive).toEqual(b.split().send)
    expect(a.split().send).not.toEqual(a.split().receive)
    expect(a.exportSecret('one')).toEqual(b.exportSecret('one'))
    expect(a.exportSecret('one')).not.toEqual(a.exportSecret('two'))
    expect(a.exportSecret('one', 16)).toHaveLength(16)
    expect(a.hash).toEqual(b.hash)
  })

  test('any flipped bit in any message fails closed', () => {
    // By name, so that each message gets its share of the runs.
    const messages = pattern === 'IK' ? 2 : 3
    fc.assert(
      fc.property(fc.nat(messages - 1), fc.nat(), fc.nat(7), (which, at, bit) => {
        const pair = sides(pattern)
        let flipped = false
        const carry = (message: Uint8Array, index: number) => {
          if (index !== which) return message
          flipped = true
          message[at % message.length]! ^= 1 << bit
          return message
        }
        if (pattern === 'XX' && which === 0) {
          // Message 1 of XX is not sealed: what was changed shows when the answer to it is read.
          expect(pair[1].readMessage(carry(pair[0].writeMessage(utf8('first')), 0))).toHaveLength(5)
          const second = pair[1].writeMessage(NONE)
          expect(() => pair[0].readMessage(second)).toThrow(HANDSHAKE)
          expectDead(pair[0])
          expect(pair[1].complete).toBe(false)
          return
        }
        expect(() => run(pair, carry)).toThrow(HANDSHAKE)
        expect(flipped).toBe(true)
        expectDead(pair[1 - (which % 2)]!)
      }),
      { numRuns: 300 },
    )
  })

  test('truncated, lengthened and random messages fail closed', () => {
    fc.assert(
      fc.property(fc.nat(1), fc.nat(400), fc.uint8Array({ minLength: 1, maxLength: 200 }), (which, cut, noise) => {
        for (const change of [
          (message: Uint8Array) => message.subarray(0, cut % message.length),
          (message: Uint8Array) => Uint8Array.of(...message, ...noise),
          () => noise,
        ]) {
          const pair = sides(pattern)
          const first = pair[0].writeMessage(NONE)
          if (which === 0) {
            if (pattern === 'IK') {
              expect(() => pair[1].readMessage(change(first))).toThrow(HANDSHAKE)
              expectDead(pair[1])
            }
            continue
          }
          pair[1].readMessage(first)
          const second = pair[1].writeMessage(NONE)
          expect(() => pair[0].readMessage(change(second))).toThrow(HANDSHAKE)
          expectDead(pair[0])
        }
      }),
      { numRuns: 60 },
    )
  })

  test('another prologue fails', () => {
    expect(() => run(sides(pattern, ['one', 'two']))).toThrow(HANDSHAKE)
  })

  test('a message out of turn, or after the last, kills the handshake', () => {
    const [a] = sides(pattern)
    expect(() => a.readMessage(new Uint8Array(96))).toThrow(HANDSHAKE)
    expectDead(a)
    const [, b] = sides(pattern)
    expect(() => b.writeMessage(NONE)).toThrow(HANDSHAKE)
    expectDead(b)
    const pair = sides(pattern)
    run(pair)
    for (const side of pair) {
      expect(side.complete).toBe(true)
      expect(() => side.writeMessage(NONE)).toThrow(HANDSHAKE)
      expectDead(side)
    }
  })

  test('keys are handed out only when complete', () => {
    const [a] = sides(pattern)
    a.writeMessage(NONE)
    expect(() => a.split()).toThrow(HANDSHAKE)
    expect(() => a.exportSecret('x')).toThrow(HANDSHAKE)
    expect(() => a.hash).toThrow(HANDSHAKE)
  })

  test('a payload over the size of a Noise message is refused', () => {
    const [a] = sides(pattern)
    expect(() => a.writeMessage(new Uint8Array(65_536))).toThrow(HANDSHAKE)
    expectDead(a)
  })
})

test('the small-order point as ephemeral key fails', () => {
  const [, b] = sides('IK')
  expect(() => b.readMessage(new Uint8Array(96))).toThrow(HANDSHAKE)
  const [a, c] = sides('XX')
  c.readMessage(new Uint8Array(32))
  expect(() => c.writeMessage(NONE)).toThrow(HANDSHAKE)
  expectDead(c)
  a.writeMessage(NONE)
  expect(() => a.readMessage(new Uint8Array(96))).toThrow(HANDSHAKE)
})

test('a failed copy leaves the original waiting', () => {
  const [a, b] = sides('IK')
  b.readMessage(a.writeMessage(NONE))
  const copy = a.clone()
  expect(() => copy.readMessage(new Uint8Array(60).fill(9))).toThrow(HANDSHAKE)
  const answer = b.writeMessage(utf8('hi'))
  expect(a.clone().readMessage(answer)).toEqual(utf8('hi'))
  expect(a.readMessage(answer)).toEqual(utf8('hi'))
})

test('only a side that waits for its last message is copied', () => {
  const [a, b] = sides('IK')
  expect(() => a.clone()).toThrow(HANDSHAKE)
  b.readMessage(a.writeMessage(NONE))
  expect(() => b.clone()).toThrow(HANDSHAKE)
})

test('the initiator of IK, and only it, is given the remote static key', () => {
  const staticKey = generateKeyPair()
  const make = (pattern: NoisePattern, initiator: boolean, remoteStatic?: Uint8Array) => () =>
    new NoiseHandshake({ pattern, initiator, prologue: NONE, staticKey, ...(remoteStatic ? { remoteStatic } : {}) })
  expect(make('IK', true)).toThrow(HANDSHAKE)
  expect(make('IK', true, new Uint8Array(31))).toThrow(HANDSHAKE)
  expect(make('IK', false, staticKey.publicKey)).toThrow(HANDSHAKE)
  expect(make('XX', true, staticKey.publicKey)).toThrow(HANDSHAKE)
})

test('rekey gives another key of 32 bytes, the same each time, as section 4.2 says', () => {
  const key = new Uint8Array(32).fill(7)
  const next = rekey(key)
  expect(next).toHaveLength(32)
  expect(next).toEqual(rekey(key))
  expect(next).not.toEqual(key)
  expect(next).toEqual(encrypt(key, 0xffff_ffff_ffff_ffffn, NONE, new Uint8Array(32)).subarray(0, 32))
})
