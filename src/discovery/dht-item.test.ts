import { describe, expect, test } from 'vitest'
import { Identity, openRecord, signRecord } from '../identity/index.ts'
import { MAX_ITEM_BYTES, readItem, signDhtRecord, signedPart, verifyItem } from './dht-item.ts'

const identity = Identity.generate()
const other = Identity.generate()
const expiresAt = Date.now() + 3_600_000
const content = { sequence: 12, expiresAt, rendezvous: ['ws://192.0.2.1:1#a'] }
const value = signRecord(identity, content)
const signed = signedPart(12, value)
const signature = identity.sign(signed)

describe('an item', () => {
  test('is signed as BEP 44 says', () => {
    const text = Buffer.from(signedPart(4, Buffer.from('Hello world!'))).toString()
    expect(text).toBe('4:salt10:peerline/13:seqi4e1:v12:Hello world!')
  })

  test('gives the record that was asked for', () => {
    expect(readItem(identity.peerId, signature, signed, identity.publicKey)).toEqual(openRecord(value))
  })

  const part = (sequence: number, record: Uint8Array) => {
    const bytes = signedPart(sequence, record)
    return [identity.sign(bytes), bytes, identity.publicKey] as const
  }
  test.each<[string, readonly [unknown, Uint8Array, unknown]]>([
    ['without a signature', [undefined, signed, identity.publicKey]],
    ['with a short signature', [signature.subarray(1), signed, identity.publicKey]],
    ['signed by another', [other.sign(signed), signed, identity.publicKey]],
    ['of another', [other.sign(signed), signed, other.publicKey]],
    ['without a key', [signature, signed, 5]],
    ['with the record of another', part(12, signRecord(other, content))],
    ['under another sequence', part(13, value)],
    ['that is no record', part(12, Buffer.from('x'))],
    ['that is over', part(12, signRecord(identity, { ...content, expiresAt: 1 }))],
    ['that is too large', part(12, signRecord(identity, { ...content, relays: Array(8).fill('r'.repeat(120)) }))],
    [
      'whose signed part is something else',
      [identity.sign(Buffer.from('1:vi5e')), Buffer.from('1:vi5e'), identity.publicKey],
    ],
    ['whose signed part is no bencode', [identity.sign(Buffer.from('x')), Buffer.from('x'), identity.publicKey]],
  ])('is passed over: %s', (_, [sig, part, key]) => {
    expect(readItem(identity.peerId, sig, part, key)).toBeUndefined()
  })

  test('of anybody is kept when its key has signed it', () => {
    expect(verifyItem(signature, signed, identity.publicKey)).toBe(true)
    expect(verifyItem(signature, Buffer.from('x'), identity.publicKey)).toBe(false)
    expect(verifyItem(signature, signed, other.publicKey)).toBe(false)
    expect(verifyItem(signature, signed, new Uint8Array(32))).toBe(false) // of small order
    expect(verifyItem(signature, signed, new Uint8Array(31))).toBe(false)
    expect(verifyItem({}, signed, identity.publicKey)).toBe(false)
  })
})

describe('the record for the DHT', () => {
  const all = { ...content, addresses: ['192.0.2.7:44'], relays: ['r'], topics: ['t'], capabilities: ['c'] }

  test('says where the peer may be asked, and not where it is', () => {
    const { addresses, rendezvous, relays, topics, capabilities } = openRecord(signDhtRecord(identity, all))
    expect({ addresses, rendezvous, relays, topics, capabilities }).toEqual({
      addresses: [],
      rendezvous: content.rendezvous,
      relays: ['r'],
      topics: ['t'],
      capabilities: [],
    })
    const told = openRecord(signDhtRecord(identity, all, { addresses: true }))
    expect(told).toMatchObject({ sequence: 12, expiresAt, addresses: all.addresses })
  })

  test('fits, without what is worth least', () => {
    const long = (letter: string, count: number) =>
      Array.from({ length: count }, (_, at) => `${letter}${at}`.padEnd(100, '.'))
    const record = signDhtRecord(
      identity,
      { ...content, addresses: long('a', 16), topics: long('t', 9), relays: long('r', 3), rendezvous: long('s', 2) },
      { addresses: true },
    )
    expect(record.length).toBeLessThanOrEqual(MAX_ITEM_BYTES)
    const { addresses, topics, relays, rendezvous } = openRecord(record)
    expect([addresses.length, relays.length, rendezvous.length]).toEqual([0, 3, 2])
    expect(topics).toEqual(long('t', topics.length))
    expect(topics.length).toBeGreaterThan(0)
  })
})
