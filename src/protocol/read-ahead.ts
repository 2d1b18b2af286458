/**
 * Reads a range of a file in pieces, a few of them ahead, so that the disk works while the last piece is hashed and sent.
 */
import { createHash, type Hash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { PeerlineError } from '../errors.ts'
import { ioError } from '../io-error.ts'

/** Bytes of a piece: what fills one record. */
export const PIECE_BYTES = 65_536

/** Pieces under way at once: four keep Node's four file threads busy at most, and cost 256 KiB. */
const AHEAD = 4

interface Read {
  readonly buffer: Buffer
  readonly wanted: number
  readonly done: Promise<number>
}

export class ReadAhead {
  readonly #handle: FileHandle
  readonly #end: number
  readonly #pieceBytes: number
  #position: number
  readonly #reads: Read[] = []
  #allocated = 0
  #free: Buffer | undefined

  /** Reads from `start` up to `end`. */
  constructor(handle: FileHandle, start: number, end: number, pieceBytes = PIECE_BYTES) {
    this.#handle = handle
    this.#position = start
    this.#end = end
    this.#pieceBytes = Math.max(1, Math.min(pieceBytes, PIECE_BYTES, end - start))
  }

  /**
   * The next piece, undefined at the end. The one before it is read over: be done with it.
   * @throws PeerlineError `ERR_PEERLINE_FILE` when the file is shorter than the range, or cannot be read
   */
  async next(): Promise<Uint8Array | undefined> {
    while (this.#position < this.#end && (this.#free !== undefined || this.#allocated < AHEAD + 1)) this.#ask()
    const read = this.#reads.shift()
    if (read === undefined) return undefined
    let bytes: number
    try {
      bytes = await read.done
    } catch (error) {
      throw ioError(error, 'reading the file')
    }
    if (bytes < read.wanted) throw new PeerlineError('ERR_PEERLINE_FILE', 'the file became shorter')
    this.#free = read.buffer
    return read.buffer.subarray(0, read.wanted)
  }

  #ask(): void {
    const buffer = this.#free ?? Buffer.allocUnsafeSlow(this.#pieceBytes)
    if (this.#free === undefined) this.#allocated++
    this.#free = undefined
    const wanted = Math.min(this.#pieceBytes, this.#end - this.#position)
    const done = readFully(this.#handle, buffer, wanted, this.#position)
    // Whoever stops early leaves reads behind; closing the handle waits for them.
    done.catch(ignore)
    this.#reads.push({ buffer, wanted, done })
    this.#position += wanted
  }
}

/**
 * A running SHA-256 over the first `bytes` of a file.
 * @param check called between pieces; throws to stop
 * @throws PeerlineError as {@link ReadAhead.next}
 */
export async function hashRange(handle: FileHandle, bytes: number, check: () => void): Promise<Hash> {
  const hash = createHash('sha256')
  const pieces = new ReadAhead(handle, 0, bytes)
  for (;;) {
    const piece = await pieces.next()
    if (piece === undefined) return hash
    check()
    hash.update(piece)
  }
}

/** Reads until `wanted` bytes are there, or the file has no more. */
async function readFully(handle: FileHandle, buffer: Buffer, wanted: number, position: number): Promise<number> {
  let at = 0
  while (at < wanted) {
    const { bytesRead } = await handle.read(buffer, at, wanted - at, position + at)
    if (bytesRead === 0) break
    at += bytesRead
  }
  return at
}

function ignore(): void {}
