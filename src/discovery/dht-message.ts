/**
 * Messages of the Mainline DHT (KRPC, BEP 5), read strictly before the library sees them: it takes them to be well-formed, and
 * throws where they are not.
 *
 *     message  = { "t": transaction, "y": "q", "q": method, "a": { "id": 20 bytes, ... } }
 *              | { "t": transaction, "y": "r",              "r": { "id": 20 bytes, ... } }
 *              | { "t": transaction, "y": "e",              "e": [code, text] }
 *     bencode  = "i" number "e" | length ":" bytes | "l" bencode* "e" | "d" (key bencode)* "e"
 *
 * - Of what is known the type and the length are checked; what is not known may be there, and is not looked at.
 * - Numbers are whole and exact in 53 bits; keys come once, but in any order: some nodes do not sort them.
 * - An item (BEP 44) is a string of at most 1,000 bytes here. Items of other kinds are neither kept for others nor read.
 * Limits: {@link MAX_MESSAGE_BYTES} and {@link MAX_DEPTH}.
 */
import { PeerlineError } from '../errors.ts'

/** An item, its key, signature, salt and token take 1,250 bytes; nodes of both families may stand beside them. */
export const MAX_MESSAGE_BYTES = 2_048

/** A message, its arguments, and lists in these; two more for what others add. */
const MAX_DEPTH = 5

/** An id of a node, or the name of what is sought: SHA-1. */
export const ID_BYTES = 20

const KEY_BYTES = 32
const SIGNATURE_BYTES = 64
const MAX_VALUE_BYTES = 1_000 // BEP 44
const MAX_SALT_BYTES = 64 // BEP 44
const MAX_TRANSACTION_BYTES = 32 // two are usual
const MAX_TOKEN_BYTES = 128 // 4 to 20 are usual
const MAX_METHOD_BYTES = 32
const NODE_BYTES = ID_BYTES + 6 // BEP 5: id, IPv4 address, port
const MAX_PORT = 65_535

export type Bencoded = number | Uint8Array | readonly Bencoded[] | ReadonlyMap<string, Bencoded>

export type DhtMessage =
  | { readonly kind: 'query'; readonly method: string; readonly target: Uint8Array | undefined }
  | { readonly kind: 'answer' }

/** Reads one value that takes all of `bytes`. @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
export function readBencode(bytes: Uint8Array): Bencoded {
  let at = 0
  const value = readValue(0)
  if (at !== bytes.length) throw broken('something follows')
  return value

  function readValue(depth: number): Bencoded {
    if (depth >= MAX_DEPTH) throw broken('too deep')
    switch (bytes[at]) {
      case 0x69: // i
        at++
        return readNumber(0x65)
      case 0x6c: // l
        return readList(depth)
      case 0x64: // d
        return readMap(depth)
      default:
        return readBytes()
    }
  }

  function readList(depth: number): readonly Bencoded[] {
    at++
    const list: Bencoded[] = []
    while (bytes[at] !== 0x65) list.push(readValue(depth + 1))
    at++
    return list
  }

  function readMap(depth: number): ReadonlyMap<string, Bencoded> {
    at++
    const map = new Map<string, Bencoded>()
    while (bytes[at] !== 0x65) {
      const key = textOf(readBytes())
      // The library makes plain objects of these.
      if (map.has(key) || key === '__proto__') throw broken('a key that may not be')
      map.set(key, readValue(depth + 1))
    }
    at++
    return map
  }

  function readBytes(): Uint8Array {
    const length = readNumber(0x3a)
    if (length < 0 || length > bytes.length - at) throw broken('it ends too soon')
    at += length
    return bytes.subarray(at - length, at)
  }

  /** In decimal, up to the byte that ends it. */
  function readNumber(end: number): number {
    const from = at
    while (at < bytes.length && at - from <= 17 && bytes[at] !== end) at++
    const text = textOf(bytes.subarray(from, at))
    const value = /^(0|-?[1-9]\d*)$/.test(text) ? Number(text) : Number.NaN
    if (bytes[at] !== end || !Number.isSafeInteger(value)) throw broken('a number that is none')
    at++
    return value
  }
}

/** Reads a message. @throws PeerlineError `ERR_PEERLINE_PROTOCOL` for one that may not be passed on */
export function readDhtMessage(bytes: Uint8Array): DhtMessage {
  if (bytes.length > MAX_MESSAGE_BYTES) throw broken(`it has ${bytes.length} bytes`)
  const message = readBencode(bytes)
  if (!(message instanceof Map)) throw broken('it is no map')
  if (!isBytes(message.get('t'), 1, MAX_TRANSACTION_BYTES)) throw broken('it has no transaction')
  const kind = message.get('y')
  switch (isBytes(kind, 1) ? textOf(kind) : undefined) {
    case 'q':
      return readQuery(message.get('q'), message.get('a'))
    case 'r':
      checkFields(message.get('r'))
      return { kind: 'answer' }
    case 'e': {
      const [code, text] = Array.isArray(message.get('e')) ? (message.get('e') as readonly Bencoded[]) : []
      if (typeof code !== 'number' || !(text instanceof Uint8Array)) throw broken('an error without a code')
      return { kind: 'answer' }
    }
    default:
      throw broken('its kind is not known')
  }
}

function readQuery(method: Bencoded | undefined, args: Bencoded | undefined): DhtMessage {
  if (!isBytes(method, 1, MAX_METHOD_BYTES)) throw broken('it has no method')
  const fields = checkFields(args)
  // A sequence may stand alone: a get says so which one is known already.
  const parts = ['k', 'sig', 'seq'].map((name) => fields.has(name))
  if (parts.includes(true) && parts.includes(false) && (parts[0] || parts[1])) throw broken('an item that is not whole')
  const target = (fields.get('target') ?? fields.get('info_hash')) as Uint8Array | undefined
  return { kind: 'query', method: textOf(method), target }
}

const isNumber =
  (max = Number.MAX_SAFE_INTEGER) =>
  (value: Bencoded) =>
    typeof value === 'number' && value >= 0 && value <= max
const ofBytes = (min: number, max: number) => (value: Bencoded) => isBytes(value, min, max)

/** What the library reads of the arguments of a query, or of an answer. */
const FIELDS: Readonly<Record<string, (value: Bencoded) => boolean>> = {
  id: ofBytes(ID_BYTES, ID_BYTES),
  target: ofBytes(ID_BYTES, ID_BYTES),
  info_hash: ofBytes(ID_BYTES, ID_BYTES),
  token: ofBytes(1, MAX_TOKEN_BYTES),
  nodes: (value) => value instanceof Uint8Array && value.length % NODE_BYTES === 0,
  values: (value) => Array.isArray(value) && value.every((one) => isBytes(one, 6, 18)), // IPv4 or IPv6, and a port
  port: isNumber(MAX_PORT),
  implied_port: isNumber(),
  v: ofBytes(0, MAX_VALUE_BYTES),
  k: ofBytes(KEY_BYTES, KEY_BYTES),
  sig: ofBytes(SIGNATURE_BYTES, SIGNATURE_BYTES),
  salt: ofBytes(0, MAX_SALT_BYTES),
  seq: isNumber(),
  cas: isNumber(),
}

function checkFields(fields: Bencoded | undefined): ReadonlyMap<string, Bencoded> {
  if (!(fields instanceof Map) || !fields.has('id')) throw broken('nobody says it')
  for (const [name, check] of Object.entries(FIELDS)) {
    const value = fields.get(name)
    if (value !== undefined && !check(value)) throw broken(`its ${name} is none`)
  }
  return fields
}

function isBytes(value: Bencoded | undefined, min: number, max = min): value is Uint8Array {
  return value instanceof Uint8Array && value.length >= min && value.length <= max
}

function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1')
}

function broken(why: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', `not a message of the DHT: ${why}`)
}
