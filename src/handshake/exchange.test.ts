import fc from 'fast-check'
import { expect, test } from 'vitest'
import { concatBytes } from '../bytes/bytes.ts'
import { MessageKind } from '../bytes/preamble.ts'
import { codeOf } from '../failure.compliance.ts'
import { Identity } from '../identity/identity.ts'
import { prologueOf, writeEnvelope } from './envelope.ts'
import { acceptExchange, MAX_EXCHANGE_BODY_BYTES, MAX_EXCHANGE_BYTES, startExchange } from './exchange.ts'
import { NoiseHandshake } from './noise.ts'

const alice = Identity.generate()
const bob = Identity.generate()
const carol = Identity.generate()
const utf8 = (text: string) => new TextEncoder().encode(text)
const code = (name: string) => expect.objectContaining({ name: 'PeerlineError', code: `ERR_PEERLINE_${name}` })
const TYPED = /^ERR_PEERLINE_(HANDSHAKE|VERSION|PROTOCOL|TOO_LARGE)$/

/** A whole exchange, each message passed through `carry`. */
function run(carry: (message: Uint8Array, index: number) => Uint8Array, body = utf8('hello')) {
  const start = startExchange(alice)
  const accepted = acceptExchange(bob, carry(start.message, 0))
  const { remote, finish } = start.read(carry(accepted.message, 1))
  const finished = finish(body)
  return { remote, finished, end: accepted.read(carry(finished.message, 2)), sent: [start, accepted, finished] }
}

const intact = (message: Uint8Array) => message

test('both learn who the other is, and own the same keys', () => {
  const { remote, finished, end, sent } = run(intact)
  expect(remote).toBe(bob.peerId)
  expect(end.from).toBe(alice.peerId)
  expect(end.body).toEqual(utf8('hello'))
  expect(end.keys).toEqual({
    sessionId: finished.keys.sessionId,
    send: finished.keys.receive,
    receive: finished.keys.send,
    attachSend: finished.keys.attachReceive,
    attachReceive: finished.keys.attachSend,
    initiator: false,
  })
  expect(finished.keys.initiator).toBe(true)
  expect(sent.map(({ message }) => [...message.subarray(0, 3)])).toEqual([
    [1, 3, 1],
    [1, 4, 1],
    [1, 5, 1],
  ])
})

test('neither peer id is seen on the way', () => {
  const seen: Uint8Array[] = []
  run((message) => {
    seen.push(message)
    return message
  })
  const text = Buffer.from(concatBytes(seen)).toString('latin1')
  for (const key of [alice.publicKey, bob.publicKey, alice.staticKey.publicKey, bob.staticKey.publicKey]) {
    expect(text).not.toContain(Buffer.from(key).toString('latin1'))
  }
})

test('a body up to the limit is carried, a larger one refused', () => {
  const { finished, end } = run(intact, new Uint8Array(MAX_EXCHANGE_BODY_BYTES))
  expect(finished.message).toHaveLength(MAX_EXCHANGE_BYTES)
  expect(end.body).toHaveLength(MAX_EXCHANGE_BODY_BYTES)
  expect(() => run(intact, new Uint8Array(MAX_EXCHANGE_BODY_BYTES + 1))).toThrow(code('TOO_LARGE'))
})

test('any flipped bit in any message fails closed', () => {
  fc.assert(
    fc.property(fc.nat(2), fc.nat(), fc.nat(7), (which, at, bit) => {
      const carry = (message: Uint8Array, index: number) =>
        index === which ? message.with(at % message.length, message[at % message.length]! ^ (1 << bit)) : message
      expect(codeOf(() => run(carry))).toMatch(TYPED)
    }),
    { numRuns: 300 },
  )
})

test('random, cut and lengthened messages are typed errors', () => {
  fc.assert(
    fc.property(fc.nat(2), fc.nat(), fc.uint8Array({ minLength: 1, maxLength: 200 }), (which, cut, junk) => {
      for (const change of [
        (message: Uint8Array) => message.subarray(0, cut % message.length),
        (message: Uint8Array) => concatBytes([message, junk]),
        (message: Uint8Array) => concatBytes([message.subarray(0, 3), junk]),
        () => junk,
      ]) {
        const carry = (message: Uint8Array, index: number) => (index === which ? change(message) : message)
        expect(codeOf(() => run(carry))).toMatch(TYPED)
      }
    }),
    { numRuns: 80 },
  )
})

test('after a failure nothing goes on', () => {
  const start = startExchange(alice)
  const accepted = acceptExchange(bob, start.message)
  const forged = accepted.message.with(60, accepted.message[60]! ^ 1)
  expect(() => start.read(forged)).toThrow(code('HANDSHAKE'))
  expect(() => start.read(accepted.message)).toThrow(code('HANDSHAKE'))
})

test('message 3 is written once, and read once', () => {
  const start = startExchange(alice)
  const accepted = acceptExchange(bob, start.message)
  const { finish } = start.read(accepted.message)
  const { message } = finish(utf8(''))
  expect(() => finish(utf8(''))).toThrow(code('HANDSHAKE'))
  accepted.read(message)
  expect(() => accepted.read(message)).toThrow(code('HANDSHAKE'))
})

test('a recorded exchange can not be played again', () => {
  const recorded: Uint8Array[] = []
  run((message) => {
    recorded.push(message)
    return message
  })
  const accepted = acceptExchange(bob, recorded[0]!)
  expect(() => accepted.read(recorded[2]!)).toThrow(code('HANDSHAKE'))
})

test('nobody can claim the peer id of another, on either side', () => {
  const side = (identity: Identity, initiator: boolean) =>
    new NoiseHandshake({
      pattern: 'XX',
      initiator,
      prologue: prologueOf(MessageKind.XX1),
      staticKey: identity.staticKey,
    })
  // carol answers as bob
  const start = startExchange(alice)
  const responder = side(carol, false)
  responder.readMessage(start.message.subarray(3))
  expect(() => start.read(writeEnvelope(MessageKind.XX2, responder.writeMessage(bob.publicKey)))).toThrow(
    code('HANDSHAKE'),
  )
  // carol dials as alice, alice dials somebody else, and a head that is too short
  const heads: [readonly Uint8Array[], string][] = [
    [[alice.publicKey, bob.publicKey], 'ERR_PEERLINE_HANDSHAKE'],
    [[carol.publicKey, alice.publicKey], 'ERR_PEERLINE_WRONG_PEER'],
    [[carol.publicKey], 'ERR_PEERLINE_PROTOCOL'],
    [[new Uint8Array(32), bob.publicKey], 'ERR_PEERLINE_HANDSHAKE'],
  ]
  for (const [head, expected] of heads) {
    const initiator = side(carol, true)
    const accepted = acceptExchange(bob, writeEnvelope(MessageKind.XX1, initiator.writeMessage(new Uint8Array(0))))
    initiator.readMessage(accepted.message.subarray(3))
    const message = writeEnvelope(MessageKind.XX3, initiator.writeMessage(concatBytes(head)))
    expect(codeOf(() => accepted.read(message))).toBe(expected)
  }
})

test('an exchange and an offer never meet: the kind is bound', () => {
  const { message } = startExchange(alice)
  expect(() => acceptExchange(bob, message.with(1, MessageKind.OFFER))).toThrow(code('PROTOCOL'))
  expect(() => acceptExchange(bob, message.with(2, 9))).toThrow(code('VERSION'))
  expect(() => acceptExchange(bob, new Uint8Array(0))).toThrow(code('PROTOCOL'))
})
