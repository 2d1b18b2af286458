/**
 * Votes on an address that is ours, by others who see it, and of whom some may be wrong, or lie.
 *
 *     networks of the voters   198.51/16   203.0/16   192.0/16   20.4/16
 *     each voter says          A  A  B     A          A          B          A: 4 voters, 3 networks of 4: agreed
 *                                                                          B: 2 voters, 2 networks of 4: outliers
 *
 * - A voter has one voice. Who says two things says nothing, and counts among those who do not agree.
 * - A network has one voice for each address, however many voters are in it: one hand may hold all of it.
 * - `elect` is for all who vote here, web services (public-address.ts) and peers. Of peers it asks besides for more than half
 *   of all networks, with those that keep silent: nobody is early, or keeps others from answering, for his advantage.
 *
 * What this holds: as long as liars sit in at most half of the networks that were asked, no lie is agreed on. What it cannot
 * hold: liars in more than half of the networks, who all say the same, are the truth for whoever has nothing but votes.
 *
 * Pure functions. Who asks peers, and makes sure that none chooses the network it votes in, is protocol/seen-quorum.ts.
 */
import { PeerlineError } from '../errors.ts'
import { bytesToIp, formatHostPort, ipToBytes, type LocalAddress, masked, toSocketAddress } from './address.ts'
import type { TransportView } from './nat.ts'
import { classify, type HostPort } from './nat-mapping.ts'

/** Observers that have to say the same: two may be one hand, and the third is in another network. */
const QUORUM = 3

/** Networks that they are in: the least that is not one hand. */
const NETWORKS = 2

/** Observers that a quorum may take: nobody asks more. */
export const MAX_QUORUM = 9

/**
 * Bits of an address that name the network of a peer. Anybody can be any number of peers, rent a /24 here and there, and be
 * given a /48 for nothing: what costs is to be at many providers, who hold about a /16 of IPv4 together, and get no less than
 * a /32 of IPv6 from their registry. Two honest peers in one such network have one voice: that is the price.
 */
const PEER_BITS = { 4: 16, 6: 32 } as const

/** What one voter says. */
export interface Vote {
  readonly voter: string
  readonly network: string
  readonly address: string
}

/** Who says one address. */
export interface Said {
  readonly address: string
  readonly supporters: readonly string[]
  /** Those that they are in, each once. */
  readonly networks: readonly string[]
}

export interface Tally {
  /** The one of most networks first, and then of most voters. */
  readonly said: readonly Said[]
  /** All who voted, also those who contradict themselves. */
  readonly voters: number
  readonly networks: ReadonlySet<string>
}

/** Counts votes. A voter is in the network of its first one. */
export function tally(votes: Iterable<Vote>): Tally {
  const voters = new Map<string, { network: string; says: Set<string> }>()
  for (const { voter, network, address } of votes) {
    const known = voters.get(voter)
    if (known === undefined) voters.set(voter, { network, says: new Set([address]) })
    else known.says.add(address)
  }
  const said = new Map<string, { supporters: string[]; networks: Set<string> }>()
  const networks = new Set<string>()
  for (const [voter, { network, says }] of voters) {
    networks.add(network)
    const [address] = says
    if (address === undefined || says.size > 1) continue
    const known = said.get(address) ?? { supporters: [], networks: new Set() }
    said.set(address, known)
    known.supporters.push(voter)
    known.networks.add(network)
  }
  const sorted = [...said].map(([address, { supporters, networks }]) => {
    return { address, supporters, networks: [...networks] }
  })
  sorted.sort((a, b) => b.networks.length - a.networks.length || b.supporters.length - a.supporters.length)
  return { said: sorted, voters: voters.size, networks }
}

/** What it takes to be believed. */
export interface Quorum {
  /** Voters that say the same. */
  readonly quorum: number
  /** Networks that they are in. */
  readonly networks: number
}

/**
 * Who wins: enough voters, in enough networks, in more than half of `of` networks, and in more than anybody else. On a tie
 * nobody does.
 * @param of 0: a plurality is enough
 */
export function elect({ said }: Tally, { quorum, networks }: Quorum, of: number): Said | undefined {
  const [first, second] = said
  if (first === undefined || first.supporters.length < quorum || first.networks.length < networks) return undefined
  if (2 * first.networks.length <= of || first.networks.length === second?.networks.length) return undefined
  return first
}

/** The network of an address, such as `203.0.0.0/16`: that many of its bits. What is no address is a network by itself. */
export function networkOf(host: string, bits: { readonly 4: number; readonly 6: number } = PEER_BITS): string {
  const address = toSocketAddress(host, 0)
  const bytes = ipToBytes(address?.host ?? '')
  if (address === undefined || bytes === undefined) return host
  const length = bits[address.family]
  return `${bytesToIp(masked(bytes, length))}/${length}`
}

// ---- peers that say what they see of us ----

/** How many peers have to agree. */
export interface QuorumSettings {
  /** Observers that have to say the same, 1 to 9. One alone is believed only where this says 1. @default 3 */
  readonly quorum?: number | undefined
  /** Networks that they have to be in, up to `quorum`. @default 2, or 1 with a quorum of 1 */
  readonly networks?: number | undefined
}

/** What an observer saw of us. */
export interface SeenBy {
  readonly observer: string
  /** The network that it is in, of the family that it saw; as we know it, not as it says. */
  readonly network: string
  readonly transport: 'udp' | 'tcp'
  /** The port that what it saw was sent from; absent where that is not known, as of a path. */
  readonly localPort?: number | undefined
  readonly mapped: HostPort
}

/** Somebody who was asked, could have seen us, and has said nothing; or nothing of one transport. */
export interface Silent {
  readonly network: string
  readonly transport?: 'udp' | 'tcp' | undefined
}

/** What is known of our address of one family. */
export type AddressVerdict = { readonly family: 4 | 6 } & (
  | ({
      readonly kind: 'agreed'
      /** What says another address, or contradicts itself. */
      readonly outliers: readonly SeenBy[]
      /** How ports are mapped, as those see it who agree. A port is in `mapped` when a quorum saw it, or where each sees another. */
      readonly udp: TransportView
      readonly tcp: TransportView
    } & Said)
  /** Enough have answered, and say different things. */
  | { readonly kind: 'disagreement'; readonly said: readonly Said[] }
  /** More have to say what most say: so many observers and networks at least. */
  | {
      readonly kind: 'too-few'
      readonly missing: { readonly observers: number; readonly networks: number }
      readonly said: readonly Said[]
    }
)

export interface VerdictOptions extends QuorumSettings {
  /** @default nobody */
  readonly silent?: readonly Silent[]
  /** This machine's addresses: who is seen from one of them is behind no NAT. */
  readonly local: readonly LocalAddress[]
}

/** @throws PeerlineError `ERR_PEERLINE_INVALID` */
export function readQuorum({ quorum = QUORUM, networks = Math.min(NETWORKS, quorum) }: QuorumSettings): Quorum {
  if (!(Number.isInteger(quorum) && quorum >= 1 && quorum <= MAX_QUORUM)) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `a quorum of peers is a whole number, 1 to ${MAX_QUORUM}`)
  }
  if (!(Number.isInteger(networks) && networks >= 1 && networks <= quorum)) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `a quorum of ${quorum} peers is in 1 to ${quorum} networks`)
  }
  return { quorum, networks }
}

/**
 * What observations say about our address of one family; those of another one are passed over. They stand in the order in
 * which they were asked for.
 * @throws PeerlineError `ERR_PEERLINE_INVALID` for a quorum that makes no sense
 */
export function verdictOn(
  family: 4 | 6,
  observations: readonly SeenBy[],
  { silent = [], local, ...settings }: VerdictOptions,
): AddressVerdict {
  const rule = readQuorum(settings)
  const seen = observations.filter(({ mapped }) => toSocketAddress(mapped.host, mapped.port)?.family === family)
  const counted = tally(seen.map((one) => ({ voter: one.observer, network: one.network, address: one.mapped.host })))
  const of = withSilent(counted, silent)
  const agreed = elect(counted, rule, of)
  if (agreed !== undefined) {
    const outliers = seen.filter(({ mapped }) => mapped.host !== agreed.address)
    const ofThose = seen.filter(({ observer }) => agreed.supporters.includes(observer))
    const view = (transport: 'udp' | 'tcp') => viewOf(transport, ofThose, silent, rule, local)
    return { family, kind: 'agreed', ...agreed, outliers, udp: view('udp'), tcp: view('tcp') }
  }
  const { said, voters, networks } = counted
  const enough = voters >= rule.quorum && networks.size >= rule.networks
  const contradictory = said.reduce((sum, { supporters }) => sum + supporters.length, 0) < voters
  if (enough && (said.length > 1 || contradictory)) return { family, kind: 'disagreement', said }
  const [first] = said
  const majority = Math.floor(of / 2) + 1
  const missing = {
    observers: Math.max(0, rule.quorum - (first?.supporters.length ?? 0)),
    networks: Math.max(0, Math.max(rule.networks, majority) - (first?.networks.length ?? 0)),
  }
  return { family, kind: 'too-few', missing, said }
}

/** How many networks there are, with those that keep silent: altogether, or of a transport. */
function withSilent({ networks }: Tally, silent: readonly Silent[], transport?: 'udp' | 'tcp'): number {
  const quiet = silent.filter((one) => one.transport === undefined || one.transport === transport)
  return new Set([...networks, ...quiet.map(({ network }) => network)]).size
}

/**
 * How ports are mapped. Where a quorum saw the same port, what others say of it does not count. Where each sees another one,
 * as of a NAT that is not endpoint-independent, a lie about one cannot be told from the truth: it costs a round of punching.
 */
function viewOf(
  transport: 'udp' | 'tcp',
  observations: readonly SeenBy[],
  silent: readonly Silent[],
  rule: Quorum,
  local: readonly LocalAddress[],
): TransportView {
  const probes = observations.flatMap((one) => {
    const { localPort } = one
    return one.transport === transport && localPort !== undefined ? [{ ...one, localPort }] : []
  })
  const counts: typeof probes = []
  const agreed: HostPort[] = []
  for (const localPort of new Set(probes.map((probe) => probe.localPort))) {
    const ofPort = probes.filter((probe) => probe.localPort === localPort)
    const counted = tally(
      ofPort.map(({ observer, network, mapped }) => ({ voter: observer, network, address: textOf(mapped) })),
    )
    const won = elect(counted, rule, withSilent(counted, silent, transport))
    const same = ofPort.filter(({ mapped }) => won === undefined || textOf(mapped) === won.address)
    counts.push(...same)
    if (won !== undefined) agreed.push(same[0]!.mapped)
  }
  const classified = classify(counts, local)
  const changing = classified.mapping === 'sequential' || classified.mapping === 'random'
  const mapped = new Map((changing ? counts.map((probe) => probe.mapped) : agreed).map((one) => [textOf(one), one]))
  return {
    state: probes.length > 0 ? 'ok' : 'unknown',
    ...classified,
    mapped: [...mapped.values()].flatMap(({ host, port }) => toSocketAddress(host, port) ?? []),
  }
}

const textOf = ({ host, port }: HostPort): string => formatHostPort(host, port)
