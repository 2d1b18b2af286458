/**
 * Where what a peer remembers is kept: the `Store` interface, and a file (Node only).
 *
 *     save   .NAME.<random>.tmp  --write, sync, rename-->  NAME  --sync the directory-->
 *     bad    NAME  --link, unlink-->  NAME.bad, or NAME.bad-2, …
 *
 * Invariants:
 * - The file is the old one or the new one, whole, whenever the process dies and however many processes write it; the
 *   last to rename wins.
 * - It is for its owner only (0600, directories made 0700). One that others may write is refused: rules and bans lie in it.
 * - Saves that come while one is under way become one, of the latest bytes.
 * Limit: {@link MAX_STORE_BYTES}, known before the first byte is read or written.
 */
import type { Stats } from 'node:fs'
import { link, lstat, realpath, rename, unlink } from 'node:fs/promises'
import { PeerlineError } from '../errors.ts'
import { codeOf, ioError } from '../io-error.ts'
import { absolutePath, readWhole, removeStale, writeWhole } from '../whole-file.ts'

/** Keeps one sequence of bytes from one start of a peer to the next. Any may be plugged in: a file, a database, a key chain. */
export interface Store {
  /** What was saved last; undefined when nothing was. */
  load(): Promise<Uint8Array | undefined>
  /** Resolves when these bytes, or later ones, are kept for good; until then the old ones are, never a mixture. */
  save(bytes: Uint8Array): Promise<void>
  /** Puts away what is stored and cannot be read, so that a save does not destroy it; resolves with where it is now. */
  setAside?(): Promise<string>
  /** Resolves when no save is under way any more. */
  close?(): Promise<void>
}

/** Bytes of a file. 10,000 known peers with the 16 longest addresses that others can make us keep take 60 million. */
export const MAX_STORE_BYTES = 134_217_728

const WRITABLE_BY_OTHERS = 0o022

/** Damaged files kept beside the file: more than this is a fault that no name more would mend. */
const MAX_SET_ASIDE = 100

const DISK_FULL = { recover: 'Free some space: it is tried again.' }

/** What `link` says where hard links are not to be had. */
const NO_LINKS = new Set<unknown>(['EPERM', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP', 'EMLINK', 'EINVAL'])

export class FileStore implements Store {
  /** The file, as an absolute path. */
  readonly path: string
  /** The save that has not begun: its bytes may still become later ones. */
  #waiting: { bytes: Uint8Array; readonly done: Promise<void> } | undefined
  /** Settles, never rejects, when the last save has. */
  #last: Promise<void> = Promise.resolve()

  /** @param path `~/` is the home directory. @throws PeerlineError `ERR_PEERLINE_INVALID` when it is no path */
  constructor(path: string) {
    this.path = absolutePath(path, 'the store')
  }

  /**
   * The bytes of the file, or undefined when there is none. Removes what saves of processes that died have left behind.
   * @throws PeerlineError `ERR_PEERLINE_FILE` when it cannot be read, or others may write it; `ERR_PEERLINE_TOO_LARGE`
   */
  async load(): Promise<Uint8Array | undefined> {
    await this.#last
    const target = await this.#target()
    await removeStale(target)
    try {
      return await readWhole(target, (status) => check(status, this.path))
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return undefined
      throw ioError(error, `reading ${this.path}`)
    }
  }

  /**
   * Replaces the file. Do not change `bytes` until it has settled.
   * @throws PeerlineError `ERR_PEERLINE_FILE`, `ERR_PEERLINE_DISK_FULL`, `ERR_PEERLINE_TOO_LARGE`; the old file stays
   */
  async save(bytes: Uint8Array): Promise<void> {
    if (bytes.length > MAX_STORE_BYTES) throw tooLarge(this.path, bytes.length)
    if (this.#waiting !== undefined) {
      this.#waiting.bytes = bytes
      return this.#waiting.done
    }
    const done = this.#last.then(() => {
      const { bytes: latest } = this.#waiting!
      this.#waiting = undefined
      return this.#write(latest)
    })
    this.#waiting = { bytes, done }
    this.#last = done.catch(() => {}) // whoever saved is told
    return done
  }

  /**
   * Renames the file to `NAME.bad`, or, not to overwrite that, to `NAME.bad-2` and so on.
   * @returns its path now
   * @throws PeerlineError `ERR_PEERLINE_FILE`; the file stays where it is
   */
  async setAside(): Promise<string> {
    await this.#last
    const target = await this.#target()
    try {
      for (let number = 1; number <= MAX_SET_ASIDE; number++) {
        const aside = number === 1 ? `${target}.bad` : `${target}.bad-${number}`
        if (await moveToNew(target, aside)) return aside
      }
    } catch (error) {
      throw ioError(error, `setting aside ${this.path}`, DISK_FULL)
    }
    const recover = 'Look at the damaged files beside it, and remove those that are not needed.'
    throw new PeerlineError('ERR_PEERLINE_FILE', `beside ${this.path} lie ${MAX_SET_ASIDE} damaged ones`, { recover })
  }

  /** Resolves when the saves under way have settled. */
  async close(): Promise<void> {
    await this.#last
  }

  /** The file itself, where the path is a link to it: the link stays one. */
  #target(): Promise<string> {
    return realpath(this.path).catch(() => this.path)
  }

  async #write(bytes: Uint8Array): Promise<void> {
    try {
      await writeWhole(await this.#target(), bytes, rename)
    } catch (error) {
      throw ioError(error, `writing ${this.path}`, DISK_FULL)
    }
  }
}

function check(status: Stats, path: string): void {
  if (!status.isFile()) throw new PeerlineError('ERR_PEERLINE_FILE', `${path} is not a regular file`)
  if (process.platform !== 'win32' && (status.mode & WRITABLE_BY_OTHERS) !== 0) {
    const recover = 'Look whether its rules and bans are yours, then run chmod 600 on it.'
    throw new PeerlineError('ERR_PEERLINE_FILE', `${path} may be written by other users`, { recover })
  }
  if (status.size > MAX_STORE_BYTES) throw tooLarge(path, status.size)
}

/** Renames a file to a name that is free; false when that is taken. */
async function moveToNew(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to)
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false
    if (!NO_LINKS.has(codeOf(error))) throw error
    if ((await lstat(to).catch(() => undefined)) !== undefined) return false
    await rename(from, to)
    return true
  }
  await unlink(from)
  return true
}

function tooLarge(path: string, bytes: number): PeerlineError {
  const recover = 'Forget peers or rules that are not needed.'
  const said = `${path} would take ${bytes} bytes, the limit is ${MAX_STORE_BYTES}`
  return new PeerlineError('ERR_PEERLINE_TOO_LARGE', said, { recover })
}
