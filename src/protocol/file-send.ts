/**
 * Sends a file; the wire is drawn in file-wire.ts.
 *
 * The file is read once and hashed as it goes; only what the receiver has already is read and hashed without being sent.
 */
import { createHash, type Hash } from 'node:crypto'
import type { BigIntStats } from 'node:fs'
import { constants, type FileHandle, open } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Bucket } from '../bucket.ts'
import { equalBytes, toHex } from '../bytes/index.ts'
import { abortError, PeerlineError } from '../errors.ts'
import { ioError } from '../io-error.ts'
import type { Session } from '../session/index.ts'
import { wellFormed } from './failure.ts'
import { FILE_PROTOCOL, FileWire, HASH_BYTES, patienceMs } from './file-wire.ts'
import { hashRange, PIECE_BYTES, ReadAhead } from './read-ahead.ts'

/** UTF-16 units of the longest name told back by a receiver: file systems end at 255 bytes. */
const MAX_SAVED_AS_LENGTH = 255

/** ms of sending at once that a limited rate allows: short enough to look even, long enough for whole pieces. */
const BURST_MS = 100

export interface SendProgress {
  /** The name of the file. */
  readonly file: string
  /** Bytes of the file that are on their way or were there already. */
  readonly sentBytes: number
  /** Bytes of these that were there already. */
  readonly startBytes: number
  readonly totalBytes: number
}

export interface SendFileOptions {
  /** Gives up; what has arrived is kept by the receiver, and sending again goes on from there. */
  readonly signal?: AbortSignal
  /** Told of every piece, up to 64 KiB each. */
  readonly onProgress?: (progress: SendProgress) => void
  /** Bytes a second, at most. @default unlimited */
  readonly maxBytesPerSecond?: number
}

export interface SentFile {
  readonly name: string
  /** Size of the file. */
  readonly bytes: number
  /** Bytes that the receiver had already. */
  readonly resumedFrom: number
  /** What the receiver calls it. */
  readonly savedAs: string
  /** Of the whole file, hex. */
  readonly sha256: string
}

/**
 * Sends the file at `path`, going on where an earlier attempt stopped.
 * @throws PeerlineError `ERR_PEERLINE_FILE` when it cannot be read or changes meanwhile; what the receiver says, such as
 *   `ERR_PEERLINE_DISK_FULL`, `ERR_PEERLINE_TOO_LARGE`, `ERR_PEERLINE_BUSY`; `ERR_PEERLINE_ABORTED`; what ended the stream
 */
export async function sendFile(session: Session, file: string, options: SendFileOptions = {}): Promise<SentFile> {
  const { signal, maxBytesPerSecond } = options
  if (signal?.aborted) throw abortError(signal, 'sending a file')
  if (maxBytesPerSecond !== undefined && !(maxBytesPerSecond > 0)) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', 'maxBytesPerSecond must be above 0')
  }
  const { handle, stat } = await openSource(file)
  try {
    const stream = await session.open(FILE_PROTOCOL, signal === undefined ? {} : { signal })
    const wire = new FileWire(stream, signal)
    try {
      return await send(wire, handle, stat, wellFormed(path.basename(file)), options)
    } catch (error) {
      throw wire.giveUp(error)
    } finally {
      wire.close()
    }
  } finally {
    await handle.close()
  }
}

async function openSource(file: string): Promise<{ handle: FileHandle; stat: BigIntStats }> {
  let handle: FileHandle
  try {
    // Without O_NONBLOCK, opening a named pipe would wait for its writer.
    handle = await open(file, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0))
  } catch (cause) {
    throw new PeerlineError('ERR_PEERLINE_FILE', `cannot open ${file}: ${(cause as NodeJS.ErrnoException).code}`, {
      cause,
    })
  }
  try {
    const stat = await handle.stat({ bigint: true })
    if (stat.isFile()) return { handle, stat }
    throw new PeerlineError(
      'ERR_PEERLINE_FILE',
      stat.isDirectory()
        ? `${file} is a directory; send its files, or an archive of it`
        : `${file} is not a plain file`,
    )
  } catch (error) {
    await handle.close()
    throw ioError(error, `looking at ${file}`)
  }
}

async function send(
  wire: FileWire,
  handle: FileHandle,
  stat: BigIntStats,
  name: string,
  options: SendFileOptions,
): Promise<SentFile> {
  const size = Number(stat.size)
  await wire.send({ name, size, modified: Math.max(0, Number(stat.mtimeMs)) })
  const has = await wire.answer(patienceMs(size))
  const offset = has.integer('offset', { max: size })
  const { start, hash } = await meet(wire, handle, offset, has.bytes('hash', { length: HASH_BYTES }))
  await wire.send({ start })

  const { onProgress, maxBytesPerSecond } = options
  const pace = maxBytesPerSecond === undefined ? undefined : new Pace(maxBytesPerSecond)
  const pieces = new ReadAhead(handle, start, size, pace?.pieceBytes)
  for (let sentBytes = start; ; ) {
    const piece = await ofFile(wire, pieces.next())
    if (piece === undefined) break
    hash.update(piece)
    await pace?.wait(piece.length, options.signal)
    await wire.sendBytes(piece)
    sentBytes += piece.length
    onProgress?.({ file: name, sentBytes, startBytes: start, totalBytes: size })
  }
  await ofFile(wire, checkUnchanged(handle, stat, name))

  const digest = hash.digest()
  wire.last({ hash: digest })
  const savedAs = (await wire.answer(patienceMs(size))).text('savedAs', { min: 1, max: MAX_SAVED_AS_LENGTH })
  return {
    name,
    bytes: size,
    resumedFrom: start,
    // It will be printed: a terminal obeys control characters.
    savedAs: savedAs.replace(/\p{Cc}/gu, ' '),
    sha256: toHex(digest),
  }
}

/** Where to start: at `offset` if the receiver has the same bytes up to there, otherwise at 0. */
async function meet(
  wire: FileWire,
  handle: FileHandle,
  offset: number,
  theirs: Uint8Array,
): Promise<{ start: number; hash: Hash }> {
  if (offset === 0) return { start: 0, hash: createHash('sha256') }
  const hash = await ofFile(
    wire,
    hashRange(handle, offset, () => wire.check()),
  )
  const same = equalBytes(hash.copy().digest(), theirs)
  return same ? { start: offset, hash } : { start: 0, hash: createHash('sha256') }
}

async function checkUnchanged(handle: FileHandle, before: BigIntStats, name: string): Promise<void> {
  const now = await handle.stat({ bigint: true })
  if (now.size === before.size && now.mtimeNs === before.mtimeNs) return
  throw new PeerlineError('ERR_PEERLINE_FILE', `${name} changed while it was sent`)
}

/** What went wrong with the file itself is told by an early end. */
async function ofFile<T>(wire: FileWire, work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    wire.check()
    throw wire.cutShort(ioError(error, 'reading the file'))
  }
}

/** Keeps to a rate: each piece is due when those before it have had their time, less what a burst allows. */
class Pace {
  /** Bytes of a piece: what a burst lets through at once. */
  readonly pieceBytes: number
  readonly #bucket: Bucket

  constructor(bytesPerSecond: number) {
    const burst = (bytesPerSecond / 1_000) * BURST_MS
    this.pieceBytes = Math.min(PIECE_BYTES, Math.max(1, Math.floor(burst)))
    this.#bucket = new Bucket(bytesPerSecond, burst)
  }

  /** Waits until `bytes` may go. */
  async wait(bytes: number, signal: AbortSignal | undefined): Promise<void> {
    this.#bucket.spend(bytes)
    const ms = this.#bucket.msUntil(0)
    if (ms > 0) await sleep(ms, undefined, signal === undefined ? {} : { signal })
  }
}
