/**
 * Receives a file; the wire is drawn in file-wire.ts, what lies on disk meanwhile in file-part.ts.
 *
 * Nothing the sender says is believed: the name is made safe, the size is limited before a byte is written and held to
 * afterwards, the content counts when its hash is right.
 */
import { createHash, type Hash } from 'node:crypto'
import path from 'node:path'
import { equalBytes, toHex } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Stream } from '../session/index.ts'
import { safeFileName } from './file-name.ts'
import { PartFile } from './file-part.ts'
import { FileWire, HASH_BYTES, patienceMs } from './file-wire.ts'
import { hashRange } from './read-ahead.ts'

/** UTF-16 units of the longest name taken: file systems end at 255 bytes or units, of which we keep 200 bytes. */
const MAX_NAME_LENGTH = 1_024

export interface IncomingFile {
  readonly from: PeerId
  /** The name, made safe; it may still get a number. */
  readonly name: string
  readonly totalBytes: number
  /** Bytes that are here from an earlier attempt, before they are compared. */
  readonly partBytes: number
}

export interface ReceiveProgress {
  readonly file: string
  /** Bytes of the file that have come, or were here. */
  readonly receivedBytes: number
  /** Bytes of these that were here. */
  readonly startBytes: number
  readonly totalBytes: number
}

export interface ReceiveFileOptions {
  /** Who opened the stream. */
  readonly from: PeerId
  /** Where the file goes; it must exist. */
  readonly directory: string
  /** Gives up; what has come is kept for another attempt. */
  readonly signal?: AbortSignal
  /** Bytes of the largest file taken. @default unlimited */
  readonly maxFileBytes?: number
  /** Told before anything is transferred. What it throws refuses the file; the sender is told a `PeerlineError`. */
  readonly onStart?: (file: IncomingFile) => void
  /** Told of every piece, up to 64 KiB each. */
  readonly onProgress?: (progress: ReceiveProgress) => void
}

export interface ReceivedFile {
  /** What the file is called here. */
  readonly name: string
  readonly path: string
  readonly bytes: number
  /** Bytes that were here from an earlier attempt. */
  readonly resumedFrom: number
  /** Of the whole file, hex. */
  readonly sha256: string
}

interface Header {
  readonly name: string
  readonly size: number
  readonly modified: number
}

/**
 * Receives the file that comes on `stream`, and puts it in `directory` under a free name.
 * @throws PeerlineError `ERR_PEERLINE_TOO_LARGE`, `ERR_PEERLINE_BUSY`, `ERR_PEERLINE_DISK_FULL`, `ERR_PEERLINE_CORRUPT`,
 *   `ERR_PEERLINE_FILE` also when the sender's file changed; all of these the sender is told. `ERR_PEERLINE_PROTOCOL`,
 *   `ERR_PEERLINE_TIMEOUT`, `ERR_PEERLINE_ABORTED`; what ended the stream
 */
export async function receiveFile(stream: Stream, options: ReceiveFileOptions): Promise<ReceivedFile> {
  const wire = new FileWire(stream, options.signal)
  try {
    const header = await readHeader(wire, options.maxFileBytes ?? Number.MAX_SAFE_INTEGER)
    const name = safeFileName(header.name)
    const part = await PartFile.open(options.directory, { from: options.from, ...header }, `receiving ${name}`)
    try {
      return await receive(wire, part, name, header, options)
    } finally {
      await part.close()
    }
  } catch (error) {
    throw wire.refuse(error)
  } finally {
    wire.close()
  }
}

async function readHeader(wire: FileWire, maxBytes: number): Promise<Header> {
  const message = await wire.message()
  if (message === undefined) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'the sender ended before it began')
  const header = {
    name: message.text('name', { max: MAX_NAME_LENGTH }),
    size: message.integer('size'),
    modified: message.integer('modified'),
  }
  if (header.size <= maxBytes) return header
  throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', `the file has ${header.size} bytes, the limit is ${maxBytes}`)
}

async function receive(
  wire: FileWire,
  part: PartFile,
  name: string,
  { size }: Header,
  options: ReceiveFileOptions,
): Promise<ReceivedFile> {
  const offset = Math.min(part.size, size)
  options.onStart?.({ from: options.from, name, totalBytes: size, partBytes: offset })
  let hash = await hashRange(part.handle, offset, () => wire.check())
  await wire.send({ ok: true, offset, hash: hash.copy().digest() })

  const answer = await wire.message(patienceMs(offset))
  if (answer === undefined) throw sendersFile(name)
  const start = answer.integer('start', { max: offset })
  if (start !== offset) {
    if (start !== 0) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `start is neither ${offset} nor 0`)
    hash = createHash('sha256')
  }
  await part.startAt(start)
  await receiveBytes(wire, part, name, { start, size, hash }, options)

  // The trailer may follow more work of the sender on a slow disk, but not much.
  const trailer = await wire.message()
  if (trailer === undefined) {
    await part.discard()
    throw sendersFile(name)
  }
  const digest = hash.digest()
  if (!equalBytes(digest, trailer.bytes('hash', { length: HASH_BYTES }))) {
    await part.discard()
    throw new PeerlineError('ERR_PEERLINE_CORRUPT', `${name}: what came is not what was sent`)
  }
  await part.flush(true)
  const file = await part.publish(name)
  const savedAs = path.basename(file)
  wire.last({ ok: true, savedAs })
  return { name: savedAs, path: file, bytes: size, resumedFrom: start, sha256: toHex(digest) }
}

async function receiveBytes(
  wire: FileWire,
  part: PartFile,
  name: string,
  { start, size, hash }: { start: number; size: number; hash: Hash },
  { onProgress }: ReceiveFileOptions,
): Promise<void> {
  for (let at = start; at < size; ) {
    const piece = await wire.bytes(size - at)
    if (piece === undefined) {
      await part.discard()
      throw sendersFile(name)
    }
    hash.update(piece)
    at += piece.length
    const full = part.write(piece)
    if (full !== undefined) await full
    onProgress?.({ file: name, receivedBytes: at, startBytes: start, totalBytes: size })
  }
}

/** The sender's early end. */
function sendersFile(name: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_FILE', `${name} changed, or could not be read, at the sender`)
}
