/**
 * Records: what a session puts on a path.
 *
 *     +-----------+---------+------------------------------+
 *     | number 8  | tag 16  | AES-256-GCM of the frames    |
 *     +-----------+---------+------------------------------+
 *
 *     number = 1 bit loose | 15 bits epoch | 48 bits count     nonce = 4 zero bytes, number
 *
 * - An ordered record is numbered once, sealed once, kept until acknowledged, and may travel more than once, on any
 *   path. Its associated data is empty.
 * - A loose record (acknowledgements, pings) is never sent again. Its count runs by itself, and its associated data is
 *   the number of the path it is for, so that it means nothing on another.
 * - Each epoch has its own key: `key' = REKEY(key)` (Noise, revision 34, section 4.2). The epoch in the number tells
 *   which key opens a record; a receiver keeps the present and the previous key and derives the next on sight.
 * - The nonce layout is that of Noise AESGCM (section 12.4), 32 zero bits and a 64-bit big-endian number; no number is
 *   used twice with a key, because counts never go back and loose ones have their own bit.
 * - The tag goes in front, so that a record of one data frame needs two buffers and no copy.
 */
import { createCipheriv, createDecipheriv } from 'node:crypto'
import { PeerlineError } from '../errors.ts'
import { rekey } from '../handshake/index.ts'

/** Bytes of number and tag in front of the frames. */
export const RECORD_HEAD_BYTES = 24
const NUMBER_BYTES = 8
const TAG_BYTES = 16
const NONCE_BYTES = 12
const LOOSE_BIT = 0x80000000
const COUNT_HIGH = 0x10000 // 2^48 is 16 bits of the high word and 32 of the low one
const MAX_COUNT = 2 ** 48 - 1

/**
 * Ordered records under one key: 2^20 of 64 KiB are 64 GiB, 2^32 AES blocks, well inside the 2^34.5 that RFC 8446
 * section 5.5 allows for a distinguishing chance of 2^-60.
 */
export const REKEY_RECORDS = 2 ** 20

/** ms under one key, so that a key taken from memory opens an hour of traffic at most: 1 h. */
export const REKEY_MS = 3_600_000

/** What a record says about itself before it is opened. */
export interface RecordNumber {
  readonly loose: boolean
  readonly epoch: number
  readonly count: number
}

/** Reads the number in front of a record; undefined when it is too short to be one. */
export function readNumber(record: Uint8Array): RecordNumber | undefined {
  if (record.length <= RECORD_HEAD_BYTES) return undefined
  const high = ((record[0]! << 24) | (record[1]! << 16) | (record[2]! << 8) | record[3]!) >>> 0
  const low = ((record[4]! << 24) | (record[5]! << 16) | (record[6]! << 8) | record[7]!) >>> 0
  return {
    loose: high >= LOOSE_BIT,
    epoch: (high >>> 16) & 0x7fff,
    count: (high & 0xffff) * 2 ** 32 + low,
  }
}

/** Seals records with the keys of one direction. */
export class Sealer {
  #key: Uint8Array
  #epoch = 0
  #nextOrdered = 0
  #nextLoose = 0
  readonly #nonce = Buffer.alloc(NONCE_BYTES)

  constructor(key: Uint8Array) {
    this.#key = key
  }

  get epoch(): number {
    return this.#epoch
  }

  /** The number that the next ordered record will have. */
  get next(): number {
    return this.#nextOrdered
  }

  /** Goes on to the next key. The caller sees to it that the receiver has done with the previous one. */
  advance(): void {
    this.#key = rekey(this.#key)
    this.#epoch = (this.#epoch + 1) & 0x7fff
  }

  /** Seals the next ordered record: `frames`, then `body` (which may be empty and is not copied). */
  ordered(frames: Uint8Array, body: Uint8Array | undefined): Uint8Array[] {
    const count = this.#nextOrdered++
    return this.#seal((this.#epoch << 16) >>> 0, count, frames, body, undefined)
  }

  /** Seals a loose record for the path with `pathNumber`. */
  loose(frames: Uint8Array, pathNumber: number): Uint8Array[] {
    const count = this.#nextLoose++
    return this.#seal((LOOSE_BIT | (this.#epoch << 16)) >>> 0, count, frames, undefined, pathNumber)
  }

  #seal(
    high: number,
    count: number,
    frames: Uint8Array,
    body: Uint8Array | undefined,
    pathNumber: number | undefined,
  ): Uint8Array[] {
    if (count > MAX_COUNT) throw new PeerlineError('ERR_PEERLINE_LIMIT', 'the session has used up its record numbers')
    const nonce = this.#nonce
    nonce.writeUInt32BE(high + (Math.floor(count / 2 ** 32) % COUNT_HIGH), 4)
    nonce.writeUInt32BE(count >>> 0, 8)
    const cipher = createCipheriv('aes-256-gcm', this.#key, nonce)
    if (pathNumber !== undefined) cipher.setAAD(pathAad(pathNumber))
    const sealedFrames = cipher.update(frames)
    const sealedBody = body === undefined ? undefined : cipher.update(body)
    cipher.final()
    const head = Buffer.allocUnsafe(RECORD_HEAD_BYTES + sealedFrames.length)
    nonce.copy(head, 0, NONCE_BYTES - NUMBER_BYTES)
    head.set(cipher.getAuthTag(), NUMBER_BYTES)
    head.set(sealedFrames, RECORD_HEAD_BYTES)
    return sealedBody === undefined ? [head] : [head, sealedBody]
  }
}

/** Opens records with the keys of one direction. */
export class Opener {
  #epoch = 0
  #key: Uint8Array
  #previous: Uint8Array | undefined
  readonly #nonce = Buffer.alloc(NONCE_BYTES)

  constructor(key: Uint8Array) {
    this.#key = key
  }

  /** False when a record of this epoch cannot be told from a forged one any more, or not yet. */
  knows(epoch: number): boolean {
    const ahead = (epoch - this.#epoch) & 0x7fff
    return ahead === 0 || ahead === 1 || (ahead === 0x7fff && this.#previous !== undefined)
  }

  /**
   * The frames of a record, or undefined when it does not authenticate.
   * @param pathNumber for a loose record, the path it came on
   */
  open(record: Uint8Array, { epoch, loose }: RecordNumber, pathNumber: number): Uint8Array | undefined {
    const aad = loose ? pathNumber : undefined
    if (epoch === this.#epoch) return this.#open(record, this.#key, aad)
    if (epoch === ((this.#epoch + 1) & 0x7fff)) {
      const next = rekey(this.#key)
      const frames = this.#open(record, next, aad)
      if (frames !== undefined) {
        this.#previous = this.#key
        this.#key = next
        this.#epoch = epoch
      }
      return frames
    }
    if (epoch === ((this.#epoch - 1) & 0x7fff) && this.#previous !== undefined) {
      return this.#open(record, this.#previous, aad)
    }
    return undefined
  }

  #open(record: Uint8Array, key: Uint8Array, pathNumber: number | undefined): Uint8Array | undefined {
    const nonce = this.#nonce
    nonce.set(record.subarray(0, NUMBER_BYTES), NONCE_BYTES - NUMBER_BYTES)
    const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_BYTES })
    decipher.setAuthTag(record.subarray(NUMBER_BYTES, RECORD_HEAD_BYTES))
    if (pathNumber !== undefined) decipher.setAAD(pathAad(pathNumber))
    const frames = decipher.update(record.subarray(RECORD_HEAD_BYTES))
    try {
      decipher.final()
    } catch {
      return undefined
    }
    return frames
  }
}

const AAD = Buffer.alloc(4)
/** The associated data of a loose record: the path's number. The buffer is read before the next call. */
function pathAad(pathNumber: number): Uint8Array {
  AAD.writeUInt32BE(pathNumber >>> 0, 0)
  return AAD
}
