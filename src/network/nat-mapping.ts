/**
 * How a NAT maps ports, as far as reflectors' answers tell (RFC 4787 section 4.1, RFC 5780 section 4.3).
 *
 *     a socket, asked by two reflectors     its mapping is
 *     seen as itself                        none: there is no NAT
 *     seen as one port by both              endpoint-independent: whoever is told that port can send to it
 *     seen as different ports               depends on the destination: the port that the next one will see is counted
 *                                           up from the last (sequential, by `step`) or cannot be told (random)
 *
 * Pure functions of what was seen; nat.ts goes and sees.
 */

import { isIP } from 'node:net'
import { type LocalAddress, scopeOf } from './address.ts'

/** How ports are mapped. `unknown`: fewer than two reflectors answered. */
export type NatMapping = 'none' | 'endpoint-independent' | 'sequential' | 'random' | 'unknown'

/** Of a reflector: a name will do. */
export interface HostPort {
  readonly host: string
  readonly port: number
}

/** One answer. Those of one local port are of different reflectors; all stand in the order in which they were asked for. */
export interface Observation {
  readonly localPort: number
  readonly mapped: HostPort
}

/** What follows from some observations. */
export interface Classified {
  mapping: NatMapping
  step?: number
  portPreserving?: boolean
}

// Ports. The largest step between two mappings of one moment that is still counting, with other flows in between.
const MAX_STEP = 64

// Mappings out of order that are still counting, and how close they are. A carrier's block of 128 ports or more, taken at
// random, hardly ever looks so.
const MIN_SHUFFLED = 4
const MAX_SHUFFLED_STEP = 8

// A NAT that counts goes through the ports that RFC 4787 section 4.2.2 leaves it, and starts over.
const FIRST_PORT = 1_024
const PORTS = 65_536 - FIRST_PORT

/** What observations say about the mapping. It takes two reflectors, and to tell a step three mappings. */
export function classify(observations: readonly Observation[], local: readonly LocalAddress[]): Classified {
  const own = new Set(local.map(({ host }) => host))
  const seen = farthest(observations, own)
  if (seen.length === 0) return { mapping: 'unknown' }
  const preserved = ({ localPort, mapped }: Observation): boolean => mapped.port === localPort
  if (seen.every((observation) => own.has(observation.mapped.host) && preserved(observation))) {
    return { mapping: 'none', portPreserving: true }
  }

  const sockets = byLocalPort(seen)
  const portPreserving = sockets.every((of) => of.some(preserved))
  // Another address each time: several lines out, or a carrier's pool. Nobody can be told where to send.
  if (new Set(seen.map(({ mapped }) => mapped.host)).size > 1) return { mapping: 'random', portPreserving }

  const asked = sockets.filter((of) => of.length > 1)
  if (asked.length === 0) return { mapping: 'unknown', portPreserving }
  if (asked.every((of) => of.every(({ mapped }) => mapped.port === of[0]!.mapped.port))) {
    return { mapping: 'endpoint-independent', portPreserving }
  }
  // A port that was kept was not counted, and one seen before is no new one.
  const counted = seen.filter((observation) => !preserved(observation)).map(({ mapped }) => mapped.port)
  const step = stepOf([...new Set(counted)])
  return step === undefined ? { mapping: 'random', portPreserving } : { mapping: 'sequential', step, portPreserving }
}

/**
 * The observations of those farthest away: where some see a public address, a reflector on the same network, or in the
 * same carrier's, knows only a part of the way. IPv4 before IPv6, which has no NAT to speak of.
 */
function farthest(all: readonly Observation[], own: ReadonlySet<string>): readonly Observation[] {
  const preferences: ((observation: Observation) => boolean)[] = [
    ({ mapped }) => isIP(mapped.host) === 4,
    ({ mapped }) => scopeOf(mapped.host) === 'public',
    ({ mapped }) => !own.has(mapped.host),
  ]
  return preferences.reduce((seen, prefer) => (seen.some(prefer) ? seen.filter(prefer) : seen), all)
}

function byLocalPort(observations: readonly Observation[]): Observation[][] {
  const sockets = new Map<number, Observation[]>()
  for (const observation of observations) {
    const of = sockets.get(observation.localPort)
    if (of === undefined) sockets.set(observation.localPort, [observation])
    else of.push(observation)
  }
  return [...sockets.values()]
}

/**
 * The step of a counter that gave these ports; undefined when they were not counted. Needs three, so two steps of one
 * direction, none of them large; among more, one may be off, where the counter jumped. Or all of them lie close together
 * in some order: they left in one moment, and overtook each other on the way.
 */
function stepOf(ports: readonly number[]): number | undefined {
  const steps = ports.slice(1).map((port, i) => distance(ports[i]!, port))
  for (const direction of [1, -1]) {
    const counted = steps.map((step) => step * direction).filter((step) => step > 0 && step <= MAX_STEP)
    // Other flows make a step longer, never shorter.
    if (counted.length >= Math.max(2, steps.length - 1)) return Math.min(...counted) * direction
  }
  if (ports.length < MIN_SHUFFLED) return undefined
  const sorted = ports.map((port) => distance(ports[0]!, port)).sort((a, b) => a - b)
  const gaps = sorted.slice(1).map((port, i) => port - sorted[i]!)
  if (gaps.some((gap) => gap > MAX_SHUFFLED_STEP)) return undefined
  const up = steps.filter((step) => step > 0).length
  return Math.min(...gaps) * (up * 2 >= steps.length ? 1 : -1)
}

/** How far a counter went from one port to the next, the short way round. */
function distance(from: number, to: number): number {
  const up = (((to - from) % PORTS) + PORTS) % PORTS
  return up > PORTS / 2 ? up - PORTS : up
}
