import fc from 'fast-check'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { Identity, openRecord, type PeerRecord } from '../identity/index.ts'
import { type LocalAddress, localAddresses } from '../network/address.ts'
import { believedAddresses, MAX_LAN_RECORD_BYTES, OwnRecords, saysGoodbye } from './lan-record.ts'

const DAY_MS = 86_400_000
const identity = Identity.generate()

/** `eth0 192.168.1.10/24`, one by one. */
function locals(...lines: string[]): LocalAddress[] {
  const interfaces: Record<string, { address: string; netmask: string; family: 'IPv4' | 'IPv6' }[]> = {}
  for (const line of lines) {
    const [name, address, netmask] = line.split(' ') as [string, string, string]
    const family = address.includes(':') ? 'IPv6' : 'IPv4'
    interfaces[name] = [...(interfaces[name] ?? []), { address, netmask, family }]
  }
  return localAddresses({ interfaces: interfaces as never, linkLocal: true, loopback: true })
}

const V4 = 'eth0 192.168.1.10 255.255.255.0'
const V6 = 'eth0 2001:4860:1::10 ffff:ffff:ffff:ffff::'
const LINK = 'eth0 fe80::10 ffff:ffff:ffff:ffff::'
const OTHER = 'wlan0 10.9.0.4 255.255.0.0'

function told(listening: readonly string[], own: readonly LocalAddress[]): readonly string[] | undefined {
  const record = new OwnRecords(identity, () => listening).current(own)
  return record && openRecord(record.bytes).addresses
}

describe('what a peer says of itself', () => {
  afterEach(() => vi.useRealTimers())

  test.each([
    [
      'every interface',
      ['[::]:4401'],
      [V4, V6, LINK, OTHER],
      ['192.168.1.10:4401', '[2001:4860:1::10]:4401', '10.9.0.4:4401'],
    ],
    ['every interface, in IPv4', ['0.0.0.0:4401'], [V4, V6], ['192.168.1.10:4401']],
    ['one of them', ['10.9.0.4:4401'], [V4, OTHER], ['10.9.0.4:4401']],
    ['two ports', ['192.168.1.10:1', '192.168.1.10:2'], [V4], ['192.168.1.10:1', '192.168.1.10:2']],
    ['a network without routers', ['[::]:4401'], [LINK], ['[fe80::10]:4401']],
    ['an address that is not here', ['192.168.7.7:4401'], [V4], undefined],
    ['nowhere', [], [V4], undefined],
    ['no network', ['[::]:4401'], [], undefined],
  ])('it listens on %s', (_, listening, own, addresses) => {
    expect(told(listening, locals(...own))).toEqual(addresses)
  })

  test('its hosts are those of the first port', () => {
    const own = new OwnRecords(identity, () => ['192.168.1.10:4401', '10.9.0.4:4402']).current(locals(V4, OTHER))!
    expect(own.port).toBe(4401)
    expect(own.hosts.map(({ host }) => host)).toEqual(['192.168.1.10'])
  })

  test('it fits a datagram, with as many addresses as there can be', () => {
    const many = Array.from(
      { length: 40 },
      (_, at) => `eth0 2001:4860:1111:2222:3333:4444:5555:${(0x1000 + at).toString(16)} ffff:ffff:ffff:ffff::`,
    )
    const own = new OwnRecords(identity, () => ['[::]:61000']).current(locals(...many))!
    expect(own.bytes.length).toBeLessThan(MAX_LAN_RECORD_BYTES)
    expect(openRecord(own.bytes).addresses.length).toBe(16)
  })

  test('it is the same until something is new, or half a day has gone', () => {
    vi.useFakeTimers({ toFake: ['Date'] })
    let listening = ['[::]:4401']
    const records = new OwnRecords(identity, () => listening)
    const first = records.current(locals(V4))!
    vi.advanceTimersByTime(DAY_MS / 2)
    expect(records.current(locals(V4))).toBe(first)
    vi.advanceTimersByTime(1)
    const second = records.current(locals(V4))!
    expect(second).not.toBe(first)
    listening = ['[::]:4402']
    const third = records.current(locals(V4))!
    const fourth = records.current(locals(OTHER))!
    const read = [first, second, third, fourth].map(({ bytes }) => openRecord(bytes))
    expect(read.map(({ sequence }) => sequence)).toEqual(read.map(({ sequence }) => sequence).sort((a, b) => a - b))
    expect(new Set(read.map(({ sequence }) => sequence)).size).toBe(4)
    expect(read[0]!.expiresAt - read[0]!.sequence).toBe(DAY_MS)
  })

  test('a clock that is set back makes no older record', () => {
    vi.useFakeTimers({ toFake: ['Date'], now: 2_000_000_000_000 })
    const records = new OwnRecords(identity, () => ['[::]:4401'])
    const first = openRecord(records.current(locals(V4))!.bytes)
    vi.setSystemTime(1_999_000_000_000)
    const second = openRecord(records.current(locals(V4))!.bytes)
    expect(second.sequence).toBe(first.sequence + 1)
    expect(second.expiresAt).toBe(1_999_000_000_000 + DAY_MS)
  })

  test('its goodbye is newer than what it said, and older than what it says next', () => {
    const records = new OwnRecords(identity, () => ['[::]:4401'])
    const before = openRecord(records.current(locals(V4))!.bytes)
    const goodbye = openRecord(records.goodbye())
    const after = openRecord(records.current(locals(V4))!.bytes)
    expect([before, goodbye, after].map(saysGoodbye)).toEqual([false, true, false])
    expect(goodbye.sequence).toBeGreaterThan(before.sequence)
    expect(after.sequence).toBeGreaterThan(goodbye.sequence)
  })
})

describe('what is believed', () => {
  const own = locals(V4, LINK)
  const record = (...addresses: string[]): PeerRecord => ({
    peerId: identity.peerId,
    ...{ sequence: 1, expiresAt: 2, addresses, relays: [], rendezvous: [], capabilities: [], topics: [] },
  })

  test.each([
    ['where it came from first', '192.168.1.7', ['10.0.0.7:1', '192.168.1.7:2'], ['192.168.1.7:2', '10.0.0.7:1']],
    [
      'where it came from, though it is not named',
      '192.168.1.8',
      ['192.168.1.7:2'],
      ['192.168.1.8:2', '192.168.1.7:2'],
    ],
    [
      'what is near before what is private',
      '192.168.1.7',
      ['10.0.0.7:1', '192.168.1.9:1'],
      ['192.168.1.7:1', '192.168.1.9:1', '10.0.0.7:1'],
    ],
    ['nothing that is far', '192.168.1.7', ['20.1.0.1:1', '[2a05::1]:1'], ['192.168.1.7:1']],
    [
      'no name, no loopback, nothing that is no address',
      '192.168.1.7',
      ['example.org:1', '127.0.0.1:1', '0.0.0.0:1', 'x', '10.0.0.7:1'],
      ['192.168.1.7:1', '10.0.0.7:1'],
    ],
    ['of a link-local address only the source', 'fe80::7%eth0', ['[fe80::7]:9', '[fe80::8]:9'], ['[fe80::7%eth0]:9']],
    ['nothing without a port', '192.168.1.7', ['example.org:1'], []],
  ])('%s', (_, address, addresses, expected) => {
    expect(believedAddresses(record(...addresses), { address }, own)).toEqual(expected)
  })

  test('whatever it says, nothing that is far, and sixteen at most', () => {
    const host = fc.oneof(
      fc.ipV4(),
      fc.ipV6().map((ip) => `[${ip}]`),
      fc.string(),
    )
    const address = fc.tuple(host, fc.integer({ min: -1, max: 70_000 })).map(([host, port]) => `${host}:${port}`)
    fc.assert(
      fc.property(fc.array(address, { maxLength: 40 }), (addresses) => {
        const believed = believedAddresses(record(...addresses), { address: '192.168.1.7' }, own)
        expect(believed.length).toBeLessThanOrEqual(16)
        for (const one of believed)
          expect(one).toMatch(/^(192\.168\.|10\.|172\.|100\.|\[f[cde]|\[64:ff9b:1:|\[::ffff:|\[64:ff9b::)/)
      }),
    )
  })
})
