/**
 * A peer in the records of DNS-based service discovery (RFC 6763), as multicast DNS carries them (RFC 6762).
 *
 *     _services._dns-sd._udp.local    PTR   _peerline._tcp.local                 section 9 of RFC 6763
 *     _peerline._tcp.local            PTR   <peer id>._peerline._tcp.local       4500 s
 *     <peer id>._peerline._tcp.local  SRV   0 0 <port> <peer id>.local            120 s
 *     <peer id>._peerline._tcp.local  TXT   "txtvers=1" "r0=..." "r1=..." ...    4500 s
 *     <peer id>.local                 A, AAAA                                     120 s
 *
 *     r0, r1, ...   the signed record in parts, for a string of a TXT record has 255 bytes at most
 *
 * The names hold the peer's key, so nobody else has a right to them, and nobody is asked for them before they are used
 * (probing, RFC 6762 section 8.1): two machines that announce the same name are one peer. SRV and the addresses are for
 * programs that look at services in general; peers read the signed record alone.
 */
import { concatBytes } from '../bytes/index.ts'
import { PEER_ID_LENGTH, type PeerId } from '../identity/index.ts'
import { MAX_LAN_RECORD_BYTES, type OwnRecord } from './lan-record.ts'

export const SERVICE = '_peerline._tcp.local'
export const ALL_SERVICES = '_services._dns-sd._udp.local'

/** Seconds that others may keep what names a host, and all else (RFC 6762 section 10). */
const HOST_TTL_S = 120
export const SERVICE_TTL_S = 4_500

/** Seconds that those may who do not hear when it changes (RFC 6762 section 6.7). */
const LEGACY_TTL_S = 10

/** Addresses of one interface that are told: a machine has two or three, and more with several networks on one cable. */
const MAX_HOST_ADDRESSES = 8

/** Bytes of a message that is read: what we send has at most 2,300. */
const MAX_MESSAGE_BYTES = 3_000

/** Questions and records of a message that is read: each of them may be made to take long. */
const MAX_ITEMS = 64

/** Of a string in a TXT record, RFC 1035 section 3.3. */
const MAX_STRING_BYTES = 255

/** Bytes of a record in one string: less the key, `r10=` at the longest. */
const PART_BYTES = MAX_STRING_BYTES - 4

const MAX_PARTS = Math.ceil(MAX_LAN_RECORD_BYTES / PART_BYTES)

export interface DnsQuestion {
  readonly name: string
  readonly type: string
  /** A question that may be answered by unicast has a bit set here, which makes its class an unknown one. */
  readonly class?: string
}

interface DnsHead {
  name: string
  class?: 'IN'
  ttl?: number
  flush?: boolean
}

/** Records of ours. They can be changed, as the library that writes them declares it. */
export type DnsAnswer = DnsHead &
  (
    | { type: 'PTR' | 'A' | 'AAAA'; data: string }
    | { type: 'SRV'; data: { port: number; target: string; priority: number; weight: number } }
    | { type: 'TXT'; data: Buffer[] }
  )

/** A record of others, as it was decoded: nothing is known of its data. */
export interface DnsRecord {
  readonly name: string
  readonly type: string
  readonly ttl?: number | undefined
  readonly data?: unknown
}

export function instanceOf(peer: PeerId): string {
  return `${peer}.${SERVICE}`
}

function hostNameOf(peer: PeerId): string {
  return `${peer}.local`
}

/** Names are compared without regard to case, as far as ASCII has any (RFC 6762 section 16). */
function same(a: string, b: string): boolean {
  return a.toLowerCase() === b.toLowerCase()
}

/** The peer id in the name of an instance of the service; what it is of, only its record tells. */
export function peerOf(instance: string): string | undefined {
  const lower = instance.toLowerCase()
  if (!lower.endsWith(`.${SERVICE}`)) return undefined
  const label = lower.slice(0, -SERVICE.length - 1)
  return label.length === PEER_ID_LENGTH && /^[a-z0-9]+$/.test(label) ? label : undefined
}

/** Whether a message may be of interest, and is small enough to be decoded. */
export function concernsUs(bytes: Uint8Array, own: PeerId | undefined): boolean {
  if (bytes.length < 12 || bytes.length > MAX_MESSAGE_BYTES) return false
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let items = 0
  for (let at = 4; at < 12; at += 2) items += view.getUint16(at)
  if (items > MAX_ITEMS) return false
  // A label stands in a message as it is, at least once.
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1').toLowerCase()
  return ['_peerline', '_services', ...(own === undefined ? [] : [own])].some((label) => text.includes(label))
}

// ---- what we say ----

/** Kinds of records of ours. */
export type Wanted = 'services' | 'instance' | 'port' | 'record' | 'addresses'

/** What of ours is asked for. */
export function wantedBy(questions: readonly DnsQuestion[], peer: PeerId): Set<Wanted> {
  const wanted = new Set<Wanted>()
  for (const { name, type } of questions) {
    const asks = (...types: string[]) => type === 'ANY' || types.includes(type)
    if (same(name, ALL_SERVICES) && asks('PTR')) wanted.add('services')
    if (same(name, SERVICE) && asks('PTR')) wanted.add('instance')
    if (same(name, instanceOf(peer)) && asks('SRV')) wanted.add('port')
    if (same(name, instanceOf(peer)) && asks('TXT')) wanted.add('record')
    if (same(name, hostNameOf(peer)) && asks('A', 'AAAA')) wanted.add('addresses')
  }
  return wanted
}

/** Those questions that are for us, with our names as we write them: those of others hold whatever they like. */
export function ownQuestions(
  questions: readonly DnsQuestion[],
  peer: PeerId,
): { name: string; type: DnsAnswer['type'] | 'ANY' }[] {
  const names = [ALL_SERVICES, SERVICE, instanceOf(peer), hostNameOf(peer)]
  return questions
    .filter((question) => wantedBy([question], peer).size > 0)
    .map(({ name, type }) => ({ name: names.find((own) => same(own, name))!, type: type as DnsAnswer['type'] | 'ANY' }))
}

/** True when whoever asks knows our instance already, and for long enough (RFC 6762 section 7.1). */
export function isKnown(answers: readonly DnsRecord[], peer: PeerId): boolean {
  return answers.some(
    ({ name, type, ttl = 0, data }) =>
      type === 'PTR' &&
      same(name, SERVICE) &&
      typeof data === 'string' &&
      same(data, instanceOf(peer)) &&
      ttl >= SERVICE_TTL_S / 2,
  )
}

/** One record of each kind; the addresses are those of one interface. */
function recordsOf(peer: PeerId, own: OwnRecord, interfaceName: string): Record<Wanted, DnsAnswer[]> {
  const addresses = own.hosts.filter((host) => host.interfaceName === interfaceName).slice(0, MAX_HOST_ADDRESSES)
  const srv = { port: own.port, target: hostNameOf(peer), priority: 0, weight: 0 }
  return {
    services: [{ name: ALL_SERVICES, type: 'PTR', ttl: SERVICE_TTL_S, data: SERVICE }],
    instance: [pointer(peer)],
    port: [{ name: instanceOf(peer), type: 'SRV', ttl: HOST_TTL_S, flush: true, data: srv }],
    record: [text(peer, own.bytes)],
    addresses: addresses.map(({ host, family }) => ({
      ...{ name: hostNameOf(peer), ttl: HOST_TTL_S, flush: true, data: host.replace(/%.*$/s, '') },
      type: family === 4 ? 'A' : 'AAAA',
    })),
  }
}

/**
 * The records that answer, and those that will be asked for next (RFC 6763 section 12).
 * @param options `legacy`: for who asks like an ordinary resolver, and does not know that records change
 */
export function answersTo(
  wanted: ReadonlySet<Wanted>,
  who: { readonly peer: PeerId; readonly own: OwnRecord; readonly interfaceName: string },
  options: { legacy?: boolean } = {},
): { answers: DnsAnswer[]; additionals: DnsAnswer[] } {
  const records = recordsOf(who.peer, who.own, who.interfaceName)
  if (options.legacy === true) {
    for (const record of Object.values(records).flat()) {
      record.ttl = LEGACY_TTL_S
      delete record.flush
    }
  }
  const next: Wanted[] = wanted.has('instance')
    ? ['port', 'record', 'addresses']
    : wanted.has('port')
      ? ['addresses']
      : []
  return {
    answers: [...wanted].flatMap((kind) => records[kind]),
    additionals: next.filter((kind) => !wanted.has(kind)).flatMap((kind) => records[kind]),
  }
}

/** All that others keep of us is void; the record that says so is there to be believed. */
export function goodbyeOf(peer: PeerId, own: OwnRecord, interfaceName: string, goodbye: Uint8Array): DnsAnswer[] {
  const records = recordsOf(peer, { ...own, bytes: goodbye }, interfaceName)
  const { instance, port, record, addresses } = records
  return [...instance, ...port, ...record, ...addresses].map((one) => ({ ...one, ttl: 0 }))
}

/** An instance of the service: what is found, or known to whoever asks. */
export function pointer(peer: PeerId): DnsAnswer {
  return { name: SERVICE, type: 'PTR', ttl: SERVICE_TTL_S, data: instanceOf(peer) }
}

function text(peer: PeerId, record: Uint8Array): DnsAnswer {
  const strings = [Buffer.from('txtvers=1')]
  for (let at = 0, part = 0; at < record.length; at += PART_BYTES, part++) {
    strings.push(Buffer.concat([Buffer.from(`r${part}=`), record.subarray(at, at + PART_BYTES)]))
  }
  return { name: instanceOf(peer), type: 'TXT', ttl: SERVICE_TTL_S, flush: true, data: strings }
}

// ---- what others say ----

/** The record in the strings of a TXT record; undefined when there is none, or it is of another version. */
export function recordIn(data: unknown): Uint8Array | undefined {
  if (!Array.isArray(data) || data.length > MAX_PARTS + 8) return undefined
  const values = new Map<string, Uint8Array>()
  for (const string of data) {
    if (!(string instanceof Uint8Array)) return undefined
    const equals = string.indexOf(0x3d)
    const key = Buffer.from(string.subarray(0, Math.max(0, equals)))
      .toString('latin1')
      .toLowerCase()
    // Of a key that is there twice, the first counts (RFC 6763 section 6.4).
    if (key !== '' && !values.has(key)) values.set(key, string.subarray(equals + 1))
  }
  if (Buffer.from(values.get('txtvers') ?? []).toString('latin1') !== '1') return undefined
  const parts: Uint8Array[] = []
  for (let part = values.get('r0'); part !== undefined; part = values.get(`r${parts.length}`)) parts.push(part)
  return parts.length === 0 ? undefined : concatBytes(parts)
}
