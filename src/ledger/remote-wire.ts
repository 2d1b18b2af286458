/**
 * What a node that offers its ledger and a reader say to each other, on streams of {@link LEDGER_PROTOCOL}.
 *
 *     reader                                      node
 *     |-- { t: about } -------------------------->|  a stream for each thing that is asked
 *     |<- { max, latency, spread, head, … } ------|
 *     |-- { t: append, topic, message } --------->|
 *     |<- { placed, head, … } --------------------|
 *     |-- { t: read, topic, from, ?since, max } ->|
 *     |<- { entries, ?more, head, … } ------------|
 *     |-- { t: subscribe, topic, from, ?since } ->|  ends when the reader ends it, or is too slow
 *     |<- { entries, head, … } -------------------|  at once, perhaps with no entry; and whenever there is something
 *     |-- { t: prove, from, to } ---------------->|
 *     |<- { proof } ------------------------------|  that the first `to` entries begin with the first `from`
 *
 *     head, base, proof    a signed tree head, and that it begins with the first `base` entries: those the node last told
 *                          of in this session, or at first those that the reader says it knows (`known`)
 *     placed, entry        { index, sequence, at: us since 1970, proof: of inclusion }; an entry has its message beside that
 *
 * - Instead of any answer: { failed: code }.
 * - Messages are length 4 and CBOR, see `session/message-stream.ts`. The session authenticates both sides.
 * - Entries that are handed out follow each other without gaps. When `since` passes some over, the last of those comes first, to
 *   show that it was right to.
 */
import { copyBytes, type Fields, fields } from '../bytes/index.ts'
import { type ErrorCode, isErrorCode, PeerlineError } from '../errors.ts'
import { MAX_PROOF_BYTES } from './merkle.ts'
import { MAX_HEAD_BYTES, type PlacedEntry, toMicroseconds } from './tree-head.ts'

/** From the reader to the node. */
export const LEDGER_PROTOCOL = '/peerline/ledger/1'

/** Bytes of the largest message that a node may take: four of the largest signal. */
export const MAX_NODE_MESSAGE_BYTES = 65_536

/** Bytes of a request beside its message. */
export const REQUEST_BYTES = 512

/** Entries of a page, and bytes, unless one entry alone has more: what a page costs is bounded, and few are needed. */
export const PAGE_ENTRIES = 64
export const PAGE_BYTES = 131_072

/** Bytes of an entry beside its message and proof. */
export const ENTRY_BYTES = 64

/** Bytes of the largest answer: a page, its head and proof, and room for a later field or two. */
export const MAX_REPLY_BYTES = PAGE_BYTES + 4_096

/** Characters of a topic's name, all printable ASCII: `Ledger.createTopic`. */
const TOPIC = /^[\x21-\x7e]{1,100}$/

/** UTF-16 units of a code. */
const MAX_CODE_LENGTH = 64

/** Microseconds since 1970 of the latest time: in the year 2255. */
const MAX_TIME_US = Number.MAX_SAFE_INTEGER

/** As a leaf has it. */
const MAX_SEQUENCE = 0xffff_ffff

/** ms that a node may say that its ledger takes: others are to wait no longer for its sake. */
const MAX_LATENCY_MS = 60_000

export type LedgerRequest = { readonly known?: number | undefined } & (
  | { readonly t: 'about' }
  | { readonly t: 'append'; readonly topic: string; readonly message: Uint8Array }
  | {
      readonly t: 'read'
      readonly topic: string
      readonly from: number
      readonly since?: number | undefined
      readonly max: number
    }
  | { readonly t: 'subscribe'; readonly topic: string; readonly from: number; readonly since?: number | undefined }
  | { readonly t: 'prove'; readonly from: number; readonly to: number }
)

/** A head as a node shows it. */
export interface Shown {
  readonly head: Uint8Array
  /** The head stands for these first entries and more. */
  readonly base: number
  /** Of consistency, from `base` to the size of the head. */
  readonly proof: Uint8Array
}

export interface About extends Shown {
  readonly max: number
  /** ms, both. */
  readonly latency: number
  readonly spread: number
}

/** An entry, and the proof that it is in the tree. */
export interface ProvenEntry extends PlacedEntry {
  readonly proof: Uint8Array
}

export interface Page extends Shown {
  readonly entries: readonly ProvenEntry[]
  readonly more: boolean
}

/** True for what may name a topic: 1 to 100 printable ASCII characters. */
export function isTopic(name: unknown): name is string {
  return typeof name === 'string' && TOPIC.test(name)
}

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
export function readRequest(message: unknown): LedgerRequest {
  const all = fields(message, 'ledger request')
  const t = all.oneOf('t', ['about', 'append', 'read', 'subscribe', 'prove'])
  const known = all.optional('known', (name) => all.integer(name))
  switch (t) {
    case 'about':
      return { t, known }
    case 'append':
      return {
        t,
        known,
        topic: topicOf(all),
        message: copyBytes(all.bytes('message', { max: MAX_NODE_MESSAGE_BYTES })),
      }
    case 'read':
      return { t, known, ...placeOf(all), max: all.integer('max', { min: 1, max: PAGE_ENTRIES }) }
    case 'subscribe':
      return { t, known, ...placeOf(all) }
    case 'prove': {
      const from = all.integer('from')
      return { t, known, from, to: all.integer('to', { min: from }) }
    }
  }
}

function placeOf(all: Fields): { topic: string; from: number; since: number | undefined } {
  const since = all.optional('since', (name) => all.integer(name, { max: MAX_TIME_US }) / 1_000)
  return { topic: topicOf(all), from: all.integer('from', { min: 1, max: MAX_SEQUENCE }), since }
}

function topicOf(all: Fields): string {
  const topic = all.text('topic', { min: 1, max: 100 })
  if (!isTopic(topic)) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'a ledger request names no topic')
  return topic
}

/** As CBOR wants it. */
export function encodeRequest(request: LedgerRequest): unknown {
  if (!('since' in request) || request.since === undefined) return request
  return { ...request, since: notBefore(request.since) }
}

/** The first whole microsecond that is not before `ms`, when both are told in ms. */
function notBefore(ms: number): number {
  const us = Math.min(Math.max(0, toMicroseconds(ms)), MAX_TIME_US)
  return us / 1_000 < ms && us < MAX_TIME_US ? us + 1 : us
}

/** As CBOR wants it. */
export function encodeEntry({ index, sequence, at, message, proof }: ProvenEntry): unknown {
  return { index, sequence, at: toMicroseconds(at), message, proof }
}

/** As CBOR wants it. */
export function encodePlaced({ index, sequence, at, proof }: ProvenEntry): unknown {
  return { index, sequence, at: toMicroseconds(at), proof }
}

/** @throws PeerlineError what the node said instead, or `ERR_PEERLINE_PROTOCOL` */
export function readAbout(message: unknown): About {
  const all = answer(message)
  return {
    ...shownOf(all),
    max: all.integer('max', { min: 1, max: MAX_NODE_MESSAGE_BYTES }),
    latency: all.integer('latency', { max: MAX_LATENCY_MS }),
    spread: all.integer('spread', { max: MAX_LATENCY_MS }),
  }
}

/** @param appended the message whose place the answer tells. @throws as {@link readAbout} */
export function readPlaced(message: unknown, appended: Uint8Array): Shown & { readonly entry: ProvenEntry } {
  const all = answer(message)
  return { ...shownOf(all), entry: entryOf(all.map('placed'), () => appended) }
}

/** @throws as {@link readAbout} */
export function readPage(message: unknown): Page {
  const all = answer(message)
  const entries = all.list('entries', { max: PAGE_ENTRIES + 1 }).map((value) => {
    const entry = fields(value, 'entry')
    return entryOf(entry, () => copyBytes(entry.bytes('message', { max: MAX_NODE_MESSAGE_BYTES })))
  })
  return { ...shownOf(all), entries, more: all.optional('more', (name) => all.boolean(name)) ?? false }
}

/** @throws as {@link readAbout} */
export function readProof(message: unknown): Uint8Array {
  return proofOf(answer(message))
}

function answer(message: unknown): Fields {
  const all = fields(message, 'answer of the ledger')
  if (!all.has('failed')) return all
  const code = all.text('failed', { max: MAX_CODE_LENGTH })
  throw new PeerlineError(sayable(code), 'said by the node of the ledger')
}

function shownOf(all: Fields): Shown {
  return {
    head: copyBytes(all.bytes('head', { max: MAX_HEAD_BYTES })),
    base: all.integer('base'),
    proof: proofOf(all),
  }
}

function proofOf(all: Fields): Uint8Array {
  return copyBytes(all.bytes('proof', { max: MAX_PROOF_BYTES }))
}

function entryOf(all: Fields, message: () => Uint8Array): ProvenEntry {
  return {
    index: all.integer('index'),
    sequence: all.integer('sequence', { min: 1, max: MAX_SEQUENCE }),
    at: all.integer('at', { max: MAX_TIME_US }) / 1_000,
    message: message(),
    proof: proofOf(all),
  }
}

/** What a node may say of a failure: what `Ledger` names, so that none of ours (cancelled, timed out) is made up for us. */
const SAYABLE: ReadonlySet<string> = new Set<ErrorCode>([
  'ERR_PEERLINE_BUSY',
  'ERR_PEERLINE_DENIED',
  'ERR_PEERLINE_INVALID',
  'ERR_PEERLINE_PAYMENT',
  'ERR_PEERLINE_TOO_LARGE',
  'ERR_PEERLINE_UNREACHABLE',
])

/** `code` as a node tells it to others. */
export function sayable(code: string): ErrorCode {
  return isErrorCode(code) && SAYABLE.has(code) ? code : 'ERR_PEERLINE_REMOTE'
}
