/**
 * What a peer learns about its own NAT, by asking reflectors what they see of it: in one round trip where the NAT is a
 * good one and they answer. What follows from their answers is in nat-mapping.ts; the thorough look is nat-diagnosis.ts.
 *
 * What reflectors say is hearsay: a lie makes punching fail, no worse.
 */

import { createServer } from 'node:net'
import { abortError, asPeerlineError } from '../errors.ts'
import { formatHostPort, type LocalAddress, type SocketAddress, toSocketAddress } from './address.ts'
import { type Classified, classify, type HostPort, type NatMapping, type Observation } from './nat-mapping.ts'
import { openProbes } from './nat-probe.ts'
import { resolveReflectors } from './nat-reflectors.ts'
import { reflectTcp } from './reflect.ts'

export { type Classified, classify, type HostPort, type NatMapping, type Observation } from './nat-mapping.ts'

/** A UDP socket that can ask reflectors from its own port. */
export interface Reflecting {
  readonly port: number
  reflect(host: string, port: number, options?: { signal?: AbortSignal; timeoutMs?: number }): Promise<SocketAddress>
}

/** What is known of one transport. */
export interface TransportView {
  /** `blocked`: nobody answered, though the network is there. */
  state: 'ok' | 'blocked' | 'unknown'
  mapping: NatMapping
  /** How far the next port is from the last one; only of a sequential mapping. */
  step?: number
  /** The addresses that the socket was seen from, each once. */
  mapped: SocketAddress[]
  /** True when the NAT keeps the local port where it can. Left out when nobody answered. */
  portPreserving?: boolean
  /** The shortest round trip to a reflector, ms. */
  rttMs?: number
}

export interface NatView {
  udp: TransportView
  tcp: TransportView
}

export interface ObserveOptions {
  readonly signal: AbortSignal
  /** This machine's addresses: who is seen from one of them is behind no NAT. */
  readonly local: readonly LocalAddress[]
  /** Whether the network is known to work otherwise, so that silence means a block. @default false */
  readonly online?: boolean
  /** ms to wait for the first answer. @default 1_500 */
  readonly timeoutMs?: number
}

/** ms for the first answer: a slow mobile network, and one repetition. Beyond, the answer would not be of use. */
const TIMEOUT_MS = 1_500

/** ms at least that a second reflector has after the first one answered, and in round trips of that one. */
const SECOND_MS = 250
const SECOND_ROUND_TRIPS = 3

/** Reflectors asked. Two would do; more, for some may be down or refuse. */
const MAX_ASKED = 4

/** Sockets opened to see how a NAT counts: with two reflectors, six mappings and five steps between them. */
const FRESH_SOCKETS = 3

/** What is known of TCP, from what several reflectors, or rendezvous, have seen of one local port or of several. */
export function classifyTcp(observations: readonly Observation[], local: readonly LocalAddress[]): TransportView {
  return viewOf(observations, local)
}

function viewOf(observations: readonly Observation[], local: readonly LocalAddress[], rttMs?: number): TransportView {
  const seen = new Map(observations.map(({ mapped }) => [formatHostPort(mapped.host, mapped.port), mapped]))
  return {
    state: observations.length > 0 ? 'ok' : 'unknown',
    ...classify(observations, local),
    mapped: [...seen.values()].flatMap(({ host, port }) => toSocketAddress(host, port) ?? []),
    ...(rttMs === undefined ? {} : { rttMs }),
  }
}

/**
 * How UDP gets out of this network, seen from `socket`. Takes one round trip, two where the NAT is not
 * endpoint-independent, and `timeoutMs` where nobody answers.
 * @throws PeerlineError what the signal says before anything is known, and nothing else
 */
export function observeUdp(
  socket: Reflecting,
  reflectors: readonly HostPort[],
  options: ObserveOptions,
): Promise<TransportView> {
  // Opened first and asked from later: what they send leaves in one go and in order.
  return observe(socket, openProbes, reflectors, options)
}

/**
 * How TCP gets out of this network, seen from a port that nothing else uses.
 * @throws PeerlineError what the signal says, and nothing else
 */
export async function observeTcp(reflectors: readonly HostPort[], options: ObserveOptions): Promise<TransportView> {
  if (options.signal.aborted) throw abortError(options.signal, 'observing the NAT')
  const [first] = await openTcp(1).catch(() => [])
  return first === undefined ? viewOf([], options.local) : observe(first, openTcp, reflectors, options)
}

/** A socket of our own. */
interface Fresh extends Reflecting {
  close(): Promise<void>
}

async function observe(
  socket: Reflecting,
  open: (count: number) => Promise<Fresh[]>,
  reflectors: readonly HostPort[],
  options: ObserveOptions,
): Promise<TransportView> {
  const { signal, local, online = false } = options
  if (signal.aborted) throw abortError(signal, 'observing the NAT')
  const asked = choose(reflectors)
  const hosts = Math.min(2, new Set(asked.map(({ host }) => host)).size)
  const answers = await askAll([socket], asked, options, (so) => {
    const { mapping } = classify(so, local)
    // Two ports of one host may be one to a NAT that goes by addresses: then another host has to agree.
    const agreed =
      mapping !== 'endpoint-independent' || new Set(so.map(({ reflector }) => reflector.host)).size >= hosts
    return so.length > 1 && mapping !== 'unknown' && agreed
  })
  const view = viewOf(answers, local, shortest(answers))
  if (answers.length === 0 && asked.length > 0 && online) view.state = 'blocked'
  if (view.mapping !== 'random' || answers.length < 2) return view

  // Mappings that are there since some time were not counted now: look at new ones.
  const counted = await lookAgain(open, answers, options).catch(() => undefined)
  if (counted?.mapping !== 'sequential') return view
  return { ...view, mapping: counted.mapping, ...(counted.step === undefined ? {} : { step: counted.step }) }
}

async function lookAgain(
  open: (count: number) => Promise<Fresh[]>,
  answers: readonly Answer[],
  options: ObserveOptions,
): Promise<Classified> {
  const fresh = await open(FRESH_SOCKETS)
  try {
    // Names first become addresses: looking them up would shuffle what is sent.
    const [first] = answers
    const two = [first, answers.find(({ mapped }) => mapped.port !== first?.mapped.port)]
    const names = two.flatMap((answer) =>
      answer === undefined ? [] : formatHostPort(answer.reflector.host, answer.reflector.port),
    )
    const found = await resolveReflectors(names, { signal: options.signal, trusted: true })
    const reflectors = found.filter(({ family }) => family === 4)
    const wanted = fresh.length * reflectors.length
    return classify(await askAll(fresh, reflectors, options, (so) => so.length === wanted), options.local)
  } finally {
    await Promise.all(fresh.map((probe) => probe.close()))
  }
}

interface Answer extends Observation {
  readonly reflector: HostPort
  readonly rttMs: number
}

/** Those to ask: each once, one of every host before the second of any. */
function choose(reflectors: readonly HostPort[]): HostPort[] {
  const once = new Map(reflectors.map((reflector) => [formatHostPort(reflector.host, reflector.port), reflector]))
  const each = [...once.values()]
  const isFirst = ({ host }: HostPort, i: number): boolean => each.findIndex((other) => other.host === host) === i
  return [...each.filter(isFirst), ...each.filter((one, i) => !isFirst(one, i))].slice(0, MAX_ASKED)
}

const shortest = (answers: readonly Answer[]): number | undefined =>
  answers.length === 0 ? undefined : Math.min(...answers.map(({ rttMs }) => rttMs))

/**
 * Asks each reflector from each socket, all at once. Ends when `enough` says so, all have answered or failed, or the
 * others take much longer than the first. The answers are in the order of the questions.
 */
function askAll(
  sockets: readonly Reflecting[],
  reflectors: readonly HostPort[],
  { signal, timeoutMs = TIMEOUT_MS }: ObserveOptions,
  enough: (answers: readonly Answer[]) => boolean,
): Promise<Answer[]> {
  return new Promise((resolve, reject) => {
    const answers: (Answer | undefined)[] = []
    const stop = new AbortController()
    let left = sockets.length * reflectors.length
    let timer = setTimeout(() => finish(), timeoutMs)

    const finish = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
      if (stop.signal.aborted) return
      stop.abort()
      if (signal.aborted) reject(abortError(signal, 'observing the NAT'))
      else resolve(answers.filter((answer) => answer !== undefined))
    }
    const onAbort = (): void => finish()
    signal.addEventListener('abort', onAbort, { once: true })
    if (left === 0) return finish()

    const asked = performance.now()
    const ask = async (place: number, socket: Reflecting, reflector: HostPort): Promise<void> => {
      try {
        const mapped = await socket.reflect(reflector.host, reflector.port, { signal: stop.signal, timeoutMs })
        if (stop.signal.aborted) return
        const rttMs = Math.round((performance.now() - asked) * 10) / 10
        if (answers.length === 0) {
          clearTimeout(timer)
          timer = setTimeout(finish, Math.max(SECOND_MS, SECOND_ROUND_TRIPS * rttMs))
        }
        answers[place] = { localPort: socket.port, mapped, reflector, rttMs }
        if (enough(answers.filter((answer) => answer !== undefined))) finish()
      } catch {
        // refused, unreachable or silent: this one has nothing to tell
      }
      if (--left === 0) finish()
    }
    let place = 0
    for (const socket of sockets) for (const reflector of reflectors) void ask(place++, socket, reflector)
  })
}

/** Ports that were free a moment ago. Connections to different reflectors may leave from one. */
async function openTcp(count: number): Promise<Fresh[]> {
  const servers = Array.from({ length: count }, () => createServer())
  try {
    const ports = await Promise.all(
      servers.map(
        (server) =>
          new Promise<number>((resolve, reject) => {
            server.once('error', reject)
            server.listen(0, () => resolve((server.address() as { port: number }).port))
          }),
      ),
    )
    return ports.map((localPort) => ({
      port: localPort,
      reflect: (host, port, options) => reflectTcp(host, port, { ...options, localPort, family: 4 }),
      close: () => Promise.resolve(),
    }))
  } catch (error) {
    throw asPeerlineError(error, 'ERR_PEERLINE_INVALID', 'no local port is free')
  } finally {
    await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))))
  }
}
