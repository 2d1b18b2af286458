/**
 * The explanation behind `Session.why()`: what was tried, how both NATs behave, and what follows from it.
 */
import { formatHostPort } from '../network/address.ts'
import type { Explanation, NatSummary, PathAttempt, Session, SignalingAttempt } from '../session/index.ts'
import type { Candidate, ConnectionBody } from './candidate.ts'
import type { Vantage } from './ways.ts'

/** What is known of a session's ways. */
export interface Evidence {
  readonly session: Session
  readonly vantage: Vantage
  /** What the other side told of itself. */
  readonly remote: ConnectionBody | undefined
  readonly attempts: readonly PathAttempt[]
  readonly signaling: readonly SignalingAttempt[]
  /** Which side shows no address, so that relays alone are used. */
  readonly hidden: 'no' | 'here' | 'there'
}

export function explain({ session, vantage, remote, attempts, signaling, hidden }: Evidence): Explanation {
  const local = hidden === 'here' ? undefined : summary(vantage)
  const theirs = remote === undefined || remote.hidden ? undefined : summary(remote)
  return {
    attempts,
    signaling,
    local,
    remote: theirs,
    reasons: reasons(session, hidden, attempts),
    advice: session.path === 'relay' && hidden === 'no' ? advice(vantage, remote, attempts) : [],
  }
}

function summary({ candidates, nat }: { candidates: readonly Candidate[]; nat?: ConnectionBody['nat'] }): NatSummary {
  return {
    tcp: nat?.tcp ?? 'unknown',
    udp: nat?.udp ?? 'unknown',
    candidates: candidates.map(({ kind, host, port }) => `${kind} ${formatHostPort(host, port)}`),
  }
}

function reasons(session: Session, hidden: Evidence['hidden'], attempts: readonly PathAttempt[]): string[] {
  const others = session.pathInfo.filter(({ proven, active }) => proven && !active).map(({ kind }) => kind)
  switch (session.path) {
    case undefined:
      return ['no path is proven yet']
    case 'relay':
      if (hidden === 'here') return ['relays alone were asked for: neither side tells the other its addresses']
      if (hidden === 'there') return ['the other side uses relays alone, and tells no address']
      return [
        attempts.length === 0
          ? 'no direct path has been tried yet'
          : 'no direct path worked so far; the relay carries the data',
      ]
    default:
      return [
        others.length === 0
          ? `${session.path} is direct, and the only proven path`
          : `${session.path} is the best proven path; ${others.join(' and ')} stands by`,
      ]
  }
}

/** What would help, the likeliest first. */
function advice(vantage: Vantage, remote: ConnectionBody | undefined, attempts: readonly PathAttempt[]): string[] {
  const found: string[] = []
  const theirs = remote?.nat
  const mine = vantage.nat
  const noUdp = (candidates: readonly Candidate[] | undefined) =>
    candidates !== undefined && !candidates.some(({ kind }) => kind === 'udp-srflx')
  if (mine.udp === 'random' && theirs?.udp === 'random') {
    found.push(
      'Both routers give every connection a random port, which nobody can guess: forward a port on one of them, or switch on UPnP or PCP there.',
    )
  }
  if (vantage.udp === undefined) {
    found.push('There is no UDP socket on this side: install the optional package udx-native.')
  } else if (noUdp(vantage.candidates)) {
    found.push('This side’s network lets no UDP out: allow it, or forward a TCP port.')
  }
  if (noUdp(remote?.candidates))
    found.push('The other side’s network lets no UDP out: allow it there, or forward a TCP port.')
  const counted = (mapping: string | undefined) => mapping === 'random' || mapping === 'sequential'
  if (found.length > 0 && counted(mine.tcp) && counted(theirs?.tcp)) {
    found.push('Both NATs give every TCP connection a new port: a port forwarded at one side would let TCP through.')
  }
  if (found.length === 0 && attempts.some(({ outcome }) => outcome === 'failed')) {
    found.push('A firewall on the way drops what comes from the other side: forward a port on either router.')
  }
  return found
}
