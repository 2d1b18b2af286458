import type { NetworkInterfaceInfo } from 'node:os'
import fc from 'fast-check'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { isPeerlineError } from '../errors.ts'
import {
  type AddressScope,
  bytesToIp,
  formatHostPort,
  inOwnSubnet,
  ipToBytes,
  localAddresses,
  parseHostPort,
  scopeOf,
  sortByNearness,
  sourceKey,
  toSocketAddress,
  watchAddresses,
} from './address.ts'

describe('parseHostPort', () => {
  test.each([
    ['127.0.0.1:4400', '127.0.0.1', 4400],
    ['[::1]:4400', '::1', 4400],
    ['[fe80::1%eth0]:1', 'fe80::1%eth0', 1],
    ['peer.example.org:65535', 'peer.example.org', 65535],
    ['peer.example.org.:80', 'peer.example.org.', 80],
    ['localhost:0', 'localhost', 0],
    ['_srv.a-b:1', '_srv.a-b', 1],
    [':4400', '', 4400],
  ])('reads %s', (text, host, port) => {
    expect(parseHostPort(text)).toEqual({ host, port })
    expect(formatHostPort(host, port)).toBe(text)
  })

  test.each([
    ['10.0.0.1', '10.0.0.1'],
    ['[2001:db8::1]', '2001:db8::1'],
    ['example.org', 'example.org'],
  ])('%s takes the default port', (text, host) => {
    expect(parseHostPort(text, { defaultPort: 3478 })).toEqual({ host, port: 3478 })
    expect(() => parseHostPort(text)).toThrow(/has no port/)
  })

  test.each([
    ['', /empty/],
    ['::1', /needs brackets, as in \[::1\]:port/],
    ['2001:db8::1:4400', /needs brackets/],
    ['a:b:1', /port is not a number/],
    ['[::1', /is not host:port/],
    ['[::1]4400', /is not host:port/],
    ['[]:1', /only IPv6/],
    ['[127.0.0.1]:1', /only IPv6/],
    ['host:', /port is not a number/],
    ['host:65536', /port is not a number/],
    ['host:-1', /port is not a number/],
    ['host:1e3', /port is not a number/],
    ['host: 1', /port is not a number/],
    ['ho st:1', /not a name or IP/],
    ['a/b:1', /not a name or IP/],
    ['-a:1', /not a name or IP/],
    ['a..b:1', /not a name or IP/],
    ['.:1', /not a name or IP/],
    [`${'a'.repeat(64)}:1`, /not a name or IP/],
    ['127.1:1', /not a name or IP/],
    ['0x7f000001:1', /not a name or IP/],
    ['256.1.1.1:1', /not a name or IP/],
    ['x'.repeat(300), /too long/],
  ])('refuses %j', (text, message) => {
    expect(() => parseHostPort(text, { defaultPort: 1 })).toThrow(
      expect.objectContaining({ code: 'ERR_PEERLINE_INVALID', message: expect.stringMatching(message) }),
    )
  })

  test('any text gives a host and port or a typed error', () => {
    const text = fc.oneof(fc.string(), fc.string({ unit: fc.constantFrom(...'[]:.%0129afx-'), maxLength: 30 }))
    fc.assert(
      fc.property(text, (some) => {
        try {
          const { host, port } = parseHostPort(some, { defaultPort: 9 })
          return parseHostPort(formatHostPort(host, port)).host === host && port >= 0 && port <= 65_535
        } catch (error) {
          return isPeerlineError(error) && error.code === 'ERR_PEERLINE_INVALID'
        }
      }),
      { numRuns: 500 },
    )
  })
})

describe('bytes of an IP', () => {
  test.each([
    ['1:2:3:4:5:6:7:8', '1:2:3:4:5:6:7:8'],
    ['2001:0DB8::0001', '2001:db8::1'],
    ['1:0:0:2:0:0:0:3', '1:0:0:2::3'],
    ['1:0:0:2:3:0:0:4', '1::2:3:0:0:4'],
    ['1:0:2:3:4:5:6:7', '1:0:2:3:4:5:6:7'],
    ['1:2:3:4:5:6:0:0', '1:2:3:4:5:6::'],
    ['::', '::'],
    ['::ffff:7f00:1', '::ffff:127.0.0.1'],
    ['fe80::1%eth0', 'fe80::1'],
    ['64:ff9b::1.2.3.4', '64:ff9b::102:304'],
  ])('%s is written %s (RFC 5952)', (text, canonical) => {
    expect(bytesToIp(ipToBytes(text)!)).toBe(canonical)
  })

  test('4 and 16 bytes survive the way to text and back', () => {
    const byte = fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 255 }))
    const bytes = fc.oneof(
      fc.array(byte, { minLength: 4, maxLength: 4 }),
      fc.array(byte, { minLength: 16, maxLength: 16 }),
    )
    fc.assert(
      fc.property(bytes, (some) => {
        expect([...ipToBytes(bytesToIp(Uint8Array.from(some)))!]).toEqual(some)
      }),
      { numRuns: 500 },
    )
  })

  test('other text and lengths are refused', () => {
    for (const text of ['', 'localhost', '1.2.3', '1.2.3.4.5', ':::', '[::1]']) expect(ipToBytes(text)).toBeUndefined()
    expect(() => bytesToIp(new Uint8Array(5))).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  })
})

describe('scopeOf', () => {
  const cases: [AddressScope, string[]][] = [
    ['unspecified', ['0.0.0.0', '::', '::ffff:0.0.0.0']],
    ['loopback', ['127.0.0.1', '127.255.255.255', '::1', '::ffff:127.0.0.1', '64:ff9b::127.0.0.1']],
    ['link-local', ['169.254.169.254', 'fe80::1', 'febf::1', 'fe80::1%eth0', '::ffff:a9fe:a9fe']],
    [
      'private',
      [
        ...['10.0.0.1', '172.16.0.1', '172.31.255.255', '192.168.1.1', '100.64.0.1', '100.127.255.255'],
        ...['fc00::1', 'fd12::1', 'fec0::1', '::ffff:10.0.0.1', '64:ff9b::10.0.0.1', '64:ff9b:1::1'],
      ],
    ],
    [
      'public',
      [
        ...['8.8.8.8', '172.15.0.1', '172.32.0.1', '100.63.0.1', '100.128.0.1', '192.0.1.1', '223.255.255.255'],
        ...['2606:4700::1111', '2001:200::1', '2a00::1', '::ffff:8.8.8.8', '64:ff9b::8.8.8.8'],
      ],
    ],
    ['multicast', ['224.0.0.251', '239.255.255.255', 'ff02::fb', '::ffff:224.0.0.1']],
    [
      'reserved',
      [
        ...['0.0.0.1', '192.0.0.1', '192.0.2.1', '198.18.0.1', '198.19.255.255', '198.51.100.1', '203.0.113.1'],
        ...['192.88.99.1', '240.0.0.1', '255.255.255.255', '2001:db8::1', '2001::1', '2002:7f00:1::', '3fff::1'],
        ...['::7f00:1', '::ffff:0:127.0.0.1', '100::1', '4000::1', '5f00::1', 'fe00::1', 'localhost', ''],
      ],
    ],
  ]
  test.each(cases.flatMap(([scope, ips]) => ips.map((ip) => [ip, scope] as const)))('%j is %s', (ip, scope) => {
    expect(scopeOf(ip)).toBe(scope)
  })
})

test('toSocketAddress turns IPv4-mapped IPv6 into IPv4', () => {
  expect(toSocketAddress('::ffff:192.0.2.1', 5)).toEqual({ host: '192.0.2.1', port: 5, family: 4 })
  expect(toSocketAddress('192.0.2.1', 5)).toEqual({ host: '192.0.2.1', port: 5, family: 4 })
  expect(toSocketAddress('2001:db8::1', 5)).toEqual({ host: '2001:db8::1', port: 5, family: 6 })
  expect(toSocketAddress('localhost', 5)).toBeUndefined()
})

test('one source is an IPv4 address or an IPv6 /64', () => {
  expect(sourceKey('192.0.2.1')).toBe('192.0.2.1')
  expect(sourceKey('::ffff:192.0.2.1')).toBe('192.0.2.1')
  expect(sourceKey('2001:db8:1:2:3:4:5:6')).toBe('2001:db8:1:2::/64')
  expect(sourceKey('2001:db8:1:2:ffff::')).toBe('2001:db8:1:2::/64')
  expect(sourceKey('2001:db8:1:3::')).not.toBe('2001:db8:1:2::/64')
})

function info(address: string, netmask = ''): NetworkInterfaceInfo {
  const rest = { address, netmask, mac: '', internal: false, cidr: null }
  return address.includes(':') ? { ...rest, family: 'IPv6', scopeid: 0 } : { ...rest, family: 'IPv4' }
}

describe('localAddresses', () => {
  const virtual = ['docker0', 'veth12', 'br-ab12', 'cni0', 'tun0', 'utun3', 'wg0', 'virbr0']
  const interfaces = {
    lo: [info('127.0.0.1', '255.0.0.0'), info('::1')],
    eth0: [info('192.168.1.7', '255.255.255.0'), info('fe80::7'), info('2a00::7', 'ffff:ffff:ffff:ffff::')],
    br0: [info('10.0.0.7', '255.255.240.0')],
    ...Object.fromEntries(virtual.map((name, at) => [name, [info(`10.9.0.${at}`)]])),
    gone: undefined,
  }
  const names = (options: Parameters<typeof localAddresses>[0]) =>
    localAddresses({ interfaces, ...options }).map(({ interfaceName }) => interfaceName)

  test('names what another machine can reach', () => {
    expect(localAddresses({ interfaces })).toEqual([
      { host: '192.168.1.7', family: 4, scope: 'private', interfaceName: 'eth0', prefixBits: 24 },
      { host: '2a00::7', family: 6, scope: 'public', interfaceName: 'eth0', prefixBits: 64 },
      { host: '10.0.0.7', family: 4, scope: 'private', interfaceName: 'br0', prefixBits: 20 },
    ])
  })

  test('adds loopback and link-local addresses when asked', () => {
    const hosts = (options: object) => localAddresses({ ...options, interfaces }).map(({ host }) => host)
    expect(hosts({ loopback: true })).toEqual(['127.0.0.1', '::1', '192.168.1.7', '2a00::7', '10.0.0.7'])
    expect(hosts({ linkLocal: true })).toEqual(['192.168.1.7', 'fe80::7', '2a00::7', '10.0.0.7'])
  })

  test.each<[string, Parameters<typeof localAddresses>[0], string[]]>([
    ['all', { all: true }, ['eth0', 'eth0', 'br0', ...virtual]],
    ['one by name', { include: ['br0'] }, ['br0']],
    ['a tunnel by name', { include: ['wg0', 'nonsense'] }, ['wg0']],
    ['none', { include: [] }, []],
    ['all but some', { exclude: ['eth0'] }, ['br0']],
    ['all but some, bridges too', { all: true, exclude: ['eth0', ...virtual.slice(1)] }, ['br0', 'docker0']],
    ['what is both wanted and not', { include: ['br0', 'eth0'], exclude: ['eth0'] }, ['br0']],
    ['loopback, whatever else', { include: ['br0'], loopback: true }, ['lo', 'lo', 'br0']],
  ])('takes %s', (_, options, found) => {
    expect(names(options)).toEqual(found)
  })

  test('knows that an address without a netmask stands alone', () => {
    const bits = localAddresses({ interfaces: { eth0: [info('192.168.1.7'), info('2a00::7')] } })
    expect(bits.map(({ prefixBits }) => prefixBits)).toEqual([32, 128])
  })

  test('reads this machine', () => {
    expect(localAddresses({ loopback: true }).some(({ host }) => host === '127.0.0.1')).toBe(true)
    expect(localAddresses().some(({ scope }) => scope === 'loopback' || scope === 'link-local')).toBe(false)
  })
})

describe('nearness', () => {
  const locals = localAddresses({
    linkLocal: true,
    all: true,
    interfaces: {
      eth0: [
        info('192.168.1.7', '255.255.255.0'),
        info('2a00:1:2:3::7', 'ffff:ffff:ffff:ffff::'),
        info('fe80::7', 'ffff:ffff:ffff:ffff::'),
      ],
      eth1: [info('203.0.113.9', '255.255.255.240')],
      tun0: [info('10.8.0.1', '0.0.0.0')],
    },
  })

  test.each([
    ['192.168.1.200', true],
    ['192.168.1.7', true],
    ['::ffff:192.168.1.200', true],
    ['2a00:1:2:3:ffff::1', true],
    ['fe80::1%eth0', true],
    ['203.0.113.14', true],
    ['192.168.2.200', false],
    ['2a00:1:2:4::1', false],
    ['203.0.113.16', false],
    ['10.8.0.9', false], // of a tunnel whose netmask is 0
    ['127.0.0.1', false],
    ['localhost', false],
    ['', false],
  ])('%s in a subnet of ours: %s', (host, near) => {
    expect(inOwnSubnet(host, locals)).toBe(near)
  })

  test('sorts subnets of ours, private, public IPv6, public IPv4, the rest; and else leaves the order', () => {
    const sorted = [
      ...['2a00:1:2:3::9', '192.168.1.9', '203.0.113.10'],
      ...['10.0.0.1', 'fd00::1', '192.168.2.1', '100.64.0.1'],
      ...['2a00:1:2:4::1', '2606:4700::1'],
      ...['11.22.33.44', '::ffff:8.8.8.8', '8.8.4.4'],
      ...['peer.example.org', '198.51.100.1', '127.0.0.1'],
    ].map((host, at) => ({ host, at }))
    // Dealt into two hands, so that each kind stays in its order and they are mixed.
    const kind = (at: number) => [3, 7, 9, 12, 15].findIndex((end) => at < end)
    const mixed = [...sorted].sort((a, b) => kind(b.at) - kind(a.at) || a.at - b.at)
    expect(mixed).not.toEqual(sorted)
    expect(sortByNearness(mixed, locals)).toEqual(sorted)
    expect(sortByNearness([...sorted], locals)).toEqual(sorted)
    expect(mixed[0]).not.toEqual(sorted[0])
  })

  test('of loopback is near only to who is on loopback', () => {
    const candidates = [{ host: '192.168.1.9' }, { host: '127.0.0.1' }]
    const here = localAddresses({ loopback: true, interfaces: { lo: [info('127.0.0.1', '255.0.0.0')] } })
    expect(sortByNearness(candidates, here)[0]!.host).toBe('127.0.0.1')
  })

  test('sorting loses and makes up nothing', () => {
    const host = fc.oneof(fc.ipV4(), fc.ipV6(), fc.string(), fc.constantFrom('192.168.1.9', '10.1.1.1', '2a00::1'))
    fc.assert(
      fc.property(fc.array(host), (hosts) => {
        const sorted = sortByNearness(
          hosts.map((host) => ({ host })),
          locals,
        )
        expect(sorted.map(({ host }) => host).sort()).toEqual([...hosts].sort())
      }),
    )
  })
})

describe('watchAddresses', () => {
  test('tells when addresses come, go, or change their subnet, and not otherwise', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    onTestFinished(() => void vi.useRealTimers())
    const home = info('192.168.1.7', '255.255.255.0')
    let eth0 = [home]
    const told: string[][] = []
    const stop = watchAddresses((addresses) => told.push(addresses.map(({ host }) => host)), {
      interfaces: () => ({ eth0, docker0: [info(`10.9.0.${eth0.length}`)] }),
    })
    const look = (now: typeof eth0) => {
      eth0 = now
      vi.advanceTimersByTime(2_000)
      return told.splice(0)
    }
    expect(look([home])).toEqual([])
    expect(look([home, info('2a00::7')])).toEqual([['192.168.1.7', '2a00::7']])
    expect(look([info('2a00::7'), home])).toEqual([]) // the same in another order
    expect(look([])).toEqual([[]])
    expect(look([home])).toEqual([['192.168.1.7']])
    expect(look([info('192.168.1.7', '255.255.0.0')])).toEqual([['192.168.1.7']])
    stop()
    expect(look([])).toEqual([])
    expect(vi.getTimerCount()).toBe(0)
  })

  test('looks as often as it is told, and leaves what is excluded', () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    onTestFinished(() => void vi.useRealTimers())
    const interfaces = vi.fn(() => ({ eth0: [info(`192.168.1.${interfaces.mock.calls.length}`)] }))
    const onChange = vi.fn()
    const stop = watchAddresses(onChange, { everyMs: 10, exclude: ['eth0'], interfaces })
    vi.advanceTimersByTime(100)
    expect(interfaces).toHaveBeenCalledTimes(11)
    expect(onChange).not.toHaveBeenCalled()
    stop()
  })

  test('does not keep the process alive', () => {
    const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
    const before = timers()
    const stop = watchAddresses(() => {})
    expect(timers()).toBe(before)
    stop()
  })
})
