/**
 * The rules of a home router, as text for `nft -f`. `wan0` is the street, `lan0` the house.
 *
 * The kernel's own masquerading is a port-restricted NAT that keeps ports. The other kinds:
 * - random ports: `masquerade fully-random`
 * - sequential ports: a counter through a map, since the kernel no longer counts itself
 * - wider filters: a map of what stands behind each public port, kept by the packets that leave, read by those that come
 * - hairpin: the same map, read by packets from the house to the router's public address
 *
 * The terms of mapping and filtering are those of RFC 4787, section 4.1 and 5.
 */

/**
 * @typedef {object} RouterRules
 * @property {boolean} [nat] false routes and filters only, as IPv6 wants it; @default true
 * @property {'preserved' | 'random' | 'sequential'} [ports] how public ports are chosen; @default 'preserved'
 * @property {'endpoint' | 'address' | 'address-and-port'} [filter] @default 'address-and-port'
 * @property {boolean} [hairpin] hosts reach each other at the public address; @default false
 * @property {boolean} [reset] a SYN that nobody asked for is answered with RST; @default false, silence
 * @property {'all' | 'tcp' | 'tcp-443'} [outgoing] what may leave; @default 'all'
 */

const SEQUENTIAL_FROM = 20_000
const SEQUENTIAL_COUNT = 8_192 // then it starts again: a second use of a port must be long after the first
const REMEMBERED = 'flags dynamic,timeout; size 65535; timeout 120s' // after the last packet out; RFC 4787 REQ-5

const sequential = () => {
  const ports = Array.from({ length: SEQUENTIAL_COUNT }, (_, at) => `${at} : ${SEQUENTIAL_FROM + at}`).join(', ')
  return `:numgen inc mod ${SEQUENTIAL_COUNT} map { ${ports} }`
}

function masquerade(ports) {
  if (ports === 'random') return ['oifname "wan0" masquerade fully-random']
  if (ports === 'sequential') {
    return ['udp', 'tcp']
      .map((protocol) => `oifname "wan0" meta l4proto ${protocol} masquerade to ${sequential()}`)
      .concat('oifname "wan0" masquerade')
  }
  return ['oifname "wan0" masquerade']
}

const OUTGOING = {
  all: 'iifname "lan0" oifname "wan0" accept',
  tcp: 'iifname "lan0" oifname "wan0" meta l4proto != udp accept',
  'tcp-443': 'iifname "lan0" oifname "wan0" tcp dport 443 accept',
}

const chain = (name, hook, rules) => `  chain ${name} {\n    ${[hook, ...rules].join('\n    ')}\n  }`

/**
 * The whole ruleset; replaces what was there.
 *
 * @param {RouterRules} rules
 * @param {{ wan?: string, lan?: string }} addresses IPv4, the router's own
 */
export function ruleset(rules, { wan, lan } = {}) {
  const { nat = true, ports = 'preserved', filter = 'address-and-port' } = rules
  const { hairpin = false, reset = false, outgoing = 'all' } = rules
  const tables = [
    'flush ruleset',
    'table inet house {',
    chain('input', 'type filter hook input priority filter; policy drop;', [
      'ct state established,related accept',
      'iifname "lo" accept',
      ...(lan === undefined ? [] : [`iifname "lan0" ip daddr ${lan} accept`]),
      'icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept',
      'iifname "lan0" icmpv6 type echo-request accept',
      ...(reset ? ['iifname "wan0" meta l4proto tcp reject with tcp reset'] : []),
    ]),
    chain('forward', 'type filter hook forward priority filter; policy drop;', [
      'ct state established,related accept',
      'ct status dnat accept',
      OUTGOING[outgoing],
    ]),
    '}',
  ]
  if (!nat) return `${tables.join('\n')}\n`

  const behind = 'dnat to meta l4proto . th dport map @behind'
  const into = {
    'address-and-port': [],
    endpoint: [`iifname "wan0" ${behind}`],
    address: [`iifname "wan0" ip saddr . meta l4proto . th dport @contacted ${behind}`],
  }[filter]
  const keep = filter !== 'address-and-port' || hairpin
  tables.push(
    'table ip nat {',
    ...(keep
      ? [
          `  map behind { type inet_proto . inet_service : ipv4_addr . inet_service; ${REMEMBERED}; }`,
          `  set contacted { type ipv4_addr . inet_proto . inet_service; ${REMEMBERED}; }`,
          // After translation: the source is the public port, and conntrack knows who stands behind it.
          chain('remember', 'type filter hook postrouting priority srcnat + 1; policy accept;', [
            'oifname != "wan0" accept',
            'meta l4proto { tcp, udp } ct direction original update @behind { meta l4proto . th sport : ct original ip saddr . ct original proto-src }',
            'meta l4proto { tcp, udp } ct direction reply update @behind { meta l4proto . th sport : ct reply ip saddr . ct reply proto-src }',
            'meta l4proto { tcp, udp } update @contacted { ip daddr . meta l4proto . th sport }',
          ]),
        ]
      : []),
    chain('inward', 'type nat hook prerouting priority dstnat; policy accept;', [
      ...into,
      ...(hairpin ? [`iifname "lan0" ip daddr ${wan} ${behind}`] : []),
    ]),
    chain('outward', 'type nat hook postrouting priority srcnat; policy accept;', [
      ...masquerade(ports),
      ...(hairpin ? [`oifname "lan0" ct status dnat snat to ${wan}`] : []),
    ]),
    '}',
  )
  return `${tables.join('\n')}\n`
}

/** Drops every UDP packet of a namespace, what passes through and its own, whatever else its rules say. */
export const UDP_BLOCK = `table inet chaos {
${chain('arriving', 'type filter hook prerouting priority raw; policy accept;', ['meta l4proto udp drop'])}
${chain('leaving', 'type filter hook output priority raw; policy accept;', ['meta l4proto udp drop'])}
}
`
