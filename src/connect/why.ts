/**
 * The explanation behind `Session.why()`: what was tried, how both NATs behave, and what follows from it.
 */
import { formatHostPort } from '../network/address.ts'
import type { Explanation, NatSummary, PathAttempt, Session } from '../session/index.ts'
import type { Candidate, ConnectionBody } from './candidate.ts'
import type { Vantage } from './ways.ts'

/** What is known of a session's ways. */
export interface Evidence {
  readonly session: Session
  readonly vantage: Vantage
  /** What the other side told of itself. */
  readonly remote: ConnectionBody | undefined
  readonly attempts: readonly PathAttempt[]
  /** No address of ours may show in this session. */
  readonly hidden: boolean
}

export function explain({ session, vantage, remote, attempts, hidden }: Evidence): Explanation {
  const local = hidden ? undefined : summary(vantage)
  const theirs = remote === undefined || remote.hidden ? undefined : summary(remote)
  return {
    attempts,
    local,
    remote: theirs,
    reasons: reasons(session, hidden, remote, attempts),
    advice: session.path === 'relay' && !hidden ? advice(vantage, remote, attempts) : [],
  }
}

function summary({ candidates, nat }: { candidates: readonly Candidate[]; nat?: ConnectionBody['nat'] }): NatSummary {
  return {
    tcp: nat?.tcp ?? 'unknown',
    udp: nat?.udp ?? 'unknown',
    candidates: candidates.map(({ kind, host, port }) => `${kind} ${formatHostPort(host, port)}`),
  }
}

function reasons(
  session: Session,
  hidden: boolean,
  remote: ConnectionBody | undefined,
  attempts: readonly PathAttempt[],
): string[] {
  const others = session.pathInfo.filter(({ proven, active }) => proven && !active).map(({ kind }) => kind)
  switch (session.path) {
    case undefined:
      return ['no path is proven yet']
    case 'relay':
      if (hidden) return ['relays alone were asked for: neither side tells the other its addresses']
      if (remote?.hidden) return ['the other side uses relays alone']
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
  if (mine.tcp === 'random' || theirs?.tcp === 'random') {
    const side = mine.tcp === 'random' ? 'This side' : 'The other side'
    found.push(
      `${side} has a NAT that gives every TCP connection a random port: a forwarded port would let TCP through.`,
    )
  }
  if (found.length === 0 && attempts.some(({ outcome }) => outcome === 'failed')) {
    found.push('A firewall on the way drops what comes from the other side: forward a port on either router.')
  }
  return found
}
