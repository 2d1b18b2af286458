/**
 * Small files that are read and written whole (Node only).
 *
 *     write  .NAME.<random>.tmp  --write, sync, then rename or link-->  NAME  --sync the directory-->
 *
 * They are for their owner only: 0600, in directories made 0700. A process that dies leaves the old file or the new one,
 * and perhaps a temporary one, which `removeStale` finds.
 */
import { randomUUID } from 'node:crypto'
import { constants, type Stats } from 'node:fs'
import { mkdir, open, readdir, stat, unlink } from 'node:fs/promises'
import { homedir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { PeerlineError } from './errors.ts'

const FILE_MODE = 0o600
const DIRECTORY_MODE = 0o700

/** ms after which a temporary file is that of a process that died: to write takes seconds. */
const STALE_MS = 3_600_000

/** `path` as an absolute one; `~/` is the home directory. @throws PeerlineError `ERR_PEERLINE_INVALID`. `what`: 'the store' */
export function absolutePath(path: string, what: string): string {
  if (typeof path !== 'string' || path === '' || path.includes('\0')) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `the path of ${what} is empty or not a path`)
  }
  return path === '~' || path.startsWith('~/') ? join(homedir(), path.slice(1)) : resolve(path)
}

/** What is in a file. `look` throws when it is not one to read: too large, or open to others. */
export async function readWhole(file: string, look: (status: Stats) => void): Promise<Uint8Array> {
  // not blocking: opening a named pipe would wait for its writer for ever
  const handle = await open(file, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0))
  try {
    const status = await handle.stat()
    look(status)
    // reads what was measured and no more, should the file grow meanwhile
    const buffer = new Uint8Array(status.size)
    let length = 0
    while (length < buffer.length) {
      const { bytesRead } = await handle.read(buffer, length, buffer.length - length, length)
      if (bytesRead === 0) break
      length += bytesRead
    }
    return buffer.subarray(0, length)
  } finally {
    await handle.close().catch(() => {}) // it was only read
  }
}

/** Writes a file, and the directories above it. `place`: `rename`, or `link`, which fails where there is one already. */
export async function writeWhole(
  file: string,
  content: Uint8Array | string,
  place: (temporary: string, file: string) => Promise<void>,
): Promise<void> {
  const directory = dirname(file)
  await mkdir(directory, { recursive: true, mode: DIRECTORY_MODE })
  const temporary = join(directory, `${temporaryPrefix(file)}${randomUUID()}.tmp`)
  try {
    const handle = await open(temporary, 'wx', FILE_MODE)
    try {
      await handle.writeFile(content)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await place(temporary, file)
  } finally {
    await unlink(temporary).catch(() => {}) // it may be there no more, or never was; the outcome above is what counts
  }
  await syncDirectory(directory)
}

/** Makes the names in a directory survive a power cut where the system can; Windows cannot open a directory. */
export async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r').catch(() => undefined)
  await handle?.sync().catch(() => {})
  await handle?.close().catch(() => {})
}

/** Removes temporary files of a file that nobody finishes. What stands in the way of that may stay. */
export async function removeStale(file: string): Promise<void> {
  const directory = dirname(file)
  const prefix = temporaryPrefix(file)
  const names = await readdir(directory).catch(() => [])
  for (const name of names) {
    if (!name.startsWith(prefix) || !/^[\da-f-]{36}\.tmp$/.test(name.slice(prefix.length))) continue
    const temporary = join(directory, name)
    const status = await stat(temporary).catch(() => undefined)
    if (status !== undefined && Date.now() - status.mtimeMs > STALE_MS) await unlink(temporary).catch(() => {})
  }
}

const temporaryPrefix = (file: string): string => `.${basename(file)}.`
