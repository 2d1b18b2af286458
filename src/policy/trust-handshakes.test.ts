import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Identity, type PeerId } from '../identity/index.ts'
import { signOrder } from './order.ts'
import {
  allOf,
  openVoucher,
  SECRET_PROTOCOL,
  secretHandshake,
  signVoucher,
  VOUCHER_PROTOCOL,
  vouchedBy,
} from './trust-handshakes.ts'
import type { ReadyHandshake } from './trust-options.ts'

const identities = [1, 2, 3, 4].map((n) => Identity.fromSeed(new Uint8Array(32).fill(n)))
const [A, B, C] = identities.map(({ peerId }) => peerId) as [PeerId, PeerId, PeerId]
const authority = identities[3]!
const SECRET = 'correct horse battery staple'
const NOW = 1_700_000_000_000
const fails = (code: string) => expect.objectContaining({ code })

type Answer = (protocol: string, body: Uint8Array) => Uint8Array | Promise<Uint8Array>

/** What `self` finds out of `peer`, whose answers are `answer`. */
async function shake(handshake: ReadyHandshake, answer: Answer, { self = A, peer = B } = {}): Promise<boolean> {
  return handshake.run({
    self,
    peer,
    signal: new AbortController().signal,
    elevate: () => {},
    request: async (protocol, body) => answer(protocol, body),
  })
}

/** The answers of `self` to `from`, who asks. */
const answers =
  (handshake: ReadyHandshake, { self = B, from = A } = {}): Answer =>
  (protocol, body) =>
    handshake.answers[protocol]!(body, { self, from })

describe('a secret', () => {
  const ours = secretHandshake(SECRET)

  test('lets pass who knows it, and nobody else', async () => {
    expect(await shake(ours, answers(secretHandshake(new TextEncoder().encode(SECRET))))).toBe(true)
    expect(await shake(ours, answers(secretHandshake(`${SECRET}.`)))).toBe(false)
  })

  test('is not shown', async () => {
    const said: Uint8Array[] = []
    await shake(ours, async (protocol, body) => {
      const answer = await answers(ours)(protocol, body)
      said.push(body, answer)
      return answer
    })
    expect(said.map(({ length }) => length)).toEqual([32, 32])
    for (const bytes of said) expect(Buffer.from(bytes).includes(SECRET.slice(0, 8))).toBe(false)
  })

  test('is proven anew each time: an answer from before is none', async () => {
    let kept: Uint8Array | undefined
    const replaying: Answer = async (protocol, body) => (kept ??= await answers(ours)(protocol, body))
    expect(await shake(ours, replaying)).toBe(true)
    expect(await shake(ours, replaying)).toBe(false)
  })

  test('is not proven by an answer that a third peer gave: it names both', async () => {
    // C knows nothing, and hands what A asks on to B, who knows the secret
    const byC = answers(ours, { self: B, from: C })
    expect(await shake(ours, byC, { self: A, peer: C })).toBe(false)
    // nor does what B answered C count in the session with A
    expect(await shake(ours, byC, { self: A, peer: B })).toBe(false)
    // nor would it help C to be taken for A there
    expect(await shake(ours, answers(ours, { self: B, from: A }), { self: A, peer: C })).toBe(false)
  })

  test('is not proven by what who asks answers itself', async () => {
    expect(await shake(ours, answers(ours, { self: A, from: B }))).toBe(false)
  })

  test('is not proven by nonsense', async () => {
    for (const bytes of [new Uint8Array(), new Uint8Array(32), new Uint8Array(33)]) {
      expect(await shake(ours, () => bytes)).toBe(false)
    }
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 40 }), async (bytes) => !(await shake(ours, () => bytes))),
    )
    expect(await shake(ours, (_, nonce) => nonce)).toBe(false)
    const flipped: Answer = async (protocol, body) =>
      (await answers(ours)(protocol, body)).map((byte, at) => byte ^ (at === 31 ? 1 : 0))
    expect(await shake(ours, flipped)).toBe(false)
  })

  test('is proven for a whole nonce only', () => {
    for (const length of [0, 31, 33, 1_000]) {
      expect(() => answers(ours)(SECRET_PROTOCOL, new Uint8Array(length))).toThrow(fails('ERR_PEERLINE_PROTOCOL'))
    }
  })

  test('has 16 bytes or more, and is ours alone', async () => {
    const bytes = new TextEncoder().encode(SECRET)
    const taken = secretHandshake(bytes)
    bytes.fill(0)
    expect(await shake(ours, answers(taken))).toBe(true)
    secretHandshake('x'.repeat(16))
    for (const wrong of ['x'.repeat(15), '', new Uint8Array(15), new Uint8Array(1_025), undefined, [1]]) {
      expect(() => secretHandshake(wrong as never)).toThrow(fails('ERR_PEERLINE_INVALID'))
    }
  })
})

describe('a voucher', () => {
  const DAY = 24 * 3_600_000
  const authorities = { has: (peer: PeerId) => peer === authority.peerId }
  const voucher = signVoucher(authority, { peer: B, lifeMs: DAY, now: NOW })
  const with_ = (bytes: Uint8Array, now = NOW) => {
    const ours = vouchedBy(authorities, { now: () => now })
    return shake(ours, answers(vouchedBy(authorities, { voucher: bytes })))
  }

  test('lets pass whom an authority vouches for', async () => {
    expect(openVoucher(voucher, { now: NOW })).toEqual({
      from: authority.peerId,
      peer: B,
      issuedAt: NOW,
      expiresAt: NOW + DAY,
    })
    expect(await with_(voucher)).toBe(true)
  })

  test('is of no use to another peer, or of another signer, or after its time', async () => {
    expect(await with_(signVoucher(authority, { peer: C, lifeMs: DAY, now: NOW }))).toBe(false)
    expect(await with_(signVoucher(identities[1]!, { peer: B, lifeMs: DAY, now: NOW }))).toBe(false)
    await expect(with_(voucher, NOW + 2 * DAY)).rejects.toEqual(fails('ERR_PEERLINE_EXPIRED'))
  })

  test('is no order, and no order is a voucher', async () => {
    const order = signOrder(authority, { to: B, sequence: 1, task: new Uint8Array(), now: NOW })
    await expect(with_(order)).rejects.toEqual(fails('ERR_PEERLINE_RECORD'))
  })

  test('with any bit changed is refused', async () => {
    for (let bit = 0; bit < voucher.length * 8; bit++) {
      const changed = Uint8Array.from(voucher)
      changed[bit >> 3]! ^= 1 << (bit & 7)
      expect(() => openVoucher(changed, { now: NOW })).toThrow(
        expect.objectContaining({ code: expect.stringMatching(/^ERR_PEERLINE_(RECORD|VERSION)$/) }),
      )
    }
  })

  test('is small, and does not live for long', () => {
    expect(() => openVoucher(new Uint8Array(1_000))).toThrow(fails('ERR_PEERLINE_TOO_LARGE'))
    expect(() => signVoucher(authority, { peer: B, lifeMs: 91 * DAY })).toThrow(fails('ERR_PEERLINE_INVALID'))
  })

  test('is shown by who has one', () => {
    expect(Object.keys(vouchedBy(authorities).answers)).toEqual([])
    expect(answers(vouchedBy(authorities, { voucher }))(VOUCHER_PROTOCOL, new Uint8Array())).toEqual(voucher)
  })
})

describe('all of several', () => {
  test('is passed by who passes each', async () => {
    const authorities = { has: () => true }
    const voucher = signVoucher(authority, { peer: B, lifeMs: 1_000, now: NOW })
    const both = allOf(secretHandshake(SECRET), vouchedBy(authorities, { voucher, now: () => NOW }))
    expect(Object.keys(both.answers)).toEqual([SECRET_PROTOCOL, VOUCHER_PROTOCOL])
    expect(await shake(both, answers(both))).toBe(true)
    const other = allOf(secretHandshake('another secret, as long'), vouchedBy(authorities, { voucher, now: () => NOW }))
    expect(await shake(both, answers(other))).toBe(false)
    const never: ReadyHandshake = { run: () => 1 as never, answers: {} }
    expect(await shake(allOf(never, secretHandshake(SECRET)), answers(both))).toBe(false)
    expect(await shake(allOf(secretHandshake(SECRET), never), answers(both))).toBe(false)
  })

  test('is none of none, and of none that get into each other’s way', () => {
    expect(() => allOf()).toThrow(fails('ERR_PEERLINE_INVALID'))
    expect(() => allOf(secretHandshake(SECRET), secretHandshake(SECRET))).toThrow(fails('ERR_PEERLINE_INVALID'))
  })
})
