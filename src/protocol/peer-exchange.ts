/**
 * `/peerline/peers/1`: a peer lists others that ask for it, and hands out their signed records.
 *
 *     request    CBOR { register: record }                answer    CBOR { ms }      how long it is listed
 *                CBOR { list: 1 to 64, ?capability }                CBOR { peers: [record, …] }
 *
 * - Nobody is listed but who registered a record of its own in a session of its own. To be listed no longer, it registers
 *   one that expires soon: the latest takes the place of those before.
 * - What is handed out are records (identity/record.ts), and whoever gets them verifies each: a holder can keep peers back,
 *   and choose whom it names, but makes none up and changes none. It needs no trust, and gives no orders.
 * - Who is named is chosen at random, and never the asker: nobody is pushed to the front.
 *
 * Limits, in this order: 30 requests a minute of one asker; 4 KiB a request and 64 KiB an answer, before they are decoded;
 * 4,096 records listed, each until it expires, and a day at most. When the list is full, one at random goes: whoever floods
 * it has to go on doing so, and who renews comes back.
 */
import { randomInt } from 'node:crypto'
import { decodeCbor, encodeCbor, equalBytes, type Fields, fields } from '../bytes/index.ts'
import { invalid, isPeerlineError, PeerlineError } from '../errors.ts'
import { MAX_RECORD_BYTES, openRecord, type PeerId, type PeerRecord } from '../identity/index.ts'
import type { Session, Stream } from '../session/index.ts'
import type { RequestHandler } from './handler-context.ts'
import { PerMinute } from './per-minute.ts'
import { type RequestOptions, request } from './request.ts'
import { type ServeRequestOptions, serveRequest } from './serve-request.ts'

export const PEERS_PROTOCOL = '/peerline/peers/1'

/** Records in one answer: more than a peer dials to find its way. */
export const MAX_PEERS = 64

/** Bytes of a request: a record, and its field. */
const MAX_REQUEST_BYTES = MAX_RECORD_BYTES + 64

/** Bytes of an answer: 64 records of 1,000 bytes; as a rule one has half of that. */
const MAX_ANSWER_BYTES = 65_536

/** Bytes that an answer needs beside its records, and for each of them. */
const ANSWER_HEAD_BYTES = 16
const ITEM_HEAD_BYTES = 3

/** UTF-16 units of a capability: as in a record. */
const MAX_CAPABILITY_LENGTH = 64

/** Records listed: 16 MiB of the largest, 3 MiB of usual ones. */
const MAX_LISTED = 4_096

/** ms that a record is listed at most, whatever it says: a day. A peer that is gone is named no longer than that. */
const MAX_LISTED_MS = 86_400_000

/** Requests of one asker in a minute: a peer that starts asks a few times, and then renews once in a while. */
const REQUESTS_PER_MINUTE = 30

export interface PeerExchangeOptions {
  /** Records listed. @default 4_096 */
  readonly maxListed?: number
  /** Of one asker. @default 30 */
  readonly requestsPerMinute?: number
  /** ms since 1970. @default Date.now */
  readonly now?: () => number
}

interface Listed {
  readonly bytes: Uint8Array
  readonly sequence: number
  readonly capabilities: readonly string[]
  /** ms since 1970. */
  readonly until: number
}

/** The holder: keeps the records of those who registered, and hands them out. */
export class PeerExchange {
  readonly #maxListed: number
  readonly #asks: PerMinute
  readonly #now: () => number
  readonly #listed = new Map<PeerId, Listed>()

  constructor(options: PeerExchangeOptions = {}) {
    const { maxListed = MAX_LISTED, requestsPerMinute = REQUESTS_PER_MINUTE, now = Date.now } = options
    if (!(maxListed >= 1 && requestsPerMinute >= 1)) throw invalid('maxListed and requestsPerMinute are 1 or more')
    this.#maxListed = maxListed
    this.#asks = new PerMinute(requestsPerMinute)
    this.#now = now
  }

  /** Peers listed now. */
  get size(): number {
    this.#dropExpired()
    return this.#listed.size
  }

  /** Lists a peer no longer, because it was shut out here. False when it was not listed. */
  remove(peer: PeerId): boolean {
    return this.#listed.delete(peer)
  }

  /** Answers the request that comes on `stream`. Never throws. */
  serve(stream: Stream, options: Omit<ServeRequestOptions, 'maxRequestBytes'>): void {
    serveRequest(stream, this.handler, { ...options, maxRequestBytes: MAX_REQUEST_BYTES })
  }

  /** Answers one request. */
  readonly handler: RequestHandler = (body, { from }) => {
    if (!this.#asks.take(from)) throw new PeerlineError('ERR_PEERLINE_BUSY', 'too many requests in this minute')
    const asked = fields(decodeCbor(body, { maxBytes: MAX_REQUEST_BYTES, maxDepth: 1 }), 'request for peers')
    return asked.has('register') ? this.#register(from, asked) : this.#list(from, asked)
  }

  #register(from: PeerId, asked: Fields): Uint8Array {
    const bytes = asked.bytes('register', { max: MAX_RECORD_BYTES })
    const now = this.#now()
    const { peerId, sequence, expiresAt, capabilities } = openRecord(bytes, { now })
    if (peerId !== from) throw new PeerlineError('ERR_PEERLINE_DENIED', 'a peer registers itself, and nobody else')
    this.#dropExpired()
    const held = this.#listed.get(peerId)
    if (held !== undefined && !(sequence > held.sequence || equalBytes(bytes, held.bytes))) {
      throw new PeerlineError('ERR_PEERLINE_RECORD', `a record with sequence ${held.sequence} is listed already`)
    }
    if (held === undefined && this.#listed.size >= this.#maxListed) {
      this.#listed.delete([...this.#listed.keys()][randomInt(this.#listed.size)]!)
    }
    const ms = Math.min(expiresAt - now, MAX_LISTED_MS)
    this.#listed.set(peerId, { bytes, sequence, capabilities, until: now + ms })
    return encodeCbor({ ms })
  }

  #list(from: PeerId, asked: Fields): Uint8Array {
    const max = asked.integer('list', { min: 1, max: MAX_PEERS })
    const capability = asked.optional('capability', (name) => asked.text(name, { max: MAX_CAPABILITY_LENGTH }))
    this.#dropExpired()
    const fitting = [...this.#listed].filter(
      ([peer, { capabilities }]) => peer !== from && (capability === undefined || capabilities.includes(capability)),
    )
    const peers: Uint8Array[] = []
    let left = MAX_ANSWER_BYTES - ANSWER_HEAD_BYTES
    // One after the other is drawn from those that are left (Fisher and Yates), until it is enough or the answer full.
    while (peers.length < max && fitting.length > 0) {
      const at = randomInt(fitting.length)
      const [, { bytes }] = fitting[at]!
      left -= bytes.length + ITEM_HEAD_BYTES
      if (left < 0) break
      peers.push(bytes)
      fitting[at] = fitting.at(-1)!
      fitting.pop()
    }
    return encodeCbor({ peers })
  }

  #dropExpired(): void {
    const now = this.#now()
    for (const [peer, { until }] of this.#listed) if (now >= until) this.#listed.delete(peer)
  }
}

export interface RequestPeersOptions extends Pick<RequestOptions, 'signal' | 'timeoutMs'> {
  /** Peers wanted, 1 to 64. @default 16 */
  readonly max?: number
  /** Only peers whose record names it. @default any */
  readonly capability?: string
  /** Our own id: what is told of us is passed over. */
  readonly self?: PeerId
  /** ms since 1970. @default Date.now() */
  readonly now?: number
}

/** What a holder told. */
export interface ToldPeers {
  /** Verified, each peer once, at most as many as were asked for. Their addresses are what they say themselves. */
  readonly peers: readonly PeerRecord[]
  /** What was passed over: not valid, expired, not what was asked for, told twice. */
  readonly passedOver: number
}

/**
 * Asks the other side of `session` for peers.
 * @throws PeerlineError as `request`; `ERR_PEERLINE_INVALID`; `ERR_PEERLINE_PROTOCOL` when the answer has another form, or
 *   names more than were asked for
 */
export async function requestPeers(session: Session, options: RequestPeersOptions = {}): Promise<ToldPeers> {
  const { max = 16, capability, self, now = Date.now(), ...rest } = options
  if (!(Number.isInteger(max) && max >= 1 && max <= MAX_PEERS))
    throw invalid(`max is a whole number, 1 to ${MAX_PEERS}`)
  if (capability !== undefined && capability.length > MAX_CAPABILITY_LENGTH) {
    throw invalid(`a capability has at most ${MAX_CAPABILITY_LENGTH} characters`)
  }
  const asked = encodeCbor({ list: max, capability })
  const answer = await request(session, PEERS_PROTOCOL, asked, { ...rest, maxResponseBytes: MAX_ANSWER_BYTES })
  const told = fields(decodeCbor(answer, { maxBytes: MAX_ANSWER_BYTES, maxDepth: 2 }), 'list of peers')
  const items = told.list('peers', { max })
  const peers = new Map<PeerId, PeerRecord>()
  for (const item of items) {
    const record = verified(item, now)
    if (record === undefined || record.peerId === self) continue
    if (capability !== undefined && !record.capabilities.includes(capability)) continue
    const known = peers.get(record.peerId)
    if (known === undefined || record.sequence > known.sequence) peers.set(record.peerId, record)
  }
  return { peers: [...peers.values()], passedOver: items.length - peers.size }
}

function verified(item: unknown, now: number): PeerRecord | undefined {
  if (!(item instanceof Uint8Array)) return undefined
  try {
    return openRecord(item, { now })
  } catch (error) {
    if (isPeerlineError(error)) return undefined
    throw error
  }
}

/**
 * Has the other side of `session` list us by `record`, our own as `signRecord` gives it.
 * @returns ms for which it will: register again before
 * @throws PeerlineError as `request` and `openRecord`; `ERR_PEERLINE_RECORD` when a later one is listed;
 *   `ERR_PEERLINE_PROTOCOL` when the answer has another form
 */
export async function registerRecord(
  session: Session,
  record: Uint8Array,
  options: Pick<RequestOptions, 'signal' | 'timeoutMs'> = {},
): Promise<number> {
  openRecord(record)
  const asked = encodeCbor({ register: record })
  const answer = await request(session, PEERS_PROTOCOL, asked, { ...options, maxResponseBytes: MAX_ANSWER_BYTES })
  const told = fields(decodeCbor(answer, { maxBytes: MAX_ANSWER_BYTES, maxDepth: 1 }), 'answer to a record')
  return told.integer('ms', { min: 1, max: MAX_LISTED_MS })
}
