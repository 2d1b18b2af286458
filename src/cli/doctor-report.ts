/**
 * The facts and the verdict of `peerline doctor` for people: what is so, room by room, and last what follows from it.
 */
import type { TransportView } from '../network/nat.ts'
import type { MappingLife } from '../network/nat-lifetime.ts'
import type { NatDiagnosis } from '../network/nat-report.ts'
import type { DoctorFacts } from './doctor-facts.ts'
import { PACKAGES, type PackageName } from './doctor-machine.ts'
import type { MappingFacts } from './doctor-router.ts'
import type { ServerFacts } from './doctor-server.ts'
import type { Finding, Verdict } from './doctor-verdict.ts'
import { columns, formatMs } from './output.ts'
import { portsText } from './why-report.ts'

/** Addresses outside that are shown of one transport: a random NAT gives another to each reflector. */
const MAX_MAPPED = 3

const MARKS: Readonly<Record<Finding['level'], string>> = { good: '+', note: '.', bad: '!' }

const LANGUAGES = { pcp: 'PCP', natpmp: 'NAT-PMP', upnp: 'UPnP' } as const

export function doctorLines(facts: DoctorFacts, { findings }: Verdict): string[] {
  const { rendezvous, nat, router } = facts
  const section = (name: string, rows: string[][]) => (rows.length === 0 ? [] : [`${name}:`, ...columns(rows)])
  return [
    ...section('this machine', machineRows(facts)),
    ...section('rendezvous', rendezvous.map(serverRow)),
    ...section('network', nat === undefined ? [] : natRows(nat)),
    ...section('router', router === undefined ? [] : router.mapping.map(mappingRow)),
    'verdict:',
    ...findings.map(({ level, text }) => `  ${MARKS[level]} ${text}`),
  ]
}

function machineRows({ addresses, lan, packages }: DoctorFacts): string[][] {
  const rows = addresses.map(({ interfaceName, host, prefixBits, scope }, at) => [
    at === 0 ? 'addresses' : '',
    `${interfaceName}  ${host}/${prefixBits}, ${scope}`,
  ])
  if (rows.length === 0) rows.push(['addresses', 'none but loopback'])
  if (lan !== undefined) {
    const multicast = lan.multicast ? 'works' : 'does not come through'
    rows.push(['multicast', lan.links === 0 ? 'no network has it' : `${multicast}, on ${lan.links} links`])
  }
  for (const name of Object.keys(PACKAGES) as PackageName[]) {
    rows.push([name, `${packages[name] ?? 'not installed'} (${PACKAGES[name]})`])
  }
  return rows
}

function serverRow(server: ServerFacts): string[] {
  if (!server.reached) return [server.url, `not reached (${server.code})`]
  const { url, onlineMs, rttMs, relay, relayProblem, observed } = server
  return [
    url,
    `online in ${formatMs(onlineMs)}, round trip ${formatMs(rttMs)}, sees us as ${observed}, ${
      relay ? 'relay reserved' : `no relay: ${relayProblem}`
    }`,
  ]
}

function natRows({ udp, tcp, ipv6, reflectors }: NatDiagnosis): string[][] {
  // Those that nothing here can send to are not counted.
  const asked = reflectors.filter(({ host }) => ipv6.address || ipv6.mapped.length > 0 || !host.includes(':'))
  const answered = asked.filter(({ udpRttMs }) => udpRttMs !== undefined)
  const rows = [
    ['reflectors', `${answered.length} of ${asked.length} answer over UDP`],
    ['UDP', transportText(udp)],
    ['TCP', transportText(tcp)],
  ]
  if (udp.state === 'ok') {
    rows.splice(
      2,
      0,
      ['  mapping', `${udp.mappingBehaviour}, seen by ${udp.mappingSeenFrom.endpoints} endpoints`],
      ['  filtering', udp.filtering],
      ['  hairpin', udp.hairpin],
    )
    if (udp.lifetimeMs !== undefined) rows.splice(5, 0, ['  lifetime', lifeText(udp.lifetimeMs)])
  }
  const seen = ipv6.mapped[0]
  if (seen !== undefined) rows.push(['IPv6', `seen as ${seen.host}${ipv6.translated ? ', translated' : ''}`])
  else rows.push(['IPv6', ipv6.address ? 'an address, but no answer over it' : 'no public address'])
  return rows
}

function transportText({ state, mapping, step, mapped, portPreserving, rttMs }: TransportView): string {
  if (state !== 'ok') return state === 'blocked' ? 'blocked: nobody answers' : 'nobody answers'
  const seen = [...new Set(mapped.map(({ host, port }) => `${host}:${port}`))]
  const more = seen.length > MAX_MAPPED ? ', …' : ''
  const ports = `${portsText(mapping)}${step === undefined ? '' : ` by ${step}`}`
  return [
    `ports: ${ports}`,
    `seen as ${seen.slice(0, MAX_MAPPED).join(', ')}${more}`,
    ...(mapping !== 'none' && portPreserving ? ['the local port is kept'] : []),
    ...(rttMs === undefined ? [] : [`round trip ${formatMs(rttMs)}`]),
  ].join('; ')
}

function lifeText({ atLeast, below }: MappingLife): string {
  const from = atLeast === 0 ? '' : `at least ${formatMs(atLeast)}`
  const to = below === undefined ? '' : `below ${formatMs(below)}`
  return [from, to].filter((part) => part !== '').join(', ')
}

function mappingRow({ via, outcome, external, reachable, detail }: MappingFacts): string[] {
  const texts = {
    mapped: `maps to ${external}${reachable ? '' : ', which is not public'}`,
    refused: `refuses: ${detail}`,
    silent: 'no answer',
  }
  return [LANGUAGES[via], texts[outcome]]
}
