/**
 * One peer of the address book: what is known of it, as text that a person may write, and as JSON that may be anything.
 */
import { fields } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
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

/** The latest time a `Date` can hold, ms since 1970 (ECMA-262 section 21.4.1.1). */
const MAX_TIME_MS = 8.64e15

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
  lastMet: number | undefined
}

/** True when the user has said something about the peer: it is not dropped. */
export function isMarked({ name, note, tags, addresses }: Entry): boolean {
  return name !== undefined || note !== undefined || tags.length > 0 || addresses.given
}

export function view({ id, name, note, tags, addresses, lastMet }: Entry): KnownPeer {
  return {
    id,
    ...(name === undefined ? {} : { name }),
    ...(note === undefined ? {} : { note }),
    tags: [...tags],
    addresses: addresses.all.map((one) => ({ ...one })),
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
    lastMet,
  }
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

function invalid(message: string, cause?: unknown): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_INVALID', message, { cause })
}
