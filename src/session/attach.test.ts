import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MessageKind, PROTOCOL_VERSION } from '../bytes/index.ts'
import { readAttach, readAttached, sessionIdOf, writeAttach, writeAttached } from './attach.ts'
import { testKeys } from './memory-path.compliance.ts'

const [a, b] = [testKeys(true), testKeys(false)]
const claims = fc.record({
  pathNumber: fc.nat(0xffffffff),
  received: fc.maxSafeInteger().map((n) => Math.abs(n) % 2 ** 48),
})
const claim = { pathNumber: 2, received: 77 }

function refusal(read: () => unknown): unknown {
  try {
    return read()
  } catch (error) {
    return (error as { code: string }).code
  }
}

describe('attach messages', () => {
  it('say what was claimed to the holder of the keys', () => {
    fc.assert(
      fc.property(claims, (claim) => {
        const attach = writeAttach(a.sessionId, claim, a.attachSend)
        expect([attach[0], attach[1]]).toEqual([PROTOCOL_VERSION, MessageKind.ATTACH])
        expect(sessionIdOf(attach)).toEqual(Buffer.from(a.sessionId))
        expect(readAttach(attach, b.attachReceive)).toEqual(claim)
        const attached = writeAttached(claim, b.attachSend)
        expect([attached[0], attached[1]]).toEqual([PROTOCOL_VERSION, MessageKind.ATTACHED])
        expect(readAttached(attached, a.attachReceive)).toEqual(claim)
      }),
    )
  })

  it('do not authenticate with any one bit flipped, preamble and session id included', () => {
    const attach = writeAttach(a.sessionId, claim, a.attachSend)
    const attached = writeAttached(claim, b.attachSend)
    for (const [message, read] of [
      [attach, (m: Uint8Array) => readAttach(m, b.attachReceive)],
      [attached, (m: Uint8Array) => readAttached(m, a.attachReceive)],
    ] as const) {
      for (let bit = 0; bit < message.length * 8; bit++) {
        const forged = Buffer.from(message)
        forged[bit >> 3]! ^= 1 << (bit & 7)
        expect(
          refusal(() => read(forged)),
          `bit ${bit}`,
        ).toBe('ERR_PEERLINE_HANDSHAKE')
      }
      expect(refusal(() => read(message))).toEqual(claim)
    }
  })

  it('do not authenticate when sent back to who made them', () => {
    const attach = writeAttach(a.sessionId, claim, a.attachSend)
    expect(refusal(() => readAttach(attach, a.attachReceive))).toBe('ERR_PEERLINE_HANDSHAKE')
    const attached = writeAttached(claim, b.attachSend)
    expect(refusal(() => readAttached(attached, b.attachReceive))).toBe('ERR_PEERLINE_HANDSHAKE')
  })

  it('are malformed at any other length, whatever they hold', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (message) => {
        fc.pre(message.length !== 62)
        expect(sessionIdOf(message)).toBeUndefined()
        expect(refusal(() => readAttach(message, b.attachReceive))).toBe('ERR_PEERLINE_PROTOCOL')
        fc.pre(message.length !== 46)
        expect(refusal(() => readAttached(message, b.attachReceive))).toBe('ERR_PEERLINE_PROTOCOL')
      }),
    )
  })

  it('claim no number that no record can have, even when authentic', () => {
    const attach = writeAttach(a.sessionId, { pathNumber: 2, received: 2 ** 48 + 1 }, a.attachSend)
    expect(refusal(() => readAttach(attach, b.attachReceive))).toBe('ERR_PEERLINE_PROTOCOL')
  })
})
