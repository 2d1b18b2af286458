/**
 * Where a command keeps what its identity remembers, and is spoken to while it runs: beside the key file.
 *
 *     NAME          the key
 *     NAME.state    address book, rules, bans
 *     NAME.log      the latest decisions; what was there before them in NAME.log.1
 *     NAME.sock     the socket of the command that runs; on Windows a named pipe
 *
 * Two names of one key file, as by a symbolic link, are one identity: the places are beside the file itself.
 */
import { createHash } from 'node:crypto'
import { lstat, mkdir, readlink, realpath, stat } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { PeerlineError } from '../errors.ts'

/** Bytes of the path of a socket: `sun_path` has 108 on Linux, 104 on macOS, one of them for the end. */
const MAX_SOCKET_BYTES = 103

const DIRECTORY_MODE = 0o700
const OTHERS = 0o077

export interface Places {
  readonly state: string
  readonly log: string
  readonly socket: string
}

/** The places of an identity, whether or not it is there yet. @throws PeerlineError `ERR_PEERLINE_INVALID` */
export async function placesOf(identity: string): Promise<Places> {
  if (identity === '' || identity.includes('\0')) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', 'the path of the identity file is empty or not a path')
  }
  const named = identity.startsWith('~/') ? join(homedir(), identity.slice(2)) : resolve(identity)
  const file = await realpath(named).catch(async () => {
    const directory = await realpath(dirname(named)).catch(() => dirname(named))
    return join(directory, basename(named))
  })
  const socket = process.platform === 'win32' ? `\\\\.\\pipe\\peerline-${shortHash(file)}` : `${file}.sock`
  return { state: `${file}.state`, log: `${file}.log`, socket }
}

/** What is bound for a socket: itself or, where its path is too long for one, another that its name is a link to. */
export async function boundAs(socket: string): Promise<string> {
  if (!isTooLong(socket)) return socket
  return readlink(socket).catch(() => substituteOf(socket))
}

/** True when the path can be no socket itself. */
export function isTooLong(socket: string): boolean {
  return process.platform !== 'win32' && Buffer.byteLength(socket) > MAX_SOCKET_BYTES
}

/** What is bound instead of a socket whose path is too long. */
export function substituteOf(socket: string): string {
  return join(tmpdir(), `peerline-${process.getuid?.() ?? 0}-${shortHash(socket)}`, 'sock')
}

/**
 * Makes the directory that something is to be put in, for its owner only.
 * @param shared it lies where everybody may make one: one that others may enter, or own, is refused
 * @throws PeerlineError `ERR_PEERLINE_FILE`
 */
export async function makeDirectoryOf(path: string, options: { shared?: boolean } = {}): Promise<void> {
  const directory = dirname(path)
  try {
    await mkdir(directory, { recursive: true, mode: DIRECTORY_MODE })
    if (options.shared !== true) return
    const status = await lstat(directory)
    const ours = status.isDirectory() && status.uid === process.getuid?.() && (status.mode & OTHERS) === 0
    if (!ours) throw new PeerlineError('ERR_PEERLINE_FILE', `${directory} is open to other users, or theirs`)
  } catch (error) {
    throw placeError(directory, error)
  }
}

/**
 * Refuses a socket that another user has made, as can be where everybody may write: what it answers is not to be believed.
 * To be asked when it is connected, so that it is none that came after.
 * @throws PeerlineError `ERR_PEERLINE_FILE`
 */
export async function refuseForeign(socket: string): Promise<void> {
  const user = process.getuid?.()
  if (user === undefined || user === 0) return
  const status = await stat(socket).catch(() => undefined)
  if (status === undefined || status.uid === user) return
  const recover = 'Keep the identity in a directory of your own.'
  throw new PeerlineError('ERR_PEERLINE_FILE', `${socket} belongs to another user`, { recover })
}

/** What the system says of a path, as `ERR_PEERLINE_FILE`; what is one of ours already stays so. */
export function placeError(path: string, cause: unknown): PeerlineError {
  if (cause instanceof PeerlineError) return cause
  const { code, message } = cause as NodeJS.ErrnoException
  return new PeerlineError('ERR_PEERLINE_FILE', `${path} cannot be used: ${code ?? message}`, { cause })
}

const shortHash = (text: string): string => createHash('sha256').update(text).digest('hex').slice(0, 16)
