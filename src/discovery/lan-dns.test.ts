import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Identity } from '../identity/index.ts'
import {
  answersTo,
  concernsUs,
  type DnsAnswer,
  goodbyeOf,
  instanceOf,
  isKnown,
  ownQuestions,
  peerOf,
  pointer,
  recordIn,
  wantedBy,
} from './lan-dns.ts'
import { MAX_LAN_RECORD_BYTES } from './lan-record.ts'

const peer = Identity.fromSeed(new Uint8Array(32).fill(7)).peerId
const SERVICE = '_peerline._tcp.local'
const own = {
  bytes: new Uint8Array(randomBytes(400)),
  port: 4401,
  hosts: [
    ['eth0', '192.168.1.10', 4],
    ['eth0', 'fe80::1%eth0', 6],
    ['wlan0', '10.0.0.4', 4],
  ].map(
    ([interfaceName, host, family]) => ({ interfaceName, host, family, scope: 'private', prefixBits: 24 }) as never,
  ),
}
const who = { peer, own, interfaceName: 'eth0' }

describe('the records of a peer', () => {
  test('an instance comes with all that will be asked for next', () => {
    const { answers, additionals } = answersTo(new Set(['instance']), who)
    expect(answers).toEqual([{ name: SERVICE, type: 'PTR', ttl: 4500, data: `${peer}.${SERVICE}` }])
    expect(additionals.map(({ type }) => type)).toEqual(['SRV', 'TXT', 'A', 'AAAA'])
    const [srv, txt, ...addresses] = additionals
    expect(srv).toEqual({
      ...{ name: `${peer}.${SERVICE}`, type: 'SRV', ttl: 120, flush: true },
      data: { port: 4401, target: `${peer}.local`, priority: 0, weight: 0 },
    })
    expect(txt).toMatchObject({ name: `${peer}.${SERVICE}`, ttl: 4500, flush: true })
    const address = { name: `${peer}.local`, ttl: 120, flush: true }
    expect(addresses).toEqual([
      { ...address, type: 'A', data: '192.168.1.10' },
      { ...address, type: 'AAAA', data: 'fe80::1' },
    ])
  })

  test('nothing is said twice, and no more than is asked for', () => {
    const types = (...wanted: Parameters<typeof answersTo>[0] extends ReadonlySet<infer W> ? W[] : never) => {
      const { answers, additionals } = answersTo(new Set(wanted), who)
      return [answers.map(({ type }) => type), additionals.map(({ type }) => type)]
    }
    expect(types('instance', 'port', 'record', 'addresses')).toEqual([['PTR', 'SRV', 'TXT', 'A', 'AAAA'], []])
    expect(types('port')).toEqual([['SRV'], ['A', 'AAAA']])
    expect(types('record')).toEqual([['TXT'], []])
    expect(types('services')).toEqual([['PTR'], []])
  })

  test('an ordinary resolver keeps them for ten seconds, and hears of no flushing', () => {
    const { answers, additionals } = answersTo(new Set(['instance']), who, { legacy: true })
    expect([...answers, ...additionals].map(({ ttl, flush }) => [ttl, flush])).toEqual(Array(5).fill([10, undefined]))
  })

  test('a goodbye voids them all, and holds the record that says so', () => {
    const goodbye = new Uint8Array(randomBytes(100))
    const records = goodbyeOf(peer, own, 'eth0', goodbye)
    expect(records.map(({ type, ttl }) => [type, ttl])).toEqual(
      ['PTR', 'SRV', 'TXT', 'A', 'AAAA'].map((type) => [type, 0]),
    )
    expect(recordIn(records[2]!.data)).toEqual(goodbye)
  })

  test.each([1, 250, 251, 252, 255, 502, 1_199, MAX_LAN_RECORD_BYTES])(
    'a record of %d bytes fits strings of 255',
    (size) => {
      const bytes = new Uint8Array(randomBytes(size))
      const [txt] = answersTo(new Set(['record']), { ...who, own: { ...own, bytes } }).answers as [DnsAnswer]
      const strings = txt.data as Buffer[]
      expect(Buffer.from(strings[0]!).toString()).toBe('txtvers=1')
      expect(Math.max(...strings.map(({ length }) => length))).toBeLessThanOrEqual(255)
      expect(recordIn(strings)).toEqual(bytes)
    },
  )

  test.each([
    ['of another version', ['txtvers=2', 'r0=x']],
    ['without a version', ['r0=x']],
    ['without a record', ['txtvers=1', 'x=y']],
    ['with a record that begins later', ['txtvers=1', 'r1=x']],
    ['with far too many strings', ['txtvers=1', 'r0=x', ...Array(30).fill('a=b')]],
  ])('a TXT record %s holds none', (_, strings) => {
    expect(recordIn(strings.map((text) => Buffer.from(text)))).toBeUndefined()
  })

  test('keys have no case, the first of a kind counts, and others are passed over', () => {
    const strings = ['a', '=b', '', 'TXTVERS=1', 'R0=x', 'r0=y', 'r1=z=', 'r3=q'].map((text) => Buffer.from(text))
    expect(Buffer.from(recordIn(strings)!).toString()).toBe('xz=')
  })

  test('whatever the data of a record is, it is read or it is not', () => {
    const strings = fc.array(
      fc.oneof(
        fc.uint8Array({ maxLength: 20 }),
        fc.constantFrom('txtvers=1', 'r0=x').map((text) => Buffer.from(text)),
      ),
    )
    fc.assert(fc.property(fc.oneof(fc.anything(), strings), (data) => void recordIn(data)))
  })
})

describe('what is asked for', () => {
  test.each([
    [SERVICE, 'PTR', ['instance']],
    ['_PeerLine._TCP.local', 'ANY', ['instance']],
    ['_services._dns-sd._udp.local', 'PTR', ['services']],
    [instanceOf(peer), 'SRV', ['port']],
    [instanceOf(peer), 'TXT', ['record']],
    [instanceOf(peer).toUpperCase(), 'ANY', ['port', 'record']],
    [`${peer}.local`, 'A', ['addresses']],
    [`${peer}.local`, 'AAAA', ['addresses']],
    [SERVICE, 'TXT', []],
    [`x.${SERVICE}`, 'ANY', []],
    ['_http._tcp.local', 'PTR', []],
  ])('%s %s', (name, type, wanted) => {
    expect([...wantedBy([{ name, type }], peer)]).toEqual(wanted)
  })

  test('only what is for us, as we write it, is said back', () => {
    const questions = [
      { name: SERVICE.toUpperCase(), type: 'PTR', class: 'UNKNOWN_32769' },
      { name: `${peer}.LOCAL`, type: 'AAAA' },
      { name: 'a..b', type: 'UNKNOWN_77' },
    ]
    expect(ownQuestions(questions, peer)).toEqual([
      { name: SERVICE, type: 'PTR' },
      { name: `${peer}.local`, type: 'AAAA' },
    ])
  })

  test.each([
    ['our instance', pointer(peer), true],
    ['our instance, in capitals', { ...pointer(peer), data: instanceOf(peer).toUpperCase() }, true],
    ['our instance, for half of its time', { ...pointer(peer), ttl: 2_250 }, true],
    ['our instance, for less than that', { ...pointer(peer), ttl: 2_249 }, false],
    ['another', { ...pointer(peer), data: `x.${SERVICE}` }, false],
    ['another service', { ...pointer(peer), name: '_http._tcp.local' }, false],
    ['nothing readable', { ...pointer(peer), data: 7 }, false],
  ])('who knows %s', (_, answer, known) => {
    expect(isKnown([answer], peer)).toBe(known)
  })

  test.each([
    [instanceOf(peer), peer],
    [instanceOf(peer).toUpperCase(), peer],
    [`${peer}x.${SERVICE}`, undefined],
    [`${peer.slice(1)}.${SERVICE}`, undefined],
    [`${'-'.repeat(52)}.${SERVICE}`, undefined],
    [SERVICE, undefined],
    [`${peer}.local`, undefined],
  ])('the peer in %s', (name, expected) => {
    expect(peerOf(name)).toBe(expected)
  })
})

describe('a message', () => {
  const head = (...counts: number[]) => {
    const bytes = Buffer.alloc(12)
    for (const [at, count] of counts.entries()) bytes.writeUInt16BE(count, 4 + 2 * at)
    return bytes
  }
  const message = (label: string, ...counts: number[]) => Buffer.concat([head(...counts), Buffer.from(label, 'latin1')])

  test.each([
    ['of the service', message('\x09_peerline', 1), true],
    ['of the service, in capitals', message('\x09_PEERLINE', 64), true],
    ['of all services', message('\x09_services', 1), true],
    ['of our host', message(`\x34${peer}`, 1), true],
    ['of others', message('\x05_http', 1), false],
    ['with very many items', message('\x09_peerline', 30, 30, 4, 1), false],
    ['that is too large', Buffer.concat([message('\x09_peerline', 1), Buffer.alloc(2_979)]), false],
    ['that is cut short', head(1).subarray(0, 11), false],
  ])('%s', (_, bytes, expected) => {
    expect(concernsUs(bytes, peer)).toBe(expected)
  })
})
