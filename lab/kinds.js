/** The kinds of homes: how each is built, and what a probe must find. The terms are those of RFC 4787. */

/**
 * What a probe finds for one address family; `null` where nothing can be said.
 *
 * @typedef {object} Found
 * @property {boolean} udp the server answers over UDP
 * @property {'none' | 'endpoint-independent' | 'address-dependent' | 'address-and-port-dependent' | null} mapping 'none': the host has the public address itself
 * @property {'preserved' | 'sequential' | 'random' | null} ports
 * @property {'endpoint-independent' | 'address-dependent' | 'address-and-port-dependent' | null} filtering
 * @property {boolean | null} hairpin
 * @property {boolean} tcp443
 * @property {boolean} tcpOther TCP to another port
 * @property {Found['mapping']} tcpMapping
 * @property {'refused' | 'dropped' | null} unsolicitedSyn what a SYN to a port without a mapping gets
 * @property {number | null} routers on the way to the server
 *
 * @typedef {object} Kind
 * @property {string} about one line
 * @property {number} hosts
 * @property {boolean} v4
 * @property {boolean} v6
 * @property {import('./nat.js').RouterRules[]} routers from the host outward; none puts the host on the street
 * @property {boolean} [isolated] the switch does not let its hosts talk to each other
 * @property {number} [udpSeconds] life of a UDP mapping, one-way or not
 * @property {{ v4: Partial<Found> | null, v6: Partial<Found> | null, neighbour?: boolean, udpSeconds?: number }} expected
 */

export const UDP_SECONDS = 120 // RFC 4787 REQ-5 wants two minutes at least
export const UDP_STREAM_SECONDS = 180 // the kernel's default for a mapping used both ways

const NO_PREFERENCE = {}

/** A plain home router: Linux masquerading. @type {Partial<Found>} */
const PORT_RESTRICTED = {
  udp: true,
  mapping: 'endpoint-independent',
  ports: 'preserved',
  filtering: 'address-and-port-dependent',
  hairpin: false,
  tcp443: true,
  tcpOther: true,
  tcpMapping: 'endpoint-independent',
  unsolicitedSyn: 'dropped',
  routers: 2,
}

/** An address of one's own and nothing in front of it. @type {Partial<Found>} */
const PUBLIC = {
  udp: true,
  mapping: 'none',
  ports: 'preserved',
  filtering: 'endpoint-independent',
  tcp443: true,
  tcpOther: true,
  tcpMapping: 'none',
  unsolicitedSyn: 'refused',
  routers: 1,
}

/** IPv6 behind a firewall that lets out and not in. @type {Partial<Found>} */
const FIREWALLED = {
  ...PUBLIC,
  filtering: 'address-and-port-dependent',
  unsolicitedSyn: 'dropped',
  routers: 2,
}

const SYMMETRIC = { mapping: 'address-and-port-dependent', tcpMapping: 'address-and-port-dependent' }
const NO_UDP = { udp: false, mapping: null, ports: null, filtering: null, hairpin: null, routers: null }

/** A home of IPv4 with one router. */
const home = (about, rules, differs, more = NO_PREFERENCE) => ({
  about,
  hosts: 1,
  v4: true,
  v6: false,
  routers: [rules],
  ...more,
  expected: { v4: { ...PORT_RESTRICTED, ...differs }, v6: null, udpSeconds: UDP_SECONDS, ...more.expected },
})

/** @type {Record<string, Kind>} */
export const kinds = {
  open: {
    about: 'a public address on the host, IPv4 and IPv6',
    hosts: 1,
    v4: true,
    v6: true,
    routers: [],
    expected: { v4: PUBLIC, v6: PUBLIC },
  },
  'full-cone': home('anybody may send to a mapped port', { filter: 'endpoint' }, { filtering: 'endpoint-independent' }),
  'address-restricted': home(
    'who was written to may answer, from any port',
    { filter: 'address' },
    { filtering: 'address-dependent' },
  ),
  'port-restricted': home('who was written to may answer, from that port', {}, {}),
  'port-restricted-rst': home(
    'the same, and a SYN nobody asked for is answered with RST',
    { reset: true },
    { unsolicitedSyn: 'refused' },
  ),
  'symmetric-random': home(
    'a random port for every destination',
    { ports: 'random' },
    { ...SYMMETRIC, ports: 'random' },
  ),
  'symmetric-sequential': home(
    'the next port for every destination',
    { ports: 'sequential' },
    { ...SYMMETRIC, ports: 'sequential' },
  ),
  'double-nat': home(
    'a home router behind the NAT of the provider',
    {},
    { routers: 3 },
    {
      routers: [{}, {}],
    },
  ),
  lan: home(
    'two hosts on one switch behind one NAT',
    {},
    {},
    {
      hosts: 2,
      expected: { neighbour: true },
    },
  ),
  'isolated-hairpin': home(
    'two hosts that only meet at the public address',
    { hairpin: true },
    { hairpin: true },
    { hosts: 2, isolated: true, expected: { neighbour: false } },
  ),
  'isolated-no-hairpin': home(
    'two hosts of one NAT that do not meet at all',
    {},
    {},
    { hosts: 2, isolated: true, expected: { neighbour: false } },
  ),
  'udp-blocked': home('TCP may leave, UDP may not', { outgoing: 'tcp' }, NO_UDP),
  'tcp443-only': home(
    'TCP to port 443 may leave, nothing else',
    { outgoing: 'tcp-443' },
    { ...NO_UDP, tcpOther: false },
  ),
  'ipv6-only': {
    about: 'IPv6 behind a firewall, no IPv4 at all',
    hosts: 1,
    v4: false,
    v6: true,
    routers: [{ nat: false }],
    expected: { v4: null, v6: FIREWALLED, udpSeconds: UDP_SECONDS },
  },
  'dual-stack': home(
    'IPv4 behind a port-restricted NAT, IPv6 behind a firewall',
    {},
    {},
    {
      v6: true,
      expected: { v6: FIREWALLED },
    },
  ),
  'short-mapping': home(
    'port-restricted, and forgets a UDP mapping after 30 s',
    {},
    {},
    {
      udpSeconds: 30,
      expected: { udpSeconds: 30 },
    },
  ),
}

/** How the way between `pub1` and `pub2` is; the settings are of each one's link. */
export const presets = {
  /** 60 ms there and back */
  clean: [{ delayMs: 15 }, { delayMs: 15 }],
  /** 60 ms, and of each direction 1 % is lost */
  lossy: [{ delayMs: 15, lossPercent: 1 }, { delayMs: 15 }],
  /** 200 ms, 0.1 % lost */
  far: [{ delayMs: 50, lossPercent: 0.1 }, { delayMs: 50 }],
  /** 60 ms, 100 Mbit/s */
  narrow: [{ delayMs: 15, rateMbit: 100 }, { delayMs: 15 }],
}
