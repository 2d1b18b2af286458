/**
 * What the programs of chaos-contract.md have in common, whatever system they drive: one clock, the bytes, the meter
 * that says whether they are the ones, and the JSON lines.
 *
 * The bytes are a keystream: AES-128-CTR, key = the first 16 bytes of SHA-256 of the seed, IV zero. Whoever knows the seed
 * knows every byte and its place, so the receiver sees at once what is missing, doubled or wrong.
 */
import { createCipheriv, createHash } from 'node:crypto'
import { createInterface } from 'node:readline'

/** ms between two reports of progress: the resolution of every figure. */
const BUCKET_MS = 10

/** Bytes by which a misplaced piece is recognised. */
const NEEDLE = 32

/** Bytes of one step of a search, or of one write. */
export const CHUNK = 65_536

/** ms on the machine's monotonic clock, the same for every process on it. */
export const now = () => Number(process.hrtime.bigint() / 1_000n) / 1_000

/** The stream of a seed: `next(n)` gives its next n bytes. */
export function source(seed) {
  const key = createHash('sha256').update(seed).digest().subarray(0, 16)
  const cipher = createCipheriv('aes-128-ctr', key, Buffer.alloc(16))
  return { next: (length) => cipher.update(Buffer.alloc(length)) }
}

/** SHA-256 of the first bytes of a stream, hex. */
export function digestOf(seed, bytes) {
  const stream = source(seed)
  const hash = createHash('sha256')
  for (let left = bytes; left > 0; left -= CHUNK) hash.update(stream.next(Math.min(left, CHUNK)))
  return hash.digest('hex')
}

/** Counts, compares and hashes what arrives, and tells of it: at most once in 10 ms, and never of nothing. */
export class Meter {
  #seed
  #expected
  #hash = createHash('sha256')
  #report
  #timer
  #told = 0
  #toldAt = -BUCKET_MS
  #latest = 0
  #beyond
  bytes = 0
  /** Where the first byte is that is not what was sent. @type {number | null} */
  differsAt = null
  /** What is there instead. @type {string | undefined} */
  difference

  /**
   * @param {string} seed
   * @param {number} bytes how many there are
   * @param {(progress: { at: number, bytes: number }) => void} report
   */
  constructor(seed, bytes, report) {
    this.#seed = seed
    this.#beyond = bytes
    this.#expected = source(seed)
    this.#report = report
  }

  /** @param {Uint8Array} chunk */
  take(chunk) {
    this.#hash.update(chunk)
    if (this.differsAt === null) this.#compare(chunk)
    this.bytes += chunk.length
    this.#latest = now()
    if (this.#latest - this.#toldAt >= BUCKET_MS) this.#tell()
    else this.#timer ??= setTimeout(() => this.#tell(), BUCKET_MS)
  }

  #compare(chunk) {
    const expected = this.#expected.next(chunk.length)
    if (expected.equals(chunk) && this.bytes + chunk.length <= this.#beyond) return
    let same = 0
    while (same < chunk.length && chunk[same] === expected[same]) same++
    this.differsAt = this.bytes + same
    this.difference = this.#diagnose(Buffer.from(chunk.subarray(same, same + NEEDLE)))
  }

  /** Looks for what came at the wrong place everywhere in the stream. */
  #diagnose(needle) {
    if (this.differsAt >= this.#beyond) return 'more than was sent'
    if (needle.length < NEEDLE) return 'other bytes'
    const stream = source(this.#seed)
    let before = Buffer.alloc(0)
    for (let at = 0; at < this.#beyond; at += CHUNK) {
      const piece = Buffer.concat([before, stream.next(CHUNK)])
      const found = piece.indexOf(needle)
      if (found !== -1) {
        const place = at - before.length + found
        const off = Math.abs(place - this.differsAt)
        return place > this.differsAt ? `${off} bytes are missing` : `${off} bytes came twice`
      }
      before = piece.subarray(-NEEDLE)
    }
    return 'other bytes'
  }

  #tell() {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.bytes === this.#told) return
    this.#told = this.bytes
    this.#toldAt = this.#latest
    this.#report({ at: this.#latest, bytes: this.bytes })
  }

  /** Tells the rest, and how it is. For the last event. */
  end() {
    this.#tell()
    const { bytes, differsAt, difference } = this
    return { bytes, differsAt, ...(difference === undefined ? {} : { difference }), sha256: this.#hash.digest('hex') }
  }
}

/** Says an event, with the time unless it has one. */
export const say = (event, more = {}) => process.stdout.write(`${JSON.stringify({ event, at: now(), ...more })}\n`)

/**
 * Does what it is told until stdin ends, one command after the other. A command that fails ends the program.
 *
 * @param {Record<string, (command: any) => unknown>} commands by the word of `do`
 */
export async function obey(commands) {
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line)
    if (commands[command.do] === undefined) throw new Error(`nothing here does "${command.do}"`)
    await commands[command.do](command)
  }
  process.exit(0)
}
