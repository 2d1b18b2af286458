import { isIP } from 'node:net'
import { describe, expect, test } from 'vitest'
import { type LocalAddress, scopeOf } from './address.ts'
import { defaultGateways, guessGateways, parseRoutes } from './gateway.ts'

const HEAD = 'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT'
const route = (name: string, destination: string, gateway: string, flags: string, metric: number, mask: string) =>
  [name, destination, gateway, flags, 0, 0, metric, mask, 0, 0, 0].join('\t')

describe('the table of routes', () => {
  test.each<[string, string[], string[]]>([
    ['a default route', [route('eth0', '00000000', '0101A8C0', '0003', 0, '00000000')], ['192.168.1.1']],
    [
      'several, the least metric first, each router once',
      [
        route('wlan0', '00000000', '0101A8C0', '0003', 600, '00000000'),
        route('eth0', '00000000', 'FE00000A', '0003', 100, '00000000'),
        route('eth1', '00000000', '0101A8C0', '0003', 700, '00000000'),
      ],
      ['10.0.0.254', '192.168.1.1'],
    ],
    ['a subnet', [route('eth0', '0001A8C0', '00000000', '0001', 0, '00FFFFFF')], []],
    ['a route to a network', [route('eth0', '0000000A', '0101A8C0', '0003', 0, '000000FF')], []],
    ['half of a VPN default', [route('eth0', '00000000', '0101A8C0', '0003', 0, '00000080')], []],
    ['a tunnel', [route('tun0', '00000000', '0101A8C0', '0003', 0, '00000000')], []],
    ['a route without a router', [route('ppp0', '00000000', '00000000', '0001', 0, '00000000')], []],
    ['a route that is down', [route('eth0', '00000000', '0101A8C0', '0002', 0, '00000000')], []],
    ['nonsense', ['eth0\t00000000\tzz', '\0', 'x'.repeat(1_000)], []],
  ])('with %s', (_, lines, gateways) => {
    expect(parseRoutes([HEAD, ...lines, ''].join('\n'), 'LE')).toEqual(gateways)
  })

  test('of a machine that counts from the other end', () => {
    expect(parseRoutes(route('eth0', '00000000', 'C0A80101', '0003', 0, '00000000'), 'BE')).toEqual(['192.168.1.1'])
  })
})

test.each<[string, number, string[]]>([
  ['192.168.1.7', 24, ['192.168.1.1', '192.168.1.254']],
  ['192.168.1.1', 24, ['192.168.1.254']],
  ['172.20.130.9', 20, ['172.20.128.1', '172.20.143.254']],
  ['10.1.2.3', 8, ['10.0.0.1', '10.255.255.254']],
  ['10.0.0.5', 30, ['10.0.0.6']],
  ['10.0.0.5', 31, []],
  ['10.0.0.5', 32, []],
  ['8.8.8.8', 24, []],
  ['fd00::7', 64, []],
])('beside %s/%i a router is guessed at %j', (host, prefixBits, guesses) => {
  const local: LocalAddress = {
    host,
    family: host.includes(':') ? 6 : 4,
    scope: scopeOf(host),
    interfaceName: 'eth0',
    prefixBits,
  }
  expect(guessGateways([local])).toEqual(guesses)
})

test('on this machine they are addresses, and few', async () => {
  const gateways = await defaultGateways()
  expect(gateways.length).toBeLessThanOrEqual(4)
  for (const gateway of gateways) expect(isIP(gateway)).toBe(4)
})
