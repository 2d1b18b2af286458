import { expect, test } from 'vitest'
import { toHex } from '../bytes/bytes.ts'
import { generateKeyPair, publicKeyFrom } from '../identity/curve.ts'
import { sessionKeys } from './keys.ts'
import { NoiseHandshake } from './noise.ts'

const NONE = new Uint8Array(0)

function pair(): [NoiseHandshake, NoiseHandshake] {
  const options = { pattern: 'XX', prologue: NONE } as const
  return [
    new NoiseHandshake({ ...options, initiator: true, staticKey: generateKeyPair() }),
    new NoiseHandshake({ ...options, initiator: false, staticKey: generateKeyPair() }),
  ]
}

test('both sides derive the same keys, crossed', () => {
  const [a, b] = pair()
  b.readMessage(a.writeMessage(NONE))
  a.readMessage(b.writeMessage(NONE))
  b.readMessage(a.writeMessage(NONE))
  const [mine, theirs] = [sessionKeys(a), sessionKeys(b)]
  expect(mine.sessionId).toEqual(theirs.sessionId)
  expect(mine.attachSend).toEqual(theirs.attachReceive)
  expect(mine.attachReceive).toEqual(theirs.attachSend)
  expect(mine.send).toEqual(theirs.receive)
  expect(mine.receive).toEqual(theirs.send)
  expect([mine.initiator, theirs.initiator]).toEqual([true, false])
  for (const key of [mine.send, mine.receive, mine.attachSend, mine.attachReceive]) expect(key).toHaveLength(32)
  expect(mine.sessionId).toHaveLength(16)
})

test('no keys of a handshake that is not complete', () => {
  const [a, b] = pair()
  b.readMessage(a.writeMessage(NONE))
  a.readMessage(b.writeMessage(NONE))
  expect(() => sessionKeys(a)).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_HANDSHAKE' }))
})

test('the derivation stays as it is: another one would be another wire', () => {
  const options = { pattern: 'XX', prologue: NONE } as const
  const fixed = (fill: number) => {
    const privateKey = new Uint8Array(32).fill(fill)
    return { privateKey, publicKey: publicKeyFrom(privateKey) }
  }
  const a = new NoiseHandshake({ ...options, initiator: true, staticKey: fixed(1), ephemeral: fixed(2) })
  const b = new NoiseHandshake({ ...options, initiator: false, staticKey: fixed(3), ephemeral: fixed(4) })
  b.readMessage(a.writeMessage(NONE))
  a.readMessage(b.writeMessage(NONE))
  b.readMessage(a.writeMessage(NONE))
  const keys = sessionKeys(a)
  expect({
    sessionId: toHex(keys.sessionId),
    attachSend: toHex(keys.attachSend),
    attachReceive: toHex(keys.attachReceive),
  }).toEqual({
    sessionId: 'c7d5c99df49f4548b4c7cc9b9be6dd0b',
    attachSend: '85ceb1ab6143be5137ed730fed3bb65806fe12ef91394e89a48d8a8c2be4efd6',
    attachReceive: 'e49bfd69850f51a1b6965fe5bb2e4211e793d265803624736c3f5793d62298f8',
  })
})
