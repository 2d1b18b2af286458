/**
 * Finds out what every home really does, by asking from inside it, and compares that with its name. A lab whose NATs are
 * not what they are called proves nothing.
 *
 * In the manner of RFC 5780: a responder on two addresses and two ports of the server, and on the reflector, says what it
 * sees (mapping, choice of ports) and answers from elsewhere (filtering). Besides: hairpin (RFC 4787, 6), how many routers
 * are on the way (by TTL), TCP to 443 and elsewhere, what an unsolicited SYN gets, whether neighbours reach each other, and
 * how long a UDP mapping lives: what the router was told, and with `long` what it does.
 */

import { forEachOf, inNamespace, run } from './command.js'
import { LabError } from './errors.js'
import { kinds } from './kinds.js'

const SCRIPT = new URL('./probe-agent.js', import.meta.url)
const UDP_PORTS = [7780, 7781]
const TCP_PORTS = [443, 7780]
const CLOSED_PORT = 9 // nobody listens there: discard
const AT_ONCE = 16 // homes examined at a time: Node takes longer to start than to ask
const NEIGHBOUR_MS = 400
const SHORT_OF_MS = 10_000 // before a mapping's end it must still be there
const PAST_MS = 5_000 // after its end it must be gone

/**
 * @typedef {object} Report
 * @property {string} home
 * @property {string} kind
 * @property {Partial<import('./kinds.js').Found> | null} v4
 * @property {Partial<import('./kinds.js').Found> | null} v6
 * @property {boolean | null} neighbour two hosts of the home reach each other directly
 * @property {number | null} udpSeconds the shorter of a mapping's two lives, as the router has it
 * @property {{ before: boolean, after: boolean } | null} outlived an answer shortly before and after that life; long form
 * @property {import('./errors.js').Difference[]} differences from what the name promises
 */

/**
 * @param {import('./lab.js').Lab} lab
 * @param {{ long?: boolean }} [options]
 * @returns {Promise<Map<string, Report>>}
 */
export async function probe(lab, { long = false } = {}) {
  const reports = new Map()
  const responders = ['server', 'reflector'].map((name) => lab.host(name).agent(SCRIPT))
  try {
    await Promise.all(
      ['server', 'reflector'].map((name, at) => {
        const { v4, v6 } = lab.host(name).addresses
        return responders[at].ask('respond', { addresses: [...v4, ...v6], udpPorts: UDP_PORTS, tcpPorts: TCP_PORTS })
      }),
    )
    await forEachOf([...lab.homes.values()], long ? lab.homes.size : AT_ONCE, async (home) => {
      const report = await examineHome(lab, home, responders[0], long)
      reports.set(home.name, { ...report, differences: compare(report) })
    })
  } finally {
    await Promise.all(responders.map((responder) => responder.stop()))
  }
  return new Map([...lab.homes.keys()].map((name) => [name, reports.get(name)]))
}

/** Refuses what is not as it is called. @param {Map<string, Report>} reports */
export function verify(reports) {
  const differences = [...reports.values()].flatMap((report) => report.differences)
  if (differences.length === 0) return
  const lines = differences.map(
    ({ home, what, expected, found }) =>
      `${home}: ${what} is ${JSON.stringify(found)}, expected ${JSON.stringify(expected)}`,
  )
  throw new LabError('ERR_LAB_NAT_MISMATCH', `not what the names say\n  ${lines.join('\n  ')}`, { differences })
}

async function examineHome(lab, home, responder, long) {
  const agents = home.hosts.map((host) => host.agent(SCRIPT))
  try {
    const udpSeconds = await mappingLife(home)
    // Every host is examined: the second of a home may be cabled wrongly as well.
    const [each, neighbour, outlived] = await Promise.all([
      Promise.all(home.hosts.map((host, at) => examineHost(lab, host, agents[at], responder))),
      agents.length === 2 ? meets(home.hosts, agents) : null,
      long && udpSeconds !== null ? outlives(lab, home.host(), agents[0], udpSeconds) : null,
    ])
    const odd = each.slice(1).find((found) => JSON.stringify(found) !== JSON.stringify(each[0]))
    const { v4, v6 } =
      odd !== undefined && compare({ home: home.name, kind: home.kind, ...odd }).length > 0 ? odd : each[0]
    return { home: home.name, kind: home.kind, v4, v6, neighbour, udpSeconds, outlived }
  } finally {
    await Promise.all(agents.map((agent) => agent.stop()))
  }
}

/** What one host finds, for each family it has an address of. */
async function examineHost(lab, host, agent, responder) {
  const found = { v4: null, v6: null }
  await Promise.all(
    ['v4', 'v6'].map(async (family) => {
      const [local] = host.addresses[family]
      if (local === undefined) return
      const servers = lab.host('server').addresses[family]
      const [reflector] = lab.host('reflector').addresses[family]
      const where = { local, servers, reflector, udpPorts: UDP_PORTS, tcpPorts: TCP_PORTS }
      const { mapped, ...rest } = await agent.ask('examine', where)
      const syn = mapped === null ? null : await responder.ask('dial', { address: mapped, port: CLOSED_PORT })
      found[family] = { ...rest, unsolicitedSyn: syn?.outcome ?? null, mapped }
    }),
  )
  return found
}

/** Whether the first host's packet reaches the second over the switch. */
async function meets([from, to], [sender, receiver]) {
  const text = `from ${from.name}`
  const port = await receiver.ask('listen', { address: to.addresses.v4[0] })
  const fromPort = await sender.ask('listen', { address: from.addresses.v4[0] })
  await sender.ask('send', { fromPort, address: to.addresses.v4[0], port, text })
  return receiver.ask('heard', { port, text, withinMs: NEIGHBOUR_MS })
}

/** The shorter of the lives of a used and of an unanswered mapping, of all routers on the way. */
async function mappingLife({ routers }) {
  if (routers.length === 0) return null
  const files = ['', '_stream'].map((end) => `/proc/sys/net/netfilter/nf_conntrack_udp_timeout${end}`)
  const lives = await Promise.all(routers.map(({ namespace }) => run(...inNamespace(namespace, 'cat', files))))
  return Math.min(...lives.join('\n').trim().split(/\s+/).map(Number))
}

/** Answers that come shortly before and after a mapping's end, waited for at the same time. */
async function outlives(lab, host, agent, seconds) {
  const family = host.addresses.v4.length > 0 ? 'v4' : 'v6'
  const [local] = host.addresses[family]
  const [server] = lab.host('server').addresses[family]
  const answered = (idleMs) =>
    agent.ask('outlives', { local, server, port: UDP_PORTS[0], idleMs }, { timeoutMs: idleMs + 15_000 })
  const [before, after] = await Promise.all([
    answered(seconds * 1000 - SHORT_OF_MS),
    answered(seconds * 1000 + PAST_MS),
  ])
  return { before, after }
}

/** @returns {import('./errors.js').Difference[]} */
function compare({ home, kind, v4, v6, neighbour = null, udpSeconds = null, outlived = null }) {
  const { expected } = kinds[kind]
  const differences = []
  const check = (what, wanted, found) => {
    if (wanted !== undefined && wanted !== found) differences.push({ home, what, expected: wanted, found })
  }
  for (const [family, found] of Object.entries({ v4, v6 })) {
    const wanted = expected[family]
    check(family, wanted === null ? 'absent' : 'present', found === null ? 'absent' : 'present')
    if (wanted === null || found === null) continue
    for (const [key, value] of Object.entries(wanted)) check(`${family} ${key}`, value, found[key])
  }
  if (neighbour !== null) check('neighbour', expected.neighbour, neighbour)
  if (udpSeconds !== null) check('udpSeconds', expected.udpSeconds, udpSeconds)
  if (outlived !== null && (v4 ?? v6).udp) {
    check('a mapping shortly before its end', true, outlived.before)
    check('a mapping after its end', false, outlived.after)
  }
  return differences
}
