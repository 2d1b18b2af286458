/**
 * What one side of a WebRTC path tells the other: the few facts of an SDP description that matter, in CBOR.
 *
 *     { t: 'offer' | 'answer', u: ice-ufrag, p: ice-pwd, f: SHA-256 of the DTLS certificate, 32 B,
 *       c: [[type, host, port, priority], …] }           type: 0 host, 1 srflx, 2 prflx, 3 relay
 *
 * SDP itself never travels. Each side picks these facts out of its own, and writes an SDP of its own making for what it
 * received, so that nothing of the other side's but checked names and numbers reaches the WebRTC stack.
 *
 * - RFC 8839 section 5.4 (ufrag, pwd), 5.1 (candidates); RFC 8122 (fingerprint); RFC 8841 (SCTP over DTLS).
 * - UDP only: ICE over TCP is in no library for Node, and Peerline has TCP paths of its own.
 * - One description is some 100 bytes and 30 for each candidate; at most {@link MAX_DESCRIPTION_BYTES}.
 * - It is good for nothing without its secrecy and authenticity: it travels sealed, in offer and answer.
 */
import { copyBytes, decodeCbor, encodeCbor, fields, fromHex, toHex } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'

/** Bytes of the longest description taken: 16 candidates with names take 1.5 KiB, credentials at most 512 bytes. */
export const MAX_DESCRIPTION_BYTES = 4_096

/** Candidates told and taken: addresses in both families on a few networks, what STUN saw, and two relays. */
export const MAX_ICE_CANDIDATES = 16

/** Characters of the longest host: an IPv6 address has 45, the name of an mDNS candidate (RFC 8828) 42. */
const MAX_HOST_CHARS = 64

/** Bytes of the largest SCTP message each side takes and sends: the default of RFC 8841 section 6.1. */
export const MAX_SCTP_MESSAGE_BYTES = 65_536

const FINGERPRINT_BYTES = 32 // SHA-256

const TYPES = ['host', 'srflx', 'prflx', 'relay'] as const
type CandidateType = (typeof TYPES)[number]

const ICE_CHARS = /^[A-Za-z0-9+/]+$/ // RFC 8839 section 5.1: ice-char
const IPV4 = /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}$/
const IPV6_CHARS = /^[0-9a-f:.]{2,45}$/i
/** RFC 1918, RFC 6598, loopback, link-local. */
const PRIVATE_IPV4 = /^(?:10|127|192\.168|169\.254|172\.(?:1[6-9]|2\d|3[01])|100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7]))\./
const GLOBAL_IPV6 = /^[23][0-9a-f]{3}:/i // 2000::/3, RFC 4291 section 2.4
const MDNS_NAME = /^[0-9a-f-]{36}\.local$/i

export type DescriptionRole = 'offer' | 'answer'

/** A way to reach one side, RFC 8445 section 5.1.1. */
export interface IceCandidate {
  readonly type: CandidateType
  readonly host: string
  readonly port: number
  readonly priority: number
}

export interface IceDescription {
  readonly role: DescriptionRole
  readonly ufrag: string
  readonly pwd: string
  /** SHA-256 of the certificate that the side will show. */
  readonly fingerprint: Uint8Array
  readonly candidates: readonly IceCandidate[]
}

export function encodeDescription({ role, ufrag, pwd, fingerprint, candidates }: IceDescription): Uint8Array {
  return encodeCbor({
    t: role,
    u: ufrag,
    p: pwd,
    f: fingerprint,
    c: candidates.map(({ type, host, port, priority }) => [TYPES.indexOf(type), host, port, priority]),
  })
}

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` or `ERR_PEERLINE_TOO_LARGE` */
export function decodeDescription(bytes: Uint8Array, role: DescriptionRole): IceDescription {
  const all = fields(decodeCbor(bytes, { maxBytes: MAX_DESCRIPTION_BYTES }), 'WebRTC description')
  all.oneOf('t', [role])
  const ufrag = all.text('u', { min: 4, max: 256 })
  const pwd = all.text('p', { min: 22, max: 256 })
  if (!ICE_CHARS.test(ufrag) || !ICE_CHARS.test(pwd)) throw malformed('credentials')
  return {
    role,
    ufrag,
    pwd,
    fingerprint: copyBytes(all.bytes('f', { length: FINGERPRINT_BYTES })),
    candidates: all.list('c', { max: MAX_ICE_CANDIDATES }).map(readCandidate),
  }
}

function readCandidate(entry: unknown): IceCandidate {
  if (!Array.isArray(entry) || entry.length !== 4) throw malformed('candidate')
  const [kind, host, port, priority] = entry as unknown[]
  const type = typeof kind === 'number' ? TYPES[kind] : undefined
  if (type === undefined || typeof host !== 'string' || !isHost(host)) throw malformed('candidate')
  if (!isWhole(port, 1, 65_535) || !isWhole(priority, 1, 0x7fff_ffff)) throw malformed('candidate')
  return { type, host, port, priority }
}

function isWhole(value: unknown, min: number, max: number): value is number {
  return Number.isInteger(value) && (value as number) >= min && (value as number) <= max
}

/** An IP literal without a zone, or the name of an mDNS candidate: nothing that a name server would be asked for. */
function isHost(host: string): boolean {
  if (host.length > MAX_HOST_CHARS) return false
  if (IPV4.test(host) || MDNS_NAME.test(host)) return true
  if (!IPV6_CHARS.test(host) || !host.includes(':')) return false
  try {
    return new URL(`http://[${host}]/`).hostname !== ''
  } catch {
    return false
  }
}

function malformed(what: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', `a WebRTC description has a malformed ${what}`)
}

/**
 * What this side's own SDP says. What others could not use is left out; relays and reflexive addresses come first, so
 * that a machine with very many interfaces does not push them over the limit.
 * @throws PeerlineError `ERR_PEERLINE_UNSUPPORTED` when the platform's SDP lacks what we need
 */
export function readSdp(sdp: string, role: DescriptionRole): IceDescription {
  const value = (pattern: RegExp): string => {
    const found = pattern.exec(sdp)?.[1]
    if (found !== undefined) return found
    throw new PeerlineError('ERR_PEERLINE_UNSUPPORTED', `the description of this WebRTC has no ${pattern.source}`)
  }
  const candidates: IceCandidate[] = []
  for (const [, line] of sdp.matchAll(/^a=candidate:(.*)$/gm)) {
    const [, component, transport, priority, host, port, , typ] = line!.trim().split(/\s+/)
    if (component !== '1' || transport?.toLowerCase() !== 'udp') continue
    try {
      const kind = TYPES.indexOf(typ as CandidateType)
      candidates.push(readCandidate([kind, host, Number(port), Number(priority)]))
    } catch {} // with a zone, or of a kind that came later
  }
  candidates.sort((a, b) => TYPES.indexOf(b.type) - TYPES.indexOf(a.type))
  return {
    role,
    ufrag: value(/^a=ice-ufrag:(\S+)/m),
    pwd: value(/^a=ice-pwd:(\S+)/m),
    fingerprint: fromHex(value(/^a=fingerprint:sha-256 (\S+)/im).replaceAll(':', '')),
    candidates: candidates.slice(0, MAX_ICE_CANDIDATES),
  }
}

/**
 * Whether an address of the other side may well be reached without a hole in any NAT or firewall: it looks like one of a
 * network that we are in too.
 */
export function isNear(host: string, own: readonly IceCandidate[]): boolean {
  if (!host.includes(':')) return PRIVATE_IPV4.test(host) || MDNS_NAME.test(host)
  return !GLOBAL_IPV6.test(host) || own.some((candidate) => prefix(candidate.host) === prefix(host))
}

/** The first 64 bits of an IPv6 address. */
function prefix(host: string): string {
  const [head = '', tail] = host.split('::')
  const groups = head.split(':')
  if (tail !== undefined) groups.push(...new Array<string>(4).fill('0'))
  return groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16))
    .join(':')
}

/** One candidate as RFC 8839 section 5.1 writes it. */
export function writeCandidate({ type, host, port, priority }: IceCandidate, foundation: number): string {
  // A related address must be there for all but hosts; this one tells nothing.
  const related = type === 'host' ? '' : ` raddr ${host.includes(':') ? '::' : '0.0.0.0'} rport 9`
  return `candidate:${foundation} 1 UDP ${priority} ${host} ${port} typ ${type}${related}`
}

/** An SDP for what the other side described. The answering side is the DTLS client (RFC 8842 section 5.3). */
export function writeSdp({ role, ufrag, pwd, fingerprint, candidates }: IceDescription): string {
  const hex = toHex(fingerprint)
    .toUpperCase()
    .replace(/..(?=.)/g, '$&:')
  return [
    'v=0',
    'o=- 1 1 IN IP4 0.0.0.0',
    's=-',
    't=0 0',
    'a=group:BUNDLE 0',
    'm=application 9 UDP/DTLS/SCTP webrtc-datachannel',
    'c=IN IP4 0.0.0.0',
    'a=mid:0',
    `a=ice-ufrag:${ufrag}`,
    `a=ice-pwd:${pwd}`,
    `a=fingerprint:sha-256 ${hex}`,
    `a=setup:${role === 'offer' ? 'actpass' : 'active'}`,
    'a=sctp-port:5000',
    `a=max-message-size:${MAX_SCTP_MESSAGE_BYTES}`,
    ...candidates.map((candidate, i) => `a=${writeCandidate(candidate, i + 1)}`),
    '',
  ].join('\r\n')
}
