/**
 * The part file: what has come of a file, until all of it has.
 *
 *     .peerline-<hash of sender, name, size, time>.part  --link--> report.pdf, or report (2).pdf, …  --unlink part-->
 *
 * - The name makes an interrupted transfer find its beginning again, and keeps two senders apart.
 * - It is opened without following links, for its owner alone; what is not a plain file with one name is not written to.
 * - A file that exists is never replaced: `link` fails where there is one. Without hard links, the name is taken by
 *   creating it, and the part file moved over that.
 * - One transfer at a time writes to it; a second is refused as busy.
 */
import { createHash } from 'node:crypto'
import { constants, type FileHandle, link, open, realpath, rename, unlink } from 'node:fs/promises'
import path from 'node:path'
import { encodeCbor, toHex } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
import { ioError } from '../io-error.ts'
import { syncDirectory } from '../whole-file.ts'
import { numberedName } from './file-name.ts'

/** Bytes, and pieces, that are gathered for one write: 16 full records. Another such batch is being written meanwhile. */
const BATCH_BYTES = 1_048_576
const BATCH_PIECES = 256

/** Bytes of the hash in the name: nobody finds two files for one name of 128 bits by chance. */
const NAME_HASH_BYTES = 16

/** Names tried before a directory is taken to be flooded. */
const MAX_NUMBER = 1_000

/** What `link` says where hard links are not to be had. */
const NO_LINKS = new Set(['EPERM', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP', 'EMLINK', 'EINVAL'])

/** Part files that this process writes to now. */
const inUse = new Set<string>()

/** What tells one part file from another. */
export interface PartIdentity {
  readonly from: string
  readonly name: string
  readonly size: number
  readonly modified: number
}

export function partFileName({ from, name, size, modified }: PartIdentity): string {
  const hash = createHash('sha256')
    .update(encodeCbor(['peerline part', from, name, size, modified]))
    .digest()
  return `.peerline-${toHex(hash.subarray(0, NAME_HASH_BYTES))}.part`
}

export class PartFile {
  readonly handle: FileHandle
  /** Bytes it had when it was opened. */
  readonly size: number
  readonly #path: string
  /** What is done to it, for errors. */
  readonly #what: string
  #pieces: Uint8Array[] = []
  #pieceBytes = 0
  #position = 0
  #writing: Promise<void> = Promise.resolve()
  #gone = false

  private constructor(handle: FileHandle, file: string, size: number, what: string) {
    this.handle = handle
    this.#path = file
    this.size = size
    this.#what = what
  }

  /**
   * Opens the part file in `directory`, making it when there is none.
   * @throws PeerlineError `ERR_PEERLINE_BUSY`, `ERR_PEERLINE_FILE`, `ERR_PEERLINE_DISK_FULL`
   */
  static async open(directory: string, identity: PartIdentity, what: string): Promise<PartFile> {
    let file: string | undefined
    let handle: FileHandle | undefined
    try {
      const place = path.join(await realpath(directory), partFileName(identity))
      if (inUse.has(place)) {
        throw new PeerlineError('ERR_PEERLINE_BUSY', `${what}: the same file is being received already`)
      }
      inUse.add(place)
      file = place
      handle = await openPart(file)
      let stat = await handle.stat()
      if (stat.isFile() && stat.nlink > 1) {
        // A finished file that kept its second name when the program died: leave that one alone, begin again.
        await handle.close()
        await unlink(file)
        handle = await openPart(file)
        stat = await handle.stat()
      }
      if (!stat.isFile() || stat.nlink !== 1) {
        throw new PeerlineError('ERR_PEERLINE_FILE', `${what}: something else stands in place of the part file`)
      }
      return new PartFile(handle, file, stat.size, what)
    } catch (error) {
      await handle?.close().catch(ignore)
      if (file !== undefined) inUse.delete(file)
      throw ioError(error, what)
    }
  }

  /** Goes on at `position`, dropping what is beyond it. */
  async startAt(position: number): Promise<void> {
    this.#position = position
    if (this.size !== position) await this.#tried(this.handle.truncate(position))
  }

  /** Takes the next piece; wait for it when it answers a promise. What fails to be written fails a later call. */
  write(piece: Uint8Array): Promise<void> | undefined {
    this.#pieces.push(piece)
    this.#pieceBytes += piece.length
    return this.#pieceBytes >= BATCH_BYTES || this.#pieces.length >= BATCH_PIECES ? this.#turn() : undefined
  }

  /** Has the system write the batch, once it is done with the one before. */
  async #turn(): Promise<void> {
    await this.#tried(this.#writing)
    if (this.#pieces.length === 0) return
    const pieces = this.#pieces
    const position = this.#position
    this.#position += this.#pieceBytes
    this.#pieces = []
    this.#pieceBytes = 0
    this.#writing = writeAll(this.handle, pieces, position)
    this.#writing.catch(ignore)
  }

  /** Waits until all is written, and on disk when `sync`. */
  async flush(sync: boolean): Promise<void> {
    await this.#turn()
    await this.#tried(this.#writing)
    if (sync) await this.#tried(this.handle.sync())
  }

  /** Gives the whole file its name, or the next free one. Answers its path. */
  async publish(name: string, linkFile: typeof link = link): Promise<string> {
    const directory = path.dirname(this.#path)
    for (let number = 1; number <= MAX_NUMBER; number++) {
      const target = path.join(directory, numberedName(name, number))
      if (!(await this.#tried(this.#take(target, linkFile)))) continue
      this.#gone = true
      await syncDirectory(directory)
      return target
    }
    throw new PeerlineError('ERR_PEERLINE_FILE', `${this.#what}: ${MAX_NUMBER} files of this name are there already`)
  }

  /** True when `target` was free and is the file now. */
  async #take(target: string, linkFile: typeof link): Promise<boolean> {
    try {
      await linkFile(this.#path, target)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'EEXIST') return false
      if (!NO_LINKS.has(code ?? '')) throw error
      return this.#moveTo(target)
    }
    // If it stays, it has a second name, and is not written to again.
    await unlink(this.#path).catch(ignore)
    return true
  }

  async #moveTo(target: string): Promise<boolean> {
    try {
      await (await open(target, 'wx', 0o600)).close()
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
      throw error
    }
    await rename(this.#path, target)
    return true
  }

  /** Removes it: what has come is worth nothing. */
  async discard(): Promise<void> {
    if (this.#gone) return
    this.#gone = true
    await unlink(this.#path).catch(ignore)
  }

  /** Lets go of it. What has come stays for another attempt, if anything has. Never throws. */
  async close(): Promise<void> {
    if (!this.#gone) {
      await this.flush(false).catch(ignore)
      const empty = await this.handle.stat().then(
        (stat) => stat.size === 0,
        () => false,
      )
      if (empty) await this.discard()
    }
    await this.handle.close().catch(ignore)
    inUse.delete(this.#path)
  }

  async #tried<T>(work: Promise<T>): Promise<T> {
    try {
      return await work
    } catch (error) {
      throw ioError(error, this.#what)
    }
  }
}

function openPart(file: string): Promise<FileHandle> {
  // O_NOFOLLOW is not known on Windows, where making a link takes special rights.
  return open(file, constants.O_RDWR | constants.O_CREAT | (constants.O_NOFOLLOW ?? 0), 0o600)
}

/** @internal Writes all pieces: a system may take fewer bytes than it was given. */
export async function writeAll(
  handle: Pick<FileHandle, 'writev'>,
  pieces: Uint8Array[],
  position: number,
): Promise<void> {
  let left = pieces
  let at = position
  while (left.length > 0) {
    let { bytesWritten } = await handle.writev(left, at)
    at += bytesWritten
    let whole = 0
    while (whole < left.length && bytesWritten >= left[whole]!.length) bytesWritten -= left[whole++]!.length
    left = left.slice(whole)
    if (bytesWritten > 0) left[0] = left[0]!.subarray(bytesWritten)
  }
}

function ignore(): void {}
