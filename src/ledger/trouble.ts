/**
 * Troubles: what a peer writes to its stderr topic when something has gone wrong, for its owner and for whoever is concerned.
 *
 *     trouble = CBOR { code, action, ?text, ?about 16 }
 *
 *     code     one of errors.ts; one that is not known here is a later version's, and reads as ERR_PEERLINE_REMOTE
 *     action   what to do about it, one of RECOVER_ACTIONS; one that is not known reads as `do-nothing`
 *     about    the tag of an offer: then it is for whoever made that; else it is for the owner of the writer
 *
 * Everybody may read it. So it names no peer: what could be a key is struck out of the text before it is written, and the
 * text is the writer's own words, never the message of an error, for those quote ids and addresses.
 */
import { copyBytes, decodeCbor, encodeCbor, fields } from '../bytes/index.ts'
import { type ErrorCode, isErrorCode, PeerlineError } from '../errors.ts'

/** What to do about a trouble. */
export const RECOVER_ACTIONS = [
  'do-nothing',
  'send-fresh-offer',
  'check-your-topic',
  'punch-again',
  'top-up',
  'upgrade',
  'stop-sending',
  'restart',
  'shut-down',
] as const
export type RecoverAction = (typeof RECOVER_ACTIONS)[number]

/** Bytes of the tag of an offer. */
export const OFFER_TAG_BYTES = 16

/** Characters of a text, in UTF-16 units: a sentence. */
const MAX_TEXT_LENGTH = 200

/** Characters of a code or an action: twice the longest there is, for those of later versions. */
const MAX_NAME_LENGTH = 64

/** Bytes of a trouble: three to a UTF-16 unit, two names, the tag, and the names of the fields. */
export const MAX_TROUBLE_BYTES = 3 * MAX_TEXT_LENGTH + 2 * MAX_NAME_LENGTH + OFFER_TAG_BYTES + 64

export interface Trouble {
  readonly code: ErrorCode
  readonly action: RecoverAction
  /** For people: at most 200 characters. */
  readonly text?: string | undefined
  /** The offer it is about, by its tag: 16 bytes. */
  readonly about?: Uint8Array | undefined
}

/** What is to be done about an error, where its code alone says so. */
export function recoverActionOf(code: ErrorCode): RecoverAction {
  switch (code) {
    case 'ERR_PEERLINE_EXPIRED':
    case 'ERR_PEERLINE_REPLAY':
    case 'ERR_PEERLINE_TIMEOUT':
      return 'send-fresh-offer'
    case 'ERR_PEERLINE_LEDGER':
    case 'ERR_PEERLINE_WRONG_PEER':
      return 'check-your-topic'
    case 'ERR_PEERLINE_NO_PATH':
    case 'ERR_PEERLINE_PATH_LOST':
      return 'punch-again'
    case 'ERR_PEERLINE_PAYMENT':
      return 'top-up'
    case 'ERR_PEERLINE_VERSION':
    case 'ERR_PEERLINE_PROTOCOL':
      return 'upgrade'
    case 'ERR_PEERLINE_BUSY':
    case 'ERR_PEERLINE_DENIED':
      return 'stop-sending'
    case 'ERR_PEERLINE_DISK_FULL':
    case 'ERR_PEERLINE_KEY_FILE':
      return 'shut-down'
    default:
      return 'do-nothing'
  }
}

/** @throws ERR_PEERLINE_INVALID for a tag that is none */
export function encodeTrouble({ code, action, text, about }: Trouble): Uint8Array {
  if (about !== undefined && about.length !== OFFER_TAG_BYTES) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `the tag of an offer has ${OFFER_TAG_BYTES} bytes`)
  }
  return encodeCbor({ code, action, text: text === undefined ? undefined : plainText(nameless(text)), about })
}

/** @throws ERR_PEERLINE_PROTOCOL or ERR_PEERLINE_TOO_LARGE for what is no trouble */
export function readTrouble(payload: Uint8Array): Trouble {
  const f = fields(decodeCbor(payload, { maxBytes: MAX_TROUBLE_BYTES, maxDepth: 4 }), 'trouble')
  const code = f.text('code', { max: MAX_NAME_LENGTH })
  const named = f.text('action', { max: MAX_NAME_LENGTH })
  const text = f.optional('text', (name) => f.text(name, { max: MAX_TEXT_LENGTH }))
  const about = f.optional('about', (name) => copyBytes(f.bytes(name, { length: OFFER_TAG_BYTES })))
  return {
    code: isErrorCode(code) ? code : 'ERR_PEERLINE_REMOTE',
    action: RECOVER_ACTIONS.find((one) => one === named) ?? 'do-nothing',
    ...(text === undefined ? {} : { text: plainText(text) }),
    ...(about === undefined ? {} : { about }),
  }
}

/** The trouble as an error, for whoever waits for the offer that it is about. */
export function troubleError({ code, action, text }: Trouble): PeerlineError {
  const said = text === undefined || text === '' ? 'it did not say why' : text
  return new PeerlineError(code, `the peer cannot take the offer: ${said} (${action})`)
}

/** Peer ids, did:keys and hexadecimal keys are the only words that are so long. */
function nameless(text: string): string {
  return text.replace(/[A-Za-z0-9]{40,}/g, '…')
}

/** `text` on one line, without control characters or broken pairs: it ends in a terminal or a log. */
function plainText(text: string): string {
  // Cut first: it may break a pair, and half a pair is of the class that is replaced.
  return text.slice(0, MAX_TEXT_LENGTH).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, ' ')
}
