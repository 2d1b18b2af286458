/**
 * Who is where. The core is a router between everybody:
 *
 *   server    20.1.0.10 and 20.2.0.10   2a05:1::10 and 2a05:2::10     5 ms
 *   reflector 20.3.0.10                 2a05:3::10                    5 ms
 *   pub1      20.4.0.10                 2a05:4::10                   15 ms, or as the preset says
 *   pub2      20.5.0.10                 2a05:5::10
 *   home n    21.n.0.10                 2a05:100+n:k::/48            15 ms (n in hexadecimal)
 *
 * These look public to software, and nothing here has a route to the outside. A home that changes its address goes from
 * .10 to .11 and from k = 1 to 2. Inside every home is the same 192.168.1.0/24, as in life: the router is .1, hosts are
 * .(10 + n) and up; who roams comes to 172.20.1.0/24, and back. Between a home router and its provider's NAT lies 100.64.n.0/24.
 *
 * Neighbours across a link are entered for good, so that no packet waits for ARP over a long cable.
 */

export const GATEWAY_V4 = '20.0.0.1' // the core, from every link
export const CORE_V6 = '2a05::1'
export const GATEWAY_V6 = 'fe80::1'
export const STREET_V6 = 'fe80::2' // the other end, to the core
export const MOST_HOMES = 200 // of a lab: the second number of their addresses

export const publicHosts = {
  server: { v4: ['20.1.0.10', '20.2.0.10'], v6: ['2a05:1::10', '2a05:2::10'], delayMs: 5 },
  reflector: { v4: ['20.3.0.10'], v6: ['2a05:3::10'], delayMs: 5 },
  pub1: { v4: ['20.4.0.10'], v6: ['2a05:4::10'], delayMs: 15 },
  pub2: { v4: ['20.5.0.10'], v6: ['2a05:5::10'], delayMs: 15 },
}

export const HOME_DELAY_MS = 15 // one way: 40 ms to the server and back, 60 from home to home, 80 by way of the server

export const streetV4 = (home, change) => `21.${home}.0.${10 + change}`
const prefix = (home) => `2a05:${(0x100 + home).toString(16)}`
export const routedV6 = (home) => `${prefix(home)}::/32`
export const streetV6 = (home, change) => `${prefix(home)}:${(change + 1).toString(16)}::10`
export const insideV6 = (home, change, last) => `${prefix(home)}:${(change + 1).toString(16)}:1:1::${last.toString(16)}`

export const insideV4 = (home, host) => `192.168.1.${10 + home + host}`
export const INSIDE_ROUTER_V4 = '192.168.1.1'
export const roamedV4 = (home, host) => `172.20.1.${10 + home + host}`
export const ROAMED_ROUTER_V4 = '172.20.1.1'
export const providerV4 = (home, layer) => `100.${63 + layer}.${home}.2`
export const providerRouterV4 = (home, layer) => `100.${63 + layer}.${home}.1`

/** The hardware address of one end of a link. */
export const mac = (link, end) => `02:50:4c:00:${link.toString(16).padStart(2, '0')}:0${end}`
