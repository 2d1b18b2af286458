/**
 * The identity file (Node only): an Ed25519 private key as PKCS#8 PEM (RFC 8410 section 7, RFC 7468 section 10), what
 * `openssl genpkey -algorithm ed25519` writes.
 *
 * Invariants:
 * - The file is for its owner only (0600, parent directory created 0700). A file that others may read is refused: its key
 *   may be known to others already.
 * - It appears whole or not at all: written and synced under another name, then linked. Linking fails when the name is
 *   taken, so nothing is ever overwritten, and two processes that create one at once agree on the first.
 * - No error message, and no cause of one, holds key material.
 * Limit: 4 KiB, known before the first byte is read.
 */

import { createPrivateKey, type KeyObject } from 'node:crypto'
import type { Stats } from 'node:fs'
import { link } from 'node:fs/promises'
import { PeerlineError } from '../errors.ts'
import { codeOf } from '../io-error.ts'
import { absolutePath, readWhole, writeWhole } from '../whole-file.ts'
import { ed25519PrivateKey, Identity } from './identity.ts'

const MAX_FILE_BYTES = 4096 // an Ed25519 key takes 119; the rest is room for comments around it
const OTHERS = 0o077 // the mode bits of group and world

/** Reads the identity in `path` (`~/` is the home directory). Throws ERR_PEERLINE_KEY_FILE and says what is wrong. */
export async function loadIdentity(path: string): Promise<Identity> {
  const file = absolutePath(path, 'the identity file')
  let pem: Uint8Array
  try {
    pem = await readWhole(file, (status) => checkPrivate(status, file))
  } catch (cause) {
    throw cause instanceof PeerlineError ? cause : cannot('read', file, cause)
  }
  return parse(Buffer.from(pem).toString('latin1'), file)
}

/** Writes `identity` to a new file `path`. Throws ERR_PEERLINE_KEY_FILE, also when the file is there already. */
export async function saveIdentity(path: string, identity: Identity): Promise<void> {
  const file = absolutePath(path, 'the identity file')
  const pem = ed25519PrivateKey(identity.seed).export({ type: 'pkcs8', format: 'pem' })
  try {
    await writeWhole(file, pem, link)
  } catch (cause) {
    throw cannot('write', file, cause)
  }
}

/** Reads the identity in `path`, or makes a new one there when there is no such file. */
export async function loadOrCreateIdentity(path: string): Promise<Identity> {
  try {
    return await loadIdentity(path)
  } catch (error) {
    if (causeCode(error) !== 'ENOENT') throw error
  }
  const identity = Identity.generate()
  try {
    await saveIdentity(path, identity)
  } catch (error) {
    // another process was first: its identity is ours too
    if (causeCode(error) === 'EEXIST') return await loadIdentity(path)
    throw error
  }
  return identity
}

/** Throws unless its kind, its mode and its size are those of a key file. */
function checkPrivate(status: Stats, file: string): void {
  if (status.isDirectory()) throw broken(file, 'is a directory')
  if (!status.isFile()) throw broken(file, 'is not a regular file')
  if (process.platform !== 'win32' && (status.mode & OTHERS) !== 0) {
    const mode = (status.mode & 0o777).toString(8).padStart(4, '0')
    throw broken(file, `is open to other users (mode ${mode}); run: chmod 600 ${quote(file)}`)
  }
  if (status.size === 0) throw broken(file, 'is empty')
  if (status.size > MAX_FILE_BYTES) {
    throw broken(file, `is too large for a key: ${status.size} bytes, the limit is ${MAX_FILE_BYTES}`)
  }
}

function parse(pem: string, file: string): Identity {
  let key: KeyObject
  try {
    key = createPrivateKey({ key: pem, format: 'pem' })
  } catch {
    const why = pem.includes('ENCRYPTED') ? 'is protected by a passphrase' : 'does not hold a whole private key in PEM'
    throw broken(file, why)
  }
  if (key.asymmetricKeyType !== 'ed25519') {
    throw broken(file, `holds a key of type ${key.asymmetricKeyType ?? 'unknown'}, not Ed25519`)
  }
  const { d } = key.export({ format: 'jwk' })
  return Identity.fromSeed(Buffer.from(d ?? '', 'base64url'))
}

/** The system's error code of what caused `error`. */
function causeCode(error: unknown): unknown {
  return error instanceof PeerlineError ? codeOf(error.cause) : undefined
}

function cannot(verb: 'read' | 'write', file: string, cause: unknown): PeerlineError {
  const code = codeOf(cause)
  const known: Record<string, string> = {
    ENOENT: 'does not exist',
    EEXIST: 'exists already and is not overwritten',
    EACCES: `may not be ${verb === 'read' ? 'read' : 'written'} by this user`,
    EPERM: `may not be ${verb === 'read' ? 'read' : 'written'} by this user`,
    EISDIR: 'is a directory',
    ENOTDIR: 'lies below something that is not a directory',
    EROFS: 'lies on a read-only file system',
    ENOSPC: 'does not fit: the disk is full',
  }
  const why = (typeof code === 'string' && known[code]) || `cannot be ${verb === 'read' ? 'read' : 'written'} (${code})`
  return new PeerlineError('ERR_PEERLINE_KEY_FILE', `The identity file ${file} ${why}`, { cause })
}

function broken(file: string, why: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_KEY_FILE', `The identity file ${file} ${why}`)
}

/** `file` as one word of a shell. */
function quote(file: string): string {
  return /^[\w./-]+$/.test(file) ? file : `'${file.replaceAll("'", "'\\''")}'`
}
