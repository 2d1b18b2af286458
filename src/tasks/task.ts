/**
 * A task: one unit of network work, as data. It is queued here (`task-queue.ts`), or comes from an authority.
 *
 *     task   CBOR { kind, … }      at most 64 KiB, and what its kind has, under the same names:
 *
 *     block, unblock      peer | addresses; until, why of a block         keep out, both ways; end that
 *     authorise, revoke   peer, ?protocol; ?until of authorise            trust altogether, or for one protocol; end that
 *     disconnect, ping    peer
 *     send                peer, protocol, body                            one way: nobody says that it came
 *     send-data           peer, protocol, body                            until the other side has said so
 *     request-data        peer, protocol, body                            the result is the answer
 *     synchronise         peer, protocol, have                            `have`: what this side has, as the protocol says it
 *     update-settings     settings: [[name, value], …] by rising name     null puts a setting back
 *     verify              peer, message, signature | peer, hash           is it its signature; does it know the hash
 *     assign-identifier   peer, identifier                                the name that a peer goes by
 *
 * - On the wire a peer is its 32 bytes. Fields nobody reads are ignored, so that a later version may add some.
 * - A kind that is not known is no failure: a later version may have it. It is read as `unknown`, with its name.
 * - Who sent a task, and whether that one may give orders, is not said here: the envelope is verified before it is read.
 */
import { copyBytes, decodeCbor, encodeCbor, type Fields, fields, MAX_TIME_MS } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
import { type PeerId, peerIdFromPublicKey, publicKeyOf, SIGNATURE_BYTES } from '../identity/index.ts'

/** Bytes of the largest task: larger data goes by a stream. A full queue of them takes 64 MB. */
export const MAX_TASK_BYTES = 65_536

/** UTF-16 units of a protocol, or a pattern of them: as long as on the wire. */
const MAX_PROTOCOL_CHARS = 128
/** UTF-16 units of a kind, of the name of a setting, and of an identifier. */
const MAX_NAME_CHARS = 64
/** UTF-16 units of a reason: a line. */
const MAX_WHY_CHARS = 200
/** UTF-16 units of a text as a setting: a path or a URL. */
const MAX_SETTING_CHARS = 2_048
/** Settings of one task: more than there are. */
const MAX_SETTINGS = 64
/** Bytes of a hash: of SHA-256, at least, and of SHA-512. */
const MIN_HASH_BYTES = 32
const MAX_HASH_BYTES = 64
const SETTING = /^[A-Za-z][A-Za-z0-9._-]*$/
/** As an address, or a prefix in CIDR form, looks; whoever blocks it reads it. */
const ADDRESSES = /^[0-9A-Fa-f.:/]{2,64}$/

/** The value of a setting; null puts it back to what it is by default. Numbers are whole. */
export type Setting = null | boolean | number | string

/** One peer, or addresses by prefix, such as `192.0.2.0/24`. */
type Blocked =
  | { readonly peer: PeerId; readonly addresses?: never }
  | { readonly addresses: string; readonly peer?: never }

interface Exchange {
  readonly peer: PeerId
  readonly protocol: string
  readonly body: Uint8Array
}

/** What each kind of task has. */
interface TaskData {
  /** `until`: ms since 1970, for good without. `why`: a line for people. */
  block: Blocked & { readonly until?: number; readonly why?: string }
  unblock: Blocked
  send: Exchange
  ping: { readonly peer: PeerId }
  disconnect: { readonly peer: PeerId }
  /** `until`: ms since 1970, for good without. */
  authorise: { readonly peer: PeerId; readonly protocol?: string; readonly until?: number }
  revoke: { readonly peer: PeerId; readonly protocol?: string }
  'request-data': Exchange
  'send-data': Exchange
  synchronise: { readonly peer: PeerId; readonly protocol: string; readonly have: Uint8Array }
  'update-settings': { readonly settings: Readonly<Record<string, Setting>> }
  /** Whether `signature` over `message` is of `peer`; or whether `peer` has a record with this hash. */
  verify:
    | { readonly peer: PeerId; readonly message: Uint8Array; readonly signature: Uint8Array; readonly hash?: never }
    | { readonly peer: PeerId; readonly hash: Uint8Array; readonly message?: never; readonly signature?: never }
  'assign-identifier': { readonly peer: PeerId; readonly identifier: string }
}

export type TaskKind = keyof TaskData

/** A task of one kind. */
export type TaskOf<K extends TaskKind> = { [P in K]: { readonly kind: P } & TaskData[P] }[K]

/** What somebody asked for that this version does not know. */
export interface UnknownTask {
  readonly kind: 'unknown'
  /** The kind, as it was called: 1 to 64 characters, none of them a control character. */
  readonly name: string
}

export type KnownTask = TaskOf<TaskKind>
export type Task = KnownTask | UnknownTask

const READERS: { readonly [K in TaskKind]: (f: Fields) => TaskData[K] } = {
  block: (f) => ({
    ...readBlocked(f),
    ...ifGiven(f, 'until', readTime),
    ...ifGiven(f, 'why', () => readLine(f, 'why', MAX_WHY_CHARS)),
  }),
  unblock: readBlocked,
  send: readExchange,
  ping: (f) => ({ peer: readPeer(f) }),
  disconnect: (f) => ({ peer: readPeer(f) }),
  authorise: (f) => ({
    peer: readPeer(f),
    ...ifGiven(f, 'protocol', () => readProtocol(f)),
    ...ifGiven(f, 'until', readTime),
  }),
  revoke: (f) => ({ peer: readPeer(f), ...ifGiven(f, 'protocol', () => readProtocol(f)) }),
  'request-data': readExchange,
  'send-data': readExchange,
  synchronise: (f) => ({ peer: readPeer(f), protocol: readProtocol(f), have: readBytes(f, 'have') }),
  'update-settings': (f) => ({ settings: readSettings(f) }),
  verify: readVerify,
  'assign-identifier': (f) => ({ peer: readPeer(f), identifier: readLine(f, 'identifier', MAX_NAME_CHARS) }),
}

/** True for a kind of task that this version knows. */
function isTaskKind(name: string): name is TaskKind {
  return Object.hasOwn(READERS, name)
}

/**
 * A task in memory of its own, checked and frozen; what its kind does not have is left out. A kind that is not known
 * becomes `unknown`.
 * @throws PeerlineError `ERR_PEERLINE_INVALID`, which names the part that is wrong
 */
export function checkTask(task: Task): Task {
  try {
    if (task?.kind === 'unknown') return unknownTask(readLine(fields(task, 'task'), 'name', MAX_NAME_CHARS))
    return read(toWire(task))
  } catch (cause) {
    const said = cause instanceof Error ? cause.message : 'the task is not valid'
    throw new PeerlineError('ERR_PEERLINE_INVALID', said, { cause })
  }
}

/**
 * The bytes of a task.
 * @throws PeerlineError `ERR_PEERLINE_INVALID`; `ERR_PEERLINE_TOO_LARGE` above 64 KiB
 */
export function encodeTask(task: KnownTask): Uint8Array {
  const checked = checkTask(task)
  if (checked.kind === 'unknown') throw new PeerlineError('ERR_PEERLINE_INVALID', `no task is called ${checked.name}`)
  const bytes = encodeCbor(toWire(checked))
  if (bytes.length <= MAX_TASK_BYTES) return bytes
  throw new PeerlineError(
    'ERR_PEERLINE_TOO_LARGE',
    `The task has ${bytes.length} bytes, the limit is ${MAX_TASK_BYTES}`,
  )
}

/**
 * The task in `bytes`, in memory of its own. Verify who sent it first.
 * @throws PeerlineError `ERR_PEERLINE_PROTOCOL`; `ERR_PEERLINE_TOO_LARGE` above 64 KiB
 */
export function decodeTask(bytes: Uint8Array): Task {
  return read(decodeCbor(bytes, { maxBytes: MAX_TASK_BYTES }))
}

function unknownTask(name: string): UnknownTask {
  return Object.freeze({ kind: 'unknown', name })
}

/** As CBOR wants it; what is wrong with it is for {@link read} to say. */
function toWire(task: KnownTask): unknown {
  const { peer, settings } = task as { peer?: unknown; settings?: unknown }
  const wire: Record<string, unknown> = { ...task }
  if (typeof peer === 'string') wire.peer = publicKeyOf(peer as PeerId)
  if (typeof settings === 'object' && settings !== null) {
    wire.settings = Object.entries(settings).sort(([a], [b]) => (a < b ? -1 : 1))
  }
  return wire
}

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
function read(wire: unknown): Task {
  const all = fields(wire, 'task')
  const kind = readLine(all, 'kind', MAX_NAME_CHARS)
  if (!isTaskKind(kind)) return unknownTask(kind)
  return Object.freeze({ kind, ...READERS[kind](all) }) as KnownTask
}

function readPeer(f: Fields): PeerId {
  const key = f.bytes('peer', { length: 32 })
  try {
    return peerIdFromPublicKey(key)
  } catch (cause) {
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'peer of the task is no valid peer', { cause })
  }
}

/** A line of text. It may be printed: a terminal obeys control characters. */
function readLine(f: Fields, name: string, max: number): string {
  const line = f.text(name, { min: 1, max })
  if (/\p{Cc}/u.test(line)) throw broken(`${name} of the task has control characters`)
  return line
}

function readProtocol(f: Fields): string {
  return readLine(f, 'protocol', MAX_PROTOCOL_CHARS)
}

function readBytes(f: Fields, name: string): Uint8Array {
  return copyBytes(f.bytes(name, { max: MAX_TASK_BYTES }))
}

function readTime(f: Fields, name: string): number {
  return f.integer(name, { min: 1, max: MAX_TIME_MS })
}

function readExchange(f: Fields): Exchange {
  return { peer: readPeer(f), protocol: readProtocol(f), body: readBytes(f, 'body') }
}

function readBlocked(f: Fields): Blocked {
  if (!f.has('addresses')) return { peer: readPeer(f) }
  if (f.has('peer')) throw broken('the task names a peer and addresses: one of them')
  const addresses = f.text('addresses', { max: MAX_NAME_CHARS })
  if (!ADDRESSES.test(addresses)) throw broken('addresses of the task are no address and no prefix')
  return { addresses }
}

function readVerify(f: Fields): TaskData['verify'] {
  const peer = readPeer(f)
  if (!f.has('hash')) {
    const signature = copyBytes(f.bytes('signature', { length: SIGNATURE_BYTES }))
    return { peer, message: readBytes(f, 'message'), signature }
  }
  if (f.has('signature') || f.has('message')) throw broken('the task has a hash and a signature: one of them')
  const hash = copyBytes(f.bytes('hash', { max: MAX_HASH_BYTES }))
  if (hash.length < MIN_HASH_BYTES) throw broken(`hash of the task must be at least ${MIN_HASH_BYTES} bytes`)
  return { peer, hash }
}

function readSettings(f: Fields): Readonly<Record<string, Setting>> {
  const settings: Record<string, Setting> = {}
  let last = ''
  for (const pair of f.list('settings', { max: MAX_SETTINGS })) {
    if (!Array.isArray(pair) || pair.length !== 2) throw broken('a setting of the task is no name with a value')
    const [name, value] = pair as [unknown, unknown]
    if (typeof name !== 'string' || name.length > MAX_NAME_CHARS || !SETTING.test(name)) {
      throw broken('a setting of the task has no valid name')
    }
    if (name <= last) throw broken('the settings of the task are twice or out of order')
    if (!isSetting(value)) throw broken(`the setting ${name} of the task has no valid value`)
    settings[name] = value
    last = name
  }
  return Object.freeze(settings)
}

function isSetting(value: unknown): value is Setting {
  if (typeof value === 'string') return value.length <= MAX_SETTING_CHARS
  return value === null || typeof value === 'boolean' || Number.isSafeInteger(value)
}

/** The field, if it is there, in an object of its own. */
function ifGiven<N extends string, T>(f: Fields, name: N, read: (f: Fields, name: N) => T): { [K in N]?: T } {
  return f.has(name) ? ({ [name]: read(f, name) } as { [K in N]?: T }) : {}
}

function broken(message: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', message)
}
