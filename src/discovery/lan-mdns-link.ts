/**
 * Multicast DNS on one link: one interface, in one IP family.
 *
 *     browse      question, with the answers known ------->|  who is not among them answers after 20 to 120 ms, to all
 *     announce    all our records, unasked  -------------->|  when we come, or something has changed
 *     goodbye     all of them, with TTL 0  --------------->|
 *
 * - The addresses in an answer are those of this interface, and nothing of ours is sent twice in a second (RFC 6762 section 6).
 * - Who knows us already is not answered (section 7.1), and what another has just asked we do not ask (section 7.3).
 * - Answers count only from port 5353 (section 6). What they hold is signed, and read by others: see lan-neighbours.ts.
 * - Nothing that others wrote is written again: the library throws at what is no name, where nobody could catch it.
 */
import type { RemoteInfo } from 'node:dgram'
import { EventEmitter } from 'node:events'
import type { MulticastDNS, QueryOutgoingPacket } from 'multicast-dns'
import type { PeerId } from '../identity/index.ts'
import type { LanLink } from '../network/lan-sockets.ts'
import {
  answersTo,
  type DnsQuestion,
  type DnsRecord,
  goodbyeOf,
  instanceOf,
  isKnown,
  ownQuestions,
  peerOf,
  pointer,
  recordIn,
  SERVICE,
  SERVICE_TTL_S,
  type Wanted,
  wantedBy,
} from './lan-dns.ts'
import type { OwnRecord } from './lan-record.ts'
import { SLOWEST_MS } from './lan-schedule.ts'

/** ms that an answer waits which others may have too, or when more known answers follow (RFC 6762 sections 6 and 7.2). */
const ANSWER_AFTER = { least: 20, most: 120 }
const TRUNCATED_AFTER = { least: 400, most: 500 }

/** ms between two multicasts of the same record (RFC 6762 section 6). */
const MULTICAST_EVERY_MS = 1_000

/** Known answers in a question, and instances whose record is asked for: with 110 and 80 bytes each they fit one packet. */
const MAX_KNOWN = 10
const MAX_ASKED = 4

/** ms after which a peer is asked again, though it is known: half of the time that it may stay silent. */
const KNOWN_FOR_MS = 1.75 * SLOWEST_MS

interface Query {
  readonly id?: number
  readonly flag_tc?: boolean
  readonly questions: readonly DnsQuestion[]
  readonly answers: readonly DnsRecord[]
}

/** What the library takes for its socket: it never binds it, and hears what we let it hear. */
export class MdnsWire extends EventEmitter {
  readonly #send: (message: Uint8Array, port: number, address: string) => void
  constructor(send: (message: Uint8Array, port: number, address: string) => void) {
    super()
    this.#send = send
  }

  send(message: Uint8Array, _offset: number, _length: number, port: number, address: string, done: () => void): void {
    this.#send(message, port, address)
    done()
  }

  hear(bytes: Uint8Array, from: RemoteInfo): void {
    this.emit('message', Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length), from)
  }

  close(done: () => void): void {
    this.removeAllListeners()
    done()
  }
}

export interface MdnsLinkOptions {
  readonly peer: PeerId | undefined
  /** Peers heard by multicast DNS within so many ms, the latest first. */
  readonly recent: (ms: number) => readonly PeerId[]
  readonly at: LanLink
  readonly wire: MdnsWire
  readonly dns: MulticastDNS
  readonly port: number
  readonly own: () => OwnRecord | undefined
  readonly onRecord: (record: Uint8Array, from: RemoteInfo, claimed: string) => void
  readonly mayAnswer: (address: string) => boolean
}

/** Its questions, answers and limits. */
export class MdnsLink {
  readonly #options: MdnsLinkOptions
  readonly #everyone: { readonly address: string; readonly port: number }
  /** What is to be answered to everyone, and who asked for it. */
  readonly #wanted = new Set<Wanted>()
  readonly #askers = new Set<string>()
  #answerTimer: NodeJS.Timeout | undefined
  /** Instances that came without their record, which is to be asked for. */
  readonly #asked = new Set<string>()
  #askTimer: NodeJS.Timeout | undefined
  #saidAt = Number.NEGATIVE_INFINITY
  #askedAt = Number.NEGATIVE_INFINITY
  /** When another asked what we were to ask, knowing no more than we do. */
  #othersAskedAt = Number.NEGATIVE_INFINITY

  constructor(options: MdnsLinkOptions) {
    this.#options = options
    this.#everyone = { address: options.at.group, port: options.port }
    const { dns } = options
    dns.on('query', (query, from) => this.#onQuery(query as Query, from))
    dns.on('response', ({ answers, additionals }, from) =>
      this.#onResponse([...(answers ?? []), ...(additionals ?? [])], from),
    )
    // What cannot be read is noise.
    dns.on('warning', () => {})
  }

  get at(): LanLink {
    return this.#options.at
  }

  hear(bytes: Uint8Array, from: RemoteInfo): void {
    this.#options.wire.hear(bytes, from)
  }

  browse(): void {
    const { peer, recent, own, dns } = this.#options
    const now = performance.now()
    // Whoever is to answer us answers the other one too, and to everyone (RFC 6762 section 7.3). Our own question, which we
    // hear as well, was asked at the beginning of the time between.
    if (this.#othersAskedAt > this.#askedAt + (now - this.#askedAt) / 2 && this.#asked.size === 0) {
      this.#askedAt = now
      return
    }
    const known = [...(peer !== undefined && own() !== undefined ? [peer] : []), ...recent(KNOWN_FOR_MS)]
    const questions: { name: string; type: 'PTR' | 'TXT' }[] = [{ name: SERVICE, type: 'PTR' }]
    for (const instance of this.#asked) questions.push({ name: instance, type: 'TXT' })
    this.#asked.clear()
    this.#askedAt = now
    const query: QueryOutgoingPacket = { questions, answers: known.slice(0, MAX_KNOWN).map(pointer) }
    dns.query(query, this.#everyone)
  }

  announce(): void {
    if (performance.now() < this.#saidAt + MULTICAST_EVERY_MS) this.#answerSoon(['instance'], 0)
    else this.#say(['instance', 'port', 'record', 'addresses'])
  }

  sendGoodbye(own: OwnRecord, goodbye: Uint8Array): void {
    const { peer, dns, at } = this.#options
    if (peer === undefined) return
    this.#wanted.clear()
    dns.respond({ answers: goodbyeOf(peer, own, at.interfaceName, goodbye) }, this.#everyone)
  }

  close(): void {
    clearTimeout(this.#answerTimer)
    clearTimeout(this.#askTimer)
    this.#options.dns.destroy()
  }

  // ---- answering ----

  #onQuery(query: Query, from: RemoteInfo): void {
    const { peer, own, port } = this.#options
    this.#noteQuestion(query, from)
    const mine = peer === undefined ? undefined : own()
    if (peer === undefined || mine === undefined) return
    const wanted = wantedBy(query.questions, peer)
    if (isKnown(query.answers, peer)) {
      wanted.delete('instance')
      // Known answers may come in a message of their own, and this one was the only one to ask.
      if (this.#askers.size === 1 && this.#askers.has(from.address)) this.#wanted.delete('instance')
    }
    if (wanted.size === 0) return
    if (from.port !== port) return this.#answerOne(wanted, query, from, { legacy: true })
    // Everyone is told from time to time, though one would be enough (RFC 6762 section 5.4).
    const toldLately = performance.now() < this.#saidAt + (1_000 * SERVICE_TTL_S) / 4
    if (toldLately && query.questions.every(wantsUnicast)) return this.#answerOne(wanted, query, from, {})
    const shared = wanted.has('instance') || wanted.has('services')
    const { least, most } = query.flag_tc === true ? TRUNCATED_AFTER : ANSWER_AFTER
    this.#askers.add(from.address)
    this.#answerSoon([...wanted], shared ? least + Math.random() * (most - least) : 0)
  }

  #answerOne(wanted: Set<Wanted>, query: Query, from: RemoteInfo, options: { legacy?: boolean }): void {
    const { peer, own, dns, at, mayAnswer } = this.#options
    const mine = own()
    if (peer === undefined || mine === undefined || from.port === 0 || !mayAnswer(from.address)) return
    const response = answersTo(wanted, { peer, own: mine, interfaceName: at.interfaceName }, options)
    // An ordinary resolver looks for its own question in the answer; what is ours of it, as we write it.
    const question = { id: query.id ?? 0, questions: ownQuestions(query.questions, peer) }
    const head = options.legacy === true ? question : {}
    dns.respond({ ...head, ...response }, { address: from.address, port: from.port })
  }

  #answerSoon(wanted: readonly Wanted[], ms: number): void {
    for (const kind of wanted) this.#wanted.add(kind)
    if (this.#answerTimer !== undefined) return
    const wait = Math.max(ms, this.#saidAt + MULTICAST_EVERY_MS - performance.now())
    this.#answerTimer = setTimeout(() => {
      this.#answerTimer = undefined
      this.#say([...this.#wanted])
    }, wait)
    this.#answerTimer.unref()
  }

  #say(wanted: readonly Wanted[]): void {
    const { peer, own, dns, at } = this.#options
    const mine = own()
    this.#wanted.clear()
    this.#askers.clear()
    if (peer === undefined || mine === undefined || wanted.length === 0) return
    this.#saidAt = performance.now()
    const who = { peer, own: mine, interfaceName: at.interfaceName }
    dns.respond(answersTo(new Set(wanted), who), this.#everyone)
  }

  // ---- asking ----

  /** Another asks for the service, and whatever it knows already we know too: its answers will do for us. */
  #noteQuestion({ questions, answers }: Query, from: RemoteInfo): void {
    const { port, recent, peer } = this.#options
    if (from.port !== port || !questions.some((one) => !wantsUnicast(one) && isForService(one))) return
    const known = new Set<string>([...recent(KNOWN_FOR_MS), ...(peer === undefined ? [] : [peer])])
    const pointed = answers.flatMap(({ type, data }) =>
      type === 'PTR' && typeof data === 'string' ? [peerOf(data)] : [],
    )
    if (pointed.every((one) => one === undefined || known.has(one))) this.#othersAskedAt = performance.now()
  }

  #onResponse(records: readonly DnsRecord[], from: RemoteInfo): void {
    const { port, onRecord, peer, recent } = this.#options
    if (from.port !== port) return
    const told = new Set<string>()
    for (const { type, name, data } of records) {
      const claimed = type === 'TXT' ? peerOf(name) : undefined
      if (claimed === undefined || claimed === peer || told.has(claimed)) continue
      told.add(claimed)
      const record = recordIn(data)
      if (record !== undefined) onRecord(record, from, claimed)
    }
    for (const { type, name, ttl = 0, data } of records) {
      if (type !== 'PTR' || ttl === 0 || name.toLowerCase() !== SERVICE || typeof data !== 'string') continue
      const pointed = peerOf(data)
      if (pointed === undefined || pointed === peer || told.has(pointed)) continue
      if (!(recent(KNOWN_FOR_MS) as readonly string[]).includes(pointed)) this.#ask(instanceOf(pointed as PeerId))
    }
  }

  /** Has the record of an instance asked for, which came without. */
  #ask(instance: string): void {
    if (this.#asked.size >= MAX_ASKED) return
    this.#asked.add(instance)
    if (this.#askTimer !== undefined) return
    const wait = Math.max(ANSWER_AFTER.least, this.#askedAt + MULTICAST_EVERY_MS - performance.now())
    this.#askTimer = setTimeout(() => {
      this.#askTimer = undefined
      if (this.#asked.size > 0) this.browse()
    }, wait)
    this.#askTimer.unref()
  }
}

function isForService({ name, type }: DnsQuestion): boolean {
  return name.toLowerCase() === SERVICE && (type === 'PTR' || type === 'ANY')
}

/** The top bit of the class says that the answer may go to whoever asks alone (RFC 6762 section 5.4); the library leaves it in. */
function wantsUnicast(question: DnsQuestion): boolean {
  const unknown = /^UNKNOWN_(\d+)$/.exec(question.class ?? '')
  return unknown !== null && Number(unknown[1]) >= 0x8000
}
