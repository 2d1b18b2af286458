/**
 * One peer of the address book: what is known of it, as text that a person may write, and as JSON that may be anything.
 */
import { type Fields, fields, MAX_TIME_MS } from '../bytes/index.ts'
import { invalid } from '../errors.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'
import {
  AddressList,
  dialableAddress,
  type KnownAddress,
  MAX_ADDRESSES,
  MAX_FAILURES,
  SOURCES,
  standing,
} from './address-list.ts'

/** Tags of one peer. */
export const MAX_TAGS = 32

/** UTF-16 units of a name or a tag: a line of a list. */
const MAX_LABEL_CHARS = 64

/** UTF-16 units of a note: a paragraph. */
const MAX_NOTE_CHARS = 1_000

/** Ways to dial a peer: as `ConnectOptions.via` has them. */
const WAYS = ['auto', 'relay', 'direct', 'tcp', 'udp', 'webrtc'] as const

/** UTF-16 units of the URL of a relay, or a rendezvous, its peer id included. */
const MAX_URL_CHARS = 400

/** Rendezvous of one peer. */
export const MAX_RENDEZVOUS = 4

/** Topics of one peer: three at each of four ledgers; and UTF-16 units of one, as in a record. */
export const MAX_TOPICS = 12
const MAX_TOPIC_CHARS = 128

/** How a peer is dialled, unless a dial says otherwise. */
export interface DialSettings {
  /** Which ways may be used. */
  readonly via?: (typeof WAYS)[number]
  /** A relay to use before others, by its URL; `exclusive`: no other, and no direct path. */
  readonly relay?: { readonly url: string; readonly exclusive?: boolean }
}

/** What is known of a peer. */
export interface KnownPeer {
  readonly id: PeerId
  /** What the user calls it. */
  readonly name?: string
  readonly note?: string
  /** In alphabetical order. */
  readonly tags: readonly string[]
  /** The best first. */
  readonly addresses: readonly KnownAddress[]
  /** URLs of the rendezvous where it was last to be found, as it told or signed, or the user gave them. */
  readonly rendezvous?: readonly string[]
  /** Its topics at ledgers, as a record of it names them. */
  readonly topics?: readonly string[]
  /** How the user wants it dialled. */
  readonly dial?: DialSettings
  /** When we last had a session with it, whoever dialled; ms since 1970. */
  readonly lastMet?: number
}

/** The same, as it changes. */
export interface Entry {
  readonly id: PeerId
  name: string | undefined
  note: string | undefined
  tags: readonly string[]
  readonly addresses: AddressList
  rendezvous: readonly string[]
  topics: readonly string[]
  dial: DialSettings | undefined
  lastMet: number | undefined
  /** Of the newest record that was read since the start: an older one tells nothing any more. */
  sequence: number
}

/** True when the user has said something about the peer: it is not dropped. */
export function isMarked({ name, note, tags, dial, addresses }: Entry): boolean {
  return dial !== undefined || name !== undefined || note !== undefined || tags.length > 0 || addresses.given
}

export function view({ id, name, note, tags, addresses, rendezvous, topics, dial, lastMet }: Entry): KnownPeer {
  return {
    id,
    ...(name === undefined ? {} : { name }),
    ...(note === undefined ? {} : { note }),
    tags: [...tags],
    addresses: addresses.all.map((one) => ({ ...one })),
    ...(rendezvous.length === 0 ? {} : { rendezvous: [...rendezvous] }),
    ...(topics.length === 0 ? {} : { topics: [...topics] }),
    ...(dial === undefined ? {} : { dial }),
    ...(lastMet === undefined ? {} : { lastMet }),
  }
}

/**
 * Reads what `view` gave.
 * @throws PeerlineError `ERR_PEERLINE_INVALID`, or `ERR_PEERLINE_PROTOCOL` where a field is not of its kind
 */
export function readEntry(json: unknown): Entry {
  const all = fields(json, 'known peer')
  const id = all.text('id', { max: 100 })
  const peer = parsePeerId(id)
  if (peer !== id) throw invalid(`${id} is not in the form that the address book has`)
  const tags = all.texts('tags', { max: MAX_TAGS, maxLength: MAX_LABEL_CHARS })
  for (const [index, tag] of tags.entries()) {
    checkLabel(tag, 'tag')
    if (index > 0 && !(tags[index - 1]! < tag)) throw invalid(`the tags of ${id} are not in order`)
  }
  const name = all.optional('name', (at) => all.text(at, { max: MAX_LABEL_CHARS }))
  const note = all.optional('note', (at) => all.text(at, { min: 1, max: MAX_NOTE_CHARS }))
  if (name !== undefined) checkLabel(name, 'name')
  if (note !== undefined) checkNote(note)
  const lastMet = all.optional('lastMet', (at) => all.integer(at, { max: MAX_TIME_MS }))
  const addresses = all.list('addresses', { max: MAX_ADDRESSES }).map(readAddress)
  for (const [index, one] of addresses.entries()) {
    const before = addresses.slice(0, index)
    if (before.some(({ address }) => address === one.address)) throw invalid(`${id} has ${one.address} twice`)
    if (index > 0 && standing(before.at(-1)!) > standing(one)) throw invalid(`the addresses of ${id} are not in order`)
  }
  return {
    id: peer,
    name,
    note,
    tags: [...tags],
    addresses: new AddressList(addresses),
    rendezvous: distinct(
      all.optional('rendezvous', (at) => all.texts(at, { max: MAX_RENDEZVOUS, maxLength: MAX_URL_CHARS })),
      isUrl,
      'rendezvous of a peer are URLs',
    ),
    topics: distinct(
      all.optional('topics', (at) => all.texts(at, { max: MAX_TOPICS, maxLength: MAX_TOPIC_CHARS })),
      isTopic,
      'topics of a peer say at which ledger',
    ),
    dial: all.optional('dial', (at) => readDial(all.map(at))),
    lastMet,
    sequence: 0,
  }
}

function distinct(texts: readonly string[] = [], is: (text: string) => boolean, what: string): readonly string[] {
  if (!texts.every(is) || new Set(texts).size < texts.length) throw invalid(`the ${what}, each once`)
  return [...texts]
}

/** True for what may be the URL of a server; whether it is one that may be dialled, its reader says. */
export function isUrl(text: string): boolean {
  return text.length <= MAX_URL_CHARS && /^[a-z]+:\/\/[\x21-\x7e]+$/.test(text)
}

/** True for what may name a topic, `<ledger id>/in=<topic>`; what it means, its reader says. */
export function isTopic(text: string): boolean {
  return text.length <= MAX_TOPIC_CHARS && /^[\x21-\x7e]+=[\x21-\x7e]+$/.test(text)
}

function readDial(all: Fields): DialSettings | undefined {
  const relay = all.optional('relay', (at) => all.map(at))
  return checkDial({
    ...(all.has('via') ? { via: all.oneOf('via', WAYS) } : {}),
    ...(relay === undefined
      ? {}
      : {
          relay: {
            url: relay.text('url', { max: MAX_URL_CHARS }),
            ...(relay.has('exclusive') ? { exclusive: relay.boolean('exclusive') } : {}),
          },
        }),
  })
}

/** Settings, checked and copied; undefined when they say nothing. @throws PeerlineError `ERR_PEERLINE_INVALID` */
export function checkDial({ via, relay }: DialSettings): DialSettings | undefined {
  if (via !== undefined && !WAYS.includes(via)) throw invalid(`a peer is dialled by one of ${WAYS.join(', ')}`)
  if (
    relay !== undefined &&
    !(typeof relay.url === 'string' && relay.url !== '' && relay.url.length <= MAX_URL_CHARS)
  ) {
    throw invalid(`the URL of a relay has 1 to ${MAX_URL_CHARS} characters`)
  }
  if (via === undefined && relay === undefined) return undefined
  const { url, exclusive } = relay ?? {}
  return Object.freeze({
    ...(via === undefined ? {} : { via }),
    ...(url === undefined ? {} : { relay: Object.freeze({ url, ...(exclusive === true ? { exclusive } : {}) }) }),
  })
}

function readAddress(json: unknown): KnownAddress {
  const all = fields(json, 'known address')
  const address = all.text('address', { max: 300 })
  if (dialableAddress(address) !== address) throw invalid(`${JSON.stringify(address)} is not in its one form`)
  const lastSuccess = all.optional('lastSuccess', (at) => all.integer(at, { max: MAX_TIME_MS }))
  const lastFailure = all.optional('lastFailure', (at) => all.integer(at, { max: MAX_TIME_MS }))
  const failures = all.integer('failures', { max: MAX_FAILURES })
  if (failures > 0 && lastFailure === undefined) throw invalid(`${address} failed, but never`)
  return {
    address,
    source: all.oneOf('source', SOURCES),
    ...(lastSuccess === undefined ? {} : { lastSuccess }),
    ...(lastFailure === undefined ? {} : { lastFailure }),
    failures,
  }
}

// Control, invisible and half characters, and line ends: a name is shown in lists, and must not pass for another.
const UNSHOWABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/u

export function checkLabel(text: string, what: string): void {
  const fits = typeof text === 'string' && text.length > 0 && text.length <= MAX_LABEL_CHARS && text === text.trim()
  if (!fits) throw invalid(`a ${what} has 1 to ${MAX_LABEL_CHARS} characters, none of them a space at its ends`)
  if (UNSHOWABLE.test(text)) throw invalid(`a ${what} has only characters that can be seen`)
}

export function checkNote(text: string): void {
  const fits = typeof text === 'string' && text.length <= MAX_NOTE_CHARS
  if (!fits) throw invalid(`a note has at most ${MAX_NOTE_CHARS} characters`)
  if (UNSHOWABLE.test(text.replaceAll(/[\n\t]/g, ''))) throw invalid('a note has only characters that can be seen')
}
