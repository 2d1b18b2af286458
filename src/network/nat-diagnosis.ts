/**
 * The thorough look at this machine's NAT, for `doctor` (RFC 5780 section 4). It takes seconds, and for the life of
 * mappings as long as it is told.
 *
 *     mapping    4.3  one socket, many reflectors: which see it as the same?
 *     filtering  4.4  a reflector answers from elsewhere: does it get in?
 *     hairpin    4.5  one socket sends to the mapped address of another
 *     lifetime   4.6  nat-lifetime.ts
 *     tcp, ipv6       do they get out at all, and as what?
 *
 * Filtering needs a reflector that answers from another port; all of it, one with another address. Only a reflector that
 * says where its answers come from is believed to have answered when nothing arrives.
 *
 * Places that reflectors name are asked too, a few, and only of their own scope.
 */

import { setMaxListeners } from 'node:events'
import { abortError } from '../errors.ts'
import { formatHostPort, type LocalAddress, localAddresses, type SocketAddress, scopeOf } from './address.ts'
import { observeTcp, observeUdp, type TransportView } from './nat.ts'
import { type Change, changeRequest } from './nat-attributes.ts'
import { type MappingLife, searchMappingLife } from './nat-lifetime.ts'
import { newId, openProbes, type ProbeAnswer, type StunProbe } from './nat-probe.ts'
import {
  behaviourOf,
  type FilteringBehaviour,
  type Ipv6Diagnosis,
  type MappingBehaviour,
  type NatDiagnosis,
  type ReflectorReport,
  type UdpDiagnosis,
} from './nat-report.ts'
import { reflectTcp } from './reflect.ts'

export type DiagnosisStep = 'mapping' | 'filtering' | 'hairpin' | 'lifetime' | 'tcp' | 'ipv6'

export interface DiagnoseOptions {
  /** Where reflectors are: see `resolveReflectors`. */
  readonly reflectors: readonly SocketAddress[]
  readonly signal: AbortSignal
  /** Told when a step begins and ends. @default nobody */
  readonly onProgress?: (progress: { step: DiagnosisStep; state: 'started' | 'finished' }) => void
  /** How long to wait for a mapping to go, ms; 0: do not. @default 35_000 */
  readonly longestIdleMs?: number
  /** The waits tried, ms. @default 10, 20, 35, 65 and 125 s */
  readonly idlesMs?: readonly number[]
  /** ms to wait for each answer. @default 2_500 */
  readonly timeoutMs?: number
  /** This machine's addresses. @default localAddresses() */
  readonly local?: LocalAddress[]
}

/** ms for an answer: three requests, at 0, 0.5 and 1.5 s. */
const ANSWER_MS = 2_500

/** Places asked, those that reflectors name among them. */
const MAX_PLACES = 8

/** A reflector that answered over UDP, and what it told of itself. */
interface Known {
  readonly place: SocketAddress
  readonly answer: Seen
  /** Its place with another address and another port, or with another port alone. */
  readonly across: SocketAddress | undefined
}

type Seen = ProbeAnswer & { kind: 'seen' }

/**
 * Looks at everything there is to know. Takes at least `longestIdleMs`.
 * @throws PeerlineError what the signal says, or `ERR_PEERLINE_INVALID` when no socket can be had
 */
export async function diagnoseNat(options: DiagnoseOptions): Promise<NatDiagnosis> {
  const { reflectors, local = localAddresses() } = options
  if (options.signal.aborted) throw abortError(options.signal, 'the diagnosis')
  const signal = AbortSignal.any([options.signal])
  setMaxListeners(0, signal) // each question of the many that are open at once listens to it
  const started = performance.now()
  const v4 = reflectors.filter(({ family }) => family === 4).slice(0, MAX_PLACES)
  const v6 = reflectors.filter(({ family }) => family === 6).slice(0, MAX_PLACES)
  const run = new Run({ ...options, signal }, local)

  // Alone: other traffic would spoil the count of a NAT that counts.
  const { known, ...mapping } = await run.step('mapping', () => run.mapping(v4))
  const speaker = known.find(({ answer }) => answer.origin !== undefined)
  const anybody = speaker ?? known[0]
  const rest = [
    run.step('filtering', () => run.filtering(speaker)),
    run.step('hairpin', () => run.hairpin(anybody, mapping.mappingBehaviour)),
    run.step('lifetime', () => run.lifetime(anybody)),
    run.step('tcp', () => observeTcp(v4, { signal, local, timeoutMs: run.timeoutMs })),
    run.step('ipv6', () => run.ipv6(v6)),
  ] as const
  await Promise.allSettled(rest) // when one fails the others end too, and close what they opened
  const [filtering, hairpin, lifetimeMs, tcp, ipv6] = await Promise.all(rest)
  const blocked = mapping.state === 'unknown' && tcp.state === 'ok'
  return {
    tookMs: Math.round(performance.now() - started),
    local,
    reflectors: [...v4, ...v6].map((place) => report(place, known)),
    udp: {
      ...mapping,
      ...(blocked ? { state: 'blocked' as const } : {}),
      filtering,
      hairpin,
      ...(lifetimeMs === undefined ? {} : { lifetimeMs }),
    },
    tcp,
    ipv6,
  }
}

/** The steps, with what they share. */
class Run {
  readonly timeoutMs: number
  readonly #options: DiagnoseOptions
  readonly #local: readonly LocalAddress[]

  constructor(options: DiagnoseOptions, local: readonly LocalAddress[]) {
    this.timeoutMs = options.timeoutMs ?? ANSWER_MS
    this.#options = options
    this.#local = local
  }

  async step<T>(step: DiagnosisStep, work: () => Promise<T>): Promise<T> {
    this.#options.onProgress?.({ step, state: 'started' })
    const result = await work()
    this.#options.onProgress?.({ step, state: 'finished' })
    return result
  }

  async mapping(
    places: readonly SocketAddress[],
  ): Promise<Omit<UdpDiagnosis, 'filtering' | 'hairpin' | 'lifetimeMs'> & { known: Known[] }> {
    return withProbes(1, 4, async ([probe]) => {
      const known = await this.#meet(probe!, places)
      const seen = known.map(({ place, answer }) => ({ place, mapped: answer.mapped }))
      const wanted = new Map(known.flatMap(placesOf).map((place) => [formatHostPort(place.host, place.port), place]))
      for (const { place } of known) wanted.delete(formatHostPort(place.host, place.port))
      const rest = [...wanted.values()].slice(0, Math.max(0, MAX_PLACES - known.length))
      const more = await Promise.all(rest.map((place) => this.#ask(probe!, place)))
      for (const [i, answer] of more.entries()) {
        if (answer?.kind === 'seen') seen.push({ place: rest[i]!, mapped: answer.mapped })
      }
      const { signal } = this.#options
      const asked = seen.map(({ place }) => place)
      const view = await observeUdp(probe!, asked, { signal, local: this.#local, timeoutMs: this.timeoutMs })
      return {
        ...view,
        mappingBehaviour: view.mapping === 'none' ? 'none' : behaviourOf(seen),
        mappingSeenFrom: { addresses: new Set(asked.map(({ host }) => host)).size, endpoints: asked.length },
        known,
      }
    })
  }

  /** Who answers, and what else they have; those that can change are asked once more what they have. */
  async #meet(probe: StunProbe, places: readonly SocketAddress[]): Promise<Known[]> {
    const answers = await Promise.all(places.map((place) => this.#ask(probe, place)))
    const known = await Promise.all(
      answers.map(async (answer, i) => {
        if (answer?.kind !== 'seen') return []
        const place = places[i]!
        if (answer.origin === undefined) return [{ place, answer, across: undefined }]
        // One that has another port but no other address tells only who sends a CHANGE-REQUEST.
        const more =
          answer.other === undefined ? await this.#ask(probe, place, { address: false, port: false }) : answer
        return [{ place, answer, across: more?.kind === 'seen' ? across(place, more.other) : undefined }]
      }),
    )
    return known.flat()
  }

  async filtering(known: Known | undefined): Promise<FilteringBehaviour> {
    if (known?.across === undefined) return 'unknown'
    const { place, across } = known
    // Each from a socket that has sent nowhere before: only then is it the filter that lets in.
    const tryChange = (change: Change): Promise<'passed' | 'filtered' | 'unknown'> =>
      withProbes(1, 4, async ([probe]) => {
        const answer = await this.#ask(probe!, place, change)
        if (answer === undefined) return 'filtered'
        return answer.kind === 'seen' && !isSame(answer.from, place) ? 'passed' : 'unknown'
      })
    const [all, port] = await Promise.all([
      across.host === place.host ? 'unknown' : tryChange({ address: true, port: true }),
      tryChange({ address: false, port: true }),
    ])
    if (all === 'passed') return 'endpoint-independent'
    if (port === 'filtered') return 'address-and-port-dependent'
    if (port === 'unknown') return 'unknown'
    return all === 'filtered' ? 'address-dependent' : 'at-most-address-dependent'
  }

  async hairpin(known: Known | undefined, behaviour: MappingBehaviour): Promise<UdpDiagnosis['hairpin']> {
    if (behaviour === 'none') return 'not-needed'
    if (known === undefined) return 'unknown'
    return withProbes(2, 4, async (probes) => {
      const answers = await Promise.all(probes.map((probe) => this.#ask(probe, known.place)))
      const mapped = answers.flatMap((answer) => (answer?.kind === 'seen' ? answer.mapped : []))
      if (mapped.length < 2) return 'unknown'
      // Both send, as a filter may let in only where something went out to.
      const heard = new AbortController()
      const wait = { signal: AbortSignal.any([heard.signal, this.#options.signal]), timeoutMs: this.timeoutMs }
      const ways = [0, 1].map(async (from) => {
        const transactionId = newId()
        const asked = probes[from]!.ask(mapped[1 - from]!, { ...wait, transactionId })
        const arrived = await probes[1 - from]!.hear(transactionId, wait).catch(() => undefined)
        if (arrived !== undefined) heard.abort() // nothing more needs to be sent, either way
        await asked.catch(() => {})
        return arrived !== undefined
      })
      const arrived = await Promise.all(ways)
      if (this.#options.signal.aborted) throw abortError(this.#options.signal, 'the diagnosis')
      return arrived.includes(true) ? 'yes' : 'no'
    })
  }

  async lifetime(known: Known | undefined): Promise<MappingLife | undefined> {
    if (known === undefined) return undefined
    const { signal, longestIdleMs, idlesMs } = this.#options
    return searchMappingLife(known.place, {
      signal,
      timeoutMs: this.timeoutMs,
      ...(longestIdleMs === undefined ? {} : { longestIdleMs }),
      ...(idlesMs === undefined ? {} : { idlesMs }),
    })
  }

  async ipv6(places: readonly SocketAddress[]): Promise<Ipv6Diagnosis> {
    const own = this.#local.filter(({ family }) => family === 6)
    const address = own.some(({ scope }) => scope === 'public')
    const [udp, tcp] = places.length === 0 ? [[], []] : await Promise.all([this.#udp6(places), this.#tcp6(places)])
    const mapped = [...udp, ...tcp]
    const stateOf = (answers: SocketAddress[]): TransportView['state'] => {
      if (answers.length > 0) return 'ok'
      return address && places.length > 0 ? 'blocked' : 'unknown'
    }
    const translated = mapped.some(({ host }) => !own.some((local) => local.host === host))
    return {
      address,
      udp: stateOf(udp),
      tcp: stateOf(tcp),
      mapped,
      ...(mapped.length === 0 ? {} : { translated }),
    }
  }

  async #udp6(places: readonly SocketAddress[]): Promise<SocketAddress[]> {
    const { signal } = this.#options
    const asked = withProbes(1, 6, ([probe]) => Promise.all(places.map((place) => this.#ask(probe!, place))))
    const answers = await asked.catch(() => []) // a machine without IPv6 has no such socket
    if (signal.aborted) throw abortError(signal, 'the diagnosis')
    return answers.flatMap((answer) => (answer?.kind === 'seen' ? answer.mapped : []))
  }

  async #tcp6(places: readonly SocketAddress[]): Promise<SocketAddress[]> {
    const { signal } = this.#options
    const options = { signal, timeoutMs: this.timeoutMs, family: 6 } as const
    const answers = await Promise.allSettled(places.map(({ host, port }) => reflectTcp(host, port, options)))
    if (signal.aborted) throw abortError(signal, 'the diagnosis')
    return answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []))
  }

  #ask(probe: StunProbe, place: SocketAddress, change?: Change): Promise<ProbeAnswer | undefined> {
    const { signal } = this.#options
    const attributes = change === undefined ? [] : [changeRequest(change)]
    return probe.ask(place, { signal, timeoutMs: this.timeoutMs, attributes })
  }
}

/** Opens sockets for some work, and closes them. */
async function withProbes<T>(count: number, family: 4 | 6, work: (probes: StunProbe[]) => Promise<T>): Promise<T> {
  const probes = await openProbes(count, family)
  try {
    return await work(probes)
  } finally {
    await Promise.all(probes.map((probe) => probe.close()))
  }
}

/** The other place that a reflector names; not one of another scope, for nobody may send us about in our own network. */
function across(place: SocketAddress, other: SocketAddress | undefined): SocketAddress | undefined {
  if (other === undefined || other.family !== place.family) return undefined
  if (scopeOf(other.host) === 'unspecified') return { ...other, host: place.host }
  return scopeOf(other.host) === scopeOf(place.host) ? other : undefined
}

/** All places of a reflector: its own, and those at the other corners. */
function placesOf({ place, across }: Known): SocketAddress[] {
  if (across === undefined) return [place]
  return [place, { ...place, port: across.port }, { ...across, port: place.port }, across]
}

function report(place: SocketAddress, known: readonly Known[]): ReflectorReport {
  const { host, port } = place
  const found = known.find((one) => isSame(one.place, place))
  const { across } = found ?? {}
  return {
    host,
    port,
    scope: scopeOf(host),
    ...(found === undefined ? {} : { udpRttMs: found.answer.rttMs }),
    ...(across === undefined ? {} : { changes: { address: across.host !== host, port: across.port !== port } }),
  }
}

function isSame(a: SocketAddress, b: SocketAddress): boolean {
  return a.host === b.host && a.port === b.port
}
