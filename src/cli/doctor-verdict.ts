/**
 * What follows from the facts of `peerline doctor`: which peers are reached directly, and what would help. Pure functions.
 *
 *     we \ they                   port open   ordinary   counted   random         UDP blocked
 *     anybody gets in             direct      direct     direct    direct         direct
 *     UDP fixed                   direct      direct     direct    by a search    as TCP can
 *     UDP counted                 direct      direct     direct    relay          as TCP can
 *     UDP random                  direct      a search   relay     relay          as TCP can
 *     no UDP, TCP fixed           direct      direct     direct    by a search    direct
 *     no UDP, TCP counted         direct      direct     direct    relay          direct
 *     no UDP, TCP random          direct      a search   relay     relay          a search
 *
 * An ordinary peer has a NAT that gives each of its ports one port outside, for UDP and TCP (RFC 4787 section 4.1), as most
 * home routers do; one whose UDP is blocked, the same for TCP. What can be done between which two is said in
 * connect/punch-plan.ts for UDP, and in connect/ways.ts for TCP.
 */
import { CLOCK_SKEW_MS } from '../handshake/index.ts'
import { scopeOf } from '../network/address.ts'
import type { TransportView } from '../network/nat.ts'
import { KEEP_ALIVE_MS, SHORT_KEEP_ALIVE_MS } from '../network/nat-lifetime.ts'
import type { NatDiagnosis } from '../network/nat-report.ts'
import type { DoctorFacts } from './doctor-facts.ts'
import { formatMs } from './output.ts'

/** Kinds of other peers, by what their IPv4 network does. */
export type PeerKind = 'open' | 'ordinary' | 'counted' | 'random' | 'udpBlocked'

export type Reach = Readonly<Record<PeerKind, 'yes' | 'no' | 'unknown'>>

/** What may be found: stable, for programs. docs/command.md lists them. */
export const FINDING_CODES = [
  'direct',
  'relayed',
  'anybody',
  'offline',
  'not-asked',
  'near-only',
  'only-ipv6',
  'too-few-reflectors',
  'reflector-not-found',
  'rendezvous-failed',
  'no-relay',
  'clock-off',
  'firewall',
  'udp-blocked',
  'udp-random',
  'udp-sequential',
  'tcp-random',
  'short-lifetime',
  'ipv6',
  'ipv6-blocked',
  'no-mapping',
  'mapping-refused',
  'mapped-not-public',
  'no-multicast',
  'no-hairpin',
  'no-udx',
  'no-webrtc',
] as const

export type FindingCode = (typeof FINDING_CODES)[number]

export interface Finding {
  readonly code: FindingCode
  /** `good` and `bad` decide how well peers connect; a `note` is for who wants to know. */
  readonly level: 'good' | 'note' | 'bad'
  /** For people: what is so, and what would help. */
  readonly text: string
}

export interface Verdict {
  /** At least one rendezvous or reflector answered. */
  readonly reached: boolean
  /** Which peers are reached directly, the others being relayed. */
  readonly reach: Reach
  readonly findings: readonly Finding[]
}

const KINDS: Readonly<Record<PeerKind, string>> = {
  open: 'peers with an open port',
  ordinary: 'peers behind ordinary routers',
  counted: 'peers whose router counts ports up',
  random: 'peers whose router gives random ports',
  udpBlocked: 'peers without UDP',
}

export function verdict(facts: DoctorFacts): Verdict {
  const outside = outsideOf(facts)
  const reached = outside.answered || facts.rendezvous.some((server) => server.reached)
  const reach = reachOf(facts, outside)
  return {
    reached,
    reach,
    findings: [
      ...reachFindings(facts, outside, reach, reached),
      ...serverFindings(facts, reach),
      ...natFindings(facts, outside),
      ...routerFindings(facts, outside),
      ...machineFindings(facts),
    ],
  }
}

/** What was seen of us from outside. */
interface Outside {
  /** A reflector answered. */
  readonly answered: boolean
  /** All that answered did so over IPv6. */
  readonly onlyIpv6: boolean
  /** Several reflectors of IPv4 were asked, and one answered: it may be that only some ports can be reached from here. */
  readonly onlyOne: boolean
  /** Somebody sees us at a public address: what is known holds for the whole way. */
  readonly isPublic: boolean
  /** Anybody may send to us: no NAT and no filter, or a port that the router maps. */
  readonly open: 'public' | 'mapped' | false
  readonly udp: TransportView['mapping'] | 'none at all'
  readonly tcp: TransportView['mapping'] | 'none at all'
}

function outsideOf({ nat, router, packages }: DoctorFacts): Outside {
  const { udp, tcp, ipv6 } = nat ?? {}
  const ipv4 = [udp, tcp].some((view) => view?.state === 'ok')
  const answered = ipv4 || (ipv6?.mapped.length ?? 0) > 0
  const asked = nat?.reflectors.filter(({ host }) => !host.includes(':')).length ?? 0
  const mapped = [...(udp?.mapped ?? []), ...(tcp?.mapped ?? []), ...(ipv6?.mapped ?? [])]
  const isPublic = mapped.some(({ host }) => scopeOf(host) === 'public')
  const unfiltered = udp?.mapping === 'none' && udp.filtering === 'endpoint-independent'
  return {
    answered,
    onlyIpv6: answered && !ipv4,
    onlyOne: asked > 1 && udp?.state !== 'ok' && tcp?.state === 'ok' && tcp.mapping === 'unknown',
    isPublic,
    open: router?.mapping.some(({ reachable }) => reachable) ? 'mapped' : unfiltered && isPublic ? 'public' : false,
    udp: packages['udx-native'] === null || udp?.state !== 'ok' ? 'none at all' : udp.mapping,
    tcp: tcp?.state === 'ok' ? tcp.mapping : 'none at all',
  }
}

function reachOf({ nat }: DoctorFacts, { answered, onlyIpv6, onlyOne, isPublic, open, udp, tcp }: Outside): Reach {
  const all = (one: Reach[PeerKind]): Reach => ({
    open: one,
    ordinary: one,
    counted: one,
    random: one,
    udpBlocked: one,
  })
  if (nat === undefined) return all('unknown')
  if (open !== false && !onlyIpv6) return all('yes')
  if (!answered || onlyIpv6) return all('no')
  // Of the router nothing is known: all that answered is on this side of it.
  if (!isPublic) return all('unknown')
  if (onlyOne) return all('unknown')
  const one = (...ways: readonly (boolean | undefined)[]): 'yes' | 'no' | 'unknown' =>
    ways.includes(true) ? 'yes' : ways.includes(undefined) ? 'unknown' : 'no'
  // undefined: it depends on what is not known.
  const by = (mapping: Outside['udp'], good: readonly Outside['udp'][]) =>
    mapping === 'unknown' ? undefined : good.includes(mapping)
  const fixed = ['none', 'endpoint-independent'] as const
  const predictable = [...fixed, 'sequential'] as const
  const any = [...predictable, 'random'] as const
  return {
    open: 'yes',
    ordinary: one(by(udp, any), by(tcp, any)),
    counted: one(by(udp, predictable), by(tcp, predictable)),
    // Where UDP gets out, TCP is not searched.
    random: one(by(udp, fixed), udp === 'none at all' && by(tcp, fixed)),
    udpBlocked: one(by(tcp, any)),
  }
}

function serverFindings({ rendezvous }: DoctorFacts, reach: Reach): Finding[] {
  const found: Finding[] = rendezvous.flatMap((server): Finding[] => {
    const { url } = server
    if (!server.reached) return [{ code: 'rendezvous-failed', level: 'bad', text: `${failureText(server)}.` }]
    const off = Math.abs(server.clockOffsetMs)
    if (off < CLOCK_SKEW_MS / 2) return []
    const text = `The clock of this machine and that of ${url} are ${Math.round(off / 1000)} s apart: peers refuse each other at ${CLOCK_SKEW_MS / 1000} s. Set the clock.`
    return [{ code: 'clock-off', level: 'bad', text }]
  })
  const online = rendezvous.filter((server) => server.reached)
  if (online.length > 0 && online.every(({ relay }) => !relay)) {
    const needed = Object.values(reach).includes('no')
    const text = 'No relay is to be had: peers that are not reached directly are not reached at all.'
    found.push({ code: 'no-relay', level: needed ? 'bad' : 'note', text })
  }
  return found
}

/** Why a rendezvous was not reached, with its name. */
export function failureText({ url, message }: { url: string; message: string }): string {
  const said = message.replace(/[.\s]+$/, '')
  return said.includes(url) ? said : `${url}: ${said}`
}

function reachFindings(facts: DoctorFacts, outside: Outside, reach: Reach, reached: boolean): Finding[] {
  const { nat, notFound, router } = facts
  const found: Finding[] = notFound.map((name) => ({
    code: 'reflector-not-found',
    level: 'bad',
    text: `${name} leads to no address.`,
  }))
  if (nat === undefined) {
    const text = 'Nobody outside was asked: name a server with --rendezvous, or a STUN server with --reflector.'
    return [...found, { code: 'not-asked', level: 'note', text }]
  }
  if (outside.open === 'mapped' && !outside.onlyIpv6) {
    const via = router!.mapping.find(({ reachable }) => reachable)!.via
    const text = `Any peer reaches this machine directly: the router maps ports to it (${LANGUAGES[via]}).`
    return [...found, { code: 'anybody', level: 'good', text }]
  }
  if (outside.open === 'public') {
    const text = 'Any peer reaches this machine directly: its address is public, and nothing filters what comes in.'
    return [...found, { code: 'anybody', level: 'good', text }]
  }
  if (!outside.answered) {
    const text = reached
      ? 'A rendezvous is reached, but no reflector answers, over UDP or TCP: everything is relayed. The network lets out only what goes to some ports.'
      : 'Nothing outside answers. Is this machine online, and does a firewall let it out?'
    return [...found, { code: reached ? 'relayed' : 'offline', level: 'bad', text }]
  }
  if (outside.onlyIpv6) {
    const text = 'Only IPv6 gets out: peers that have it too are reached directly, all others are relayed.'
    return [...found, { code: 'only-ipv6', level: 'bad', text }]
  }
  if (!outside.isPublic) {
    const text =
      'All that answered is on this machine or its network: what the router does is not known. Name a server beyond it.'
    return [...found, { code: 'near-only', level: 'note', text }]
  }
  const kinds = (wanted: Reach[PeerKind]) =>
    (Object.keys(KINDS) as PeerKind[]).filter((kind) => reach[kind] === wanted).map((kind) => KINDS[kind])
  const direct = kinds('yes')
  const relayed = kinds('no')
  if (direct.length > 0) found.push({ code: 'direct', level: 'good', text: `Reached directly: ${list(direct)}.` })
  if (relayed.length > 0) found.push({ code: 'relayed', level: 'bad', text: `Relayed: ${list(relayed)}.` })
  const open = kinds('unknown')
  if (open.length > 0) {
    const why = outside.onlyOne
      ? 'Of several reflectors only one answers, over TCP: either they are hidden, or this network lets out only what goes to some ports, and everything is relayed'
      : 'It takes two reflectors to tell how ports are given'
    const text = `Not known: ${list(open)}. ${why}. Name another with --reflector.`
    found.push({ code: 'too-few-reflectors', level: 'note', text })
  }
  return found
}

function natFindings({ nat, router }: DoctorFacts, outside: Outside): Finding[] {
  if (nat === undefined || !outside.answered) return []
  const { udp, tcp, ipv6 } = nat
  const found: Finding[] = []
  const add = (code: FindingCode, level: Finding['level'], text: string) => found.push({ code, level, text })
  const open = outside.open !== false
  // What the router itself said, routerFindings tells.
  const help = router === undefined ? ` ${FORWARD}` : ''
  if (udp.state === 'blocked') {
    add(
      'udp-blocked',
      'bad',
      'The network lets no UDP out: direct paths are TCP alone. Allow UDP, or forward a TCP port.',
    )
  }
  if (!open && udp.mapping === 'random') {
    const text = `Over UDP, every connection gets a random port: others search for it, which takes about a second.${help}`
    add('udp-random', 'bad', text)
  }
  if (!open && udp.mapping === 'sequential') {
    add('udp-sequential', 'note', `Over UDP, ports are counted up: others predict them, which mostly works.${help}`)
  }
  if (!open && tcp.mapping === 'random' && udp.mapping !== 'random') {
    const so = udp.state === 'ok' ? 'direct paths are mostly UDP' : 'others search for it, which takes some seconds'
    add('tcp-random', 'note', `Over TCP, every connection gets a random port: ${so}.`)
  }
  if (outside.isPublic && !open && udp.mapping === 'none' && isFiltered(udp)) {
    add('firewall', 'note', 'The address is public, but a firewall lets in only what was asked for.')
  }
  const life = udp.lifetimeMs
  if (life?.below !== undefined && life.below <= KEEP_ALIVE_MS + 5_000) {
    const text = `The router forgets a UDP port that is idle for ${formatMs(life.below)}: UDP paths are kept alive every ${formatMs(SHORT_KEEP_ALIVE_MS)}, which costs a little.`
    add('short-lifetime', 'note', text)
  }
  if (outside.onlyIpv6) return found
  if (ipv6.mapped.length > 0) add('ipv6', 'good', 'IPv6 works: with peers that have it too, no NAT is in the way.')
  else if (ipv6.udp === 'blocked' && ipv6.tcp === 'blocked') {
    add('ipv6-blocked', 'note', 'This machine has an IPv6 address, but nothing answers over it.')
  }
  return found
}

const FORWARD = 'An open port would spare it: switch on UPnP or PCP on the router, or forward a port.'

const LANGUAGES = { pcp: 'PCP', natpmp: 'NAT-PMP', upnp: 'UPnP' } as const

function routerFindings({ router, nat }: DoctorFacts, outside: Outside): Finding[] {
  if (router === undefined || outside.open !== false) return []
  const behindNat = [nat?.udp, nat?.tcp].some((view) => view?.state === 'ok' && view.mapping !== 'none')
  const of = (outcome: string) => router.mapping.find((one) => one.outcome === outcome)
  const mapped = of('mapped')
  if (mapped !== undefined) {
    const text = `The router maps ports (${LANGUAGES[mapped.via]}), but to ${mapped.external}, which is not public: another NAT stands beyond it.`
    return [{ code: 'mapped-not-public', level: 'note', text }]
  }
  const refused = of('refused')
  if (refused !== undefined) {
    const text = `The router speaks ${LANGUAGES[refused.via]}, but maps nothing: ${refused.detail}. Allow it there.`
    return [{ code: 'mapping-refused', level: 'note', text }]
  }
  if (!behindNat) return []
  const text =
    'UPnP, NAT-PMP and PCP are off on the router: with one of them, any peer would reach this machine directly, unless another NAT stands beyond.'
  return [{ code: 'no-mapping', level: 'note', text }]
}

function machineFindings({ lan, packages, nat }: DoctorFacts): Finding[] {
  const found: Finding[] = []
  const add = (code: FindingCode, level: Finding['level'], text: string) => found.push({ code, level, text })
  if (packages['udx-native'] === null) {
    add(
      'no-udx',
      'bad',
      'No path goes over UDP: the optional package udx-native is not installed, or has no build here.',
    )
  }
  if (packages['node-datachannel'] === null) {
    add('no-webrtc', 'note', 'No path goes over WebRTC: the optional package node-datachannel is not installed.')
  }
  if (lan !== undefined && lan.links > 0 && !lan.multicast) {
    add(
      'no-multicast',
      'note',
      'Multicast does not come through: peers on this network are found by a rendezvous alone.',
    )
    if (nat?.udp.hairpin === 'no') {
      add('no-hairpin', 'note', 'The router does not connect two of its own by their outside addresses either.')
    }
  }
  return found
}

function isFiltered({ filtering }: NatDiagnosis['udp']): boolean {
  return filtering !== 'endpoint-independent' && filtering !== 'unknown'
}

function list(items: readonly string[]): string {
  return items.length < 2 ? items.join() : `${items.slice(0, -1).join(', ')} and ${items.at(-1)}`
}
