/**
 * `Session.why()` for people, on a screen:
 *
 *     path     relay: no direct path worked so far; the relay carries the data
 *     paths    every one there is, the one in use marked
 *     found by every medium that carried the offer, and what it cost
 *     tried    every attempt and its outcome
 *     network  both sides' NAT
 *     helps    what would make for a better path
 *
 * and as the one JSON line, in which what is not known is null.
 */
import type { NatSummary, PathAttempt, SignalingAttempt, WhyReport } from '../session/index.ts'
import { columns, formatBytes, formatMs, roundMs } from './output.ts'

/** Targets shown of one attempt: a predicted NAT has dozens, which all look alike. */
const MAX_TARGETS = 2

/** Candidates shown of one side. */
const MAX_CANDIDATES = 6

export function whyEvent({ path, local, remote, ...rest }: WhyReport): Record<string, unknown> {
  const rounded = <T extends object>(one: T): T =>
    Object.fromEntries(Object.entries(one).map(([key, value]) => [key, isMs(key, value) ? roundMs(value) : value])) as T
  return {
    event: 'why',
    path: path ?? null,
    local: local ?? null,
    remote: remote ?? null,
    ...rest,
    paths: rest.paths.map(rounded),
    attempts: rest.attempts.map(rounded),
    signaling: rest.signaling.map(rounded),
  }
}

const isMs = (key: string, value: unknown): value is number => typeof value === 'number' && /ms$/i.test(key)

export function whyLines(report: WhyReport): string[] {
  const { path, paths, attempts, signaling, local, remote, reasons, advice } = report
  const lines = [`why ${path ?? 'no path'}: ${reasons.join('; ') || 'nothing is known about it'}`]
  if (paths.length > 0) {
    lines.push('paths:', ...columns(paths.map(pathRow)))
  }
  if (signaling.length > 0) lines.push('found by:', ...columns(signaling.map(signalingRow)))
  if (attempts.length > 0) lines.push('tried:', ...columns(attempts.map(attemptRow)))
  lines.push(
    'network:',
    ...columns([
      ...sideRows('here', local, 'no address was told to the other side'),
      ...sideRows('there', remote, 'no address was told to us'),
    ]),
  )
  if (advice.length > 0) lines.push('what would help:', ...advice.map((one) => `  - ${one}`))
  return lines
}

function pathRow({
  active,
  kind,
  remote,
  stage,
  rttMs,
  sentBytes,
  deliveredBytesPerSecond,
}: WhyReport['paths'][number]) {
  const parts = [stage, `${formatBytes(sentBytes)} sent`]
  if (deliveredBytesPerSecond !== undefined) parts.push(`delivers ${formatBytes(deliveredBytesPerSecond)}/s`)
  // A relay path says itself that it is one.
  const where = remote.startsWith(`${kind} `) ? remote.slice(kind.length + 1) : remote
  return [`${active ? '*' : ' '} ${kind}`, where, rttMs === undefined ? '' : formatMs(rttMs), parts.join(', ')]
}

function attemptRow({ round, way, targets, outcome, detail, ms }: PathAttempt): string[] {
  const more = targets.length > MAX_TARGETS ? `, and ${targets.length - MAX_TARGETS} more` : ''
  const where = targets.length === 0 ? '' : ` [to ${targets.slice(0, MAX_TARGETS).join(', ')}${more}]`
  const took = outcome === 'skipped' ? '' : formatMs(ms)
  return [`round ${round}`, way, outcome, took, `${detail}${where}`]
}

function signalingRow({ medium, outcome, detail, ms, bytes, messages, price }: SignalingAttempt): string[] {
  const kept = messages === 0 ? '' : `, ${messages} message${messages === 1 ? '' : 's'} kept there`
  const paid = price === undefined || price.amount === 0 ? '' : `, ${price.amount} ${price.unit}`
  return [
    medium,
    outcome,
    formatMs(ms),
    `offer of ${formatBytes(bytes)}${kept}${paid}${detail === '' ? '' : `; ${detail}`}`,
  ]
}

function sideRows(side: string, nat: NatSummary | undefined, untold: string): string[][] {
  if (nat === undefined) return [[side, untold]]
  const { tcp, udp, candidates } = nat
  const shown = candidates.slice(0, MAX_CANDIDATES)
  const more = candidates.length - shown.length
  const found = shown.length === 0 ? 'no address' : `${shown.join(', ')}${more > 0 ? `, and ${more} more` : ''}`
  return [
    [side, `ports over TCP: ${portsText(tcp)}; over UDP: ${portsText(udp)}`],
    ['', `at ${found}`],
  ]
}

const PORTS: Readonly<Record<string, string>> = {
  none: 'no NAT',
  'endpoint-independent': 'one for all (endpoint-independent)',
  sequential: 'counted up (sequential)',
  random: 'random',
  unknown: 'not known',
}

/** How a NAT gives ports, in plain words. */
export function portsText(mapping: string): string {
  return PORTS[mapping] ?? mapping
}
