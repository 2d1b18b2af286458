import { execFileSync } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { chmod, mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { temporaryDirectory } from '../temporary.compliance.ts'
import { Identity } from './identity.ts'
import { loadIdentity, loadOrCreateIdentity, saveIdentity } from './key-file.ts'

const POSIX = process.platform !== 'win32'
const PEM_HEAD = '-----BEGIN PRIVATE KEY-----'

let directory: string
let file: string
beforeEach(async () => {
  directory = await temporaryDirectory()
  file = join(directory, 'id')
})
afterEach(() => void vi.unstubAllEnvs())

const fails = (...said: string[]) =>
  expect.objectContaining({
    code: 'ERR_PEERLINE_KEY_FILE',
    message: expect.stringMatching(new RegExp(said.map((part) => part.replaceAll(/[.()]/g, '\\$&')).join('.*'))),
  })

async function put(text: string | Buffer, mode = 0o600): Promise<void> {
  await writeFile(file, text, { mode })
  await chmod(file, mode) // whatever the umask
}

function pemOf(type: 'ed25519' | 'x25519'): string {
  // the overloads want a literal each
  const pair = type === 'ed25519' ? generateKeyPairSync('ed25519') : generateKeyPairSync('x25519')
  return pair.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()
}

describe('identity file', () => {
  it('keeps an identity', async () => {
    const identity = Identity.generate()
    await saveIdentity(file, identity)
    expect((await loadIdentity(file)).peerId).toBe(identity.peerId)
    expect(await readFile(file, 'utf8')).toMatch(
      /^-----BEGIN PRIVATE KEY-----\n[\w+/=]{64}\n-----END PRIVATE KEY-----\n$/,
    )
  })

  it.runIf(POSIX)('is private, and so is the directory it makes', async () => {
    const path = join(directory, 'a', 'b', 'id')
    await saveIdentity(path, Identity.generate())
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    expect((await stat(join(directory, 'a'))).mode & 0o777).toBe(0o700)
    expect((await stat(join(directory, 'a', 'b'))).mode & 0o777).toBe(0o700)
  })

  it('is never overwritten, and nothing is left beside it', async () => {
    const first = Identity.generate()
    await saveIdentity(file, first)
    await expect(saveIdentity(file, Identity.generate())).rejects.toEqual(fails('exists already'))
    expect((await loadIdentity(file)).peerId).toBe(first.peerId)
    expect(await readdir(directory)).toEqual(['id'])
  })

  it('is one for all who create it at once', async () => {
    const all = await Promise.all(Array.from({ length: 12 }, () => loadOrCreateIdentity(file)))
    expect(new Set(all.map((one) => one.peerId)).size).toBe(1)
    expect((await loadOrCreateIdentity(file)).peerId).toBe(all[0]?.peerId)
    expect(await readdir(directory)).toEqual(['id'])
  })

  it('lies in the home directory when the path starts with ~', async () => {
    vi.stubEnv('HOME', directory)
    vi.stubEnv('USERPROFILE', directory)
    expect(homedir()).toBe(directory)
    const made = await loadOrCreateIdentity('~/.peerline/id')
    expect((await loadIdentity(join(directory, '.peerline', 'id'))).peerId).toBe(made.peerId)
  })

  it('may come from node:crypto or openssl, with text around it', async () => {
    const pem = pemOf('ed25519')
    await put(`a comment\n${pem}`)
    expect((await loadIdentity(file)).sign(new Uint8Array())).toHaveLength(64)
  })

  it.runIf(hasOpenssl())('reads what `openssl genpkey` writes, and openssl reads ours', async () => {
    execFileSync('openssl', ['genpkey', '-algorithm', 'ed25519', '-out', file])
    await chmod(file, 0o600)
    const spki = execFileSync('openssl', ['pkey', '-in', file, '-pubout', '-outform', 'DER'])
    expect([...spki.subarray(-32)]).toEqual([...(await loadIdentity(file)).publicKey])
    const ours = join(directory, 'ours')
    const identity = await loadOrCreateIdentity(ours)
    const der = execFileSync('openssl', ['pkey', '-in', ours, '-pubout', '-outform', 'DER'])
    expect([...der.subarray(-32)]).toEqual([...identity.publicKey])
  })
})

describe('a bad identity file', () => {
  it('is said to be missing', async () => {
    await expect(loadIdentity(file)).rejects.toEqual(fails(file, 'does not exist'))
    await put('x')
    await expect(loadIdentity(join(file, 'below'))).rejects.toEqual(fails('below something that is not a directory'))
    await expect(loadOrCreateIdentity(join(file, 'below'))).rejects.toEqual(fails('not a directory'))
  })

  it('is said to be a directory', async () => {
    await mkdir(file)
    await expect(loadIdentity(file)).rejects.toEqual(fails(file, 'is a directory'))
    await expect(loadOrCreateIdentity(file)).rejects.toEqual(fails('is a directory'))
  })

  it.runIf(POSIX && hasMkfifo())('is not waited for when it is a named pipe', async () => {
    execFileSync('mkfifo', ['-m', '600', file])
    await expect(loadIdentity(file)).rejects.toEqual(fails('not a regular file'))
  })

  it.runIf(POSIX).each([0o640, 0o604, 0o666, 0o610])('is refused when open to others (mode %o)', async (mode) => {
    await put(pemOf('ed25519'), mode)
    await expect(loadIdentity(file)).rejects.toEqual(fails('open to other users', `chmod 600 ${file}`))
  })

  it.runIf(POSIX)('names a chmod command that a shell reads as meant', async () => {
    file = join(directory, "it's mine")
    await put(pemOf('ed25519'), 0o644)
    const error: unknown = await loadIdentity(file).catch((reason: unknown) => reason)
    const command = /run: (.*)$/.exec((error as Error).message)?.[1] ?? ''
    execFileSync('sh', ['-c', command])
    expect((await loadIdentity(file)).publicKey).toHaveLength(32)
  })

  it.runIf(POSIX)('is said to be unreadable', async () => {
    await put(pemOf('ed25519'), 0o000)
    await asOrdinaryUser(() => expect(loadIdentity(file)).rejects.toEqual(fails('may not be read by this user')))
    const below = join(directory, 'sub', 'id')
    await chmod(directory, 0o555)
    await asOrdinaryUser(() => expect(loadOrCreateIdentity(below)).rejects.toEqual(fails('may not be written')))
    await chmod(directory, 0o700)
  })

  it.runIf(POSIX)('is not looped over when it is a link to nowhere', async () => {
    await symlink(join(directory, 'nowhere'), file)
    await expect(loadOrCreateIdentity(file)).rejects.toEqual(fails('does not exist'))
  })

  it.each<[string, () => string, string]>([
    ['empty', () => '', 'is empty'],
    ['too large', () => pemOf('ed25519').padEnd(4097, '\n'), 'too large'],
    ['of another kind', () => pemOf('x25519'), 'of type x25519, not Ed25519'],
    ['a public key', () => pemOf('ed25519').replaceAll('PRIVATE', 'PUBLIC'), 'does not hold a whole private key'],
    ['cut off', () => pemOf('ed25519').slice(0, 60), 'does not hold a whole private key'],
    ['random text', () => 'hello', 'does not hold a whole private key'],
    ['zeros', () => '\0'.repeat(119), 'does not hold a whole private key'],
  ])('is said to be %s', async (_name, text, why) => {
    await put(text())
    await expect(loadIdentity(file)).rejects.toEqual(fails(file, why))
    await expect(loadOrCreateIdentity(file)).rejects.toEqual(fails(why)) // and is not replaced
  })

  it('is said to need a passphrase', async () => {
    const { privateKey } = generateKeyPairSync('ed25519')
    const options = { type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase: 'secret' } as const
    await put(privateKey.export(options))
    await expect(loadIdentity(file)).rejects.toEqual(fails('passphrase'))
  })

  it.each(['', 'a\0b'])('has no path %j', async (path) => {
    await expect(loadIdentity(path)).rejects.toMatchObject({ code: 'ERR_PEERLINE_INVALID' })
  })

  it('never has its content in the error', async () => {
    const pem = pemOf('ed25519')
    const body = pem.split('\n')[1] ?? ''
    await fc.assert(
      fc.asyncProperty(fc.nat(pem.length - 1), fc.integer({ min: 32, max: 126 }), async (at, code) => {
        await put(pem.slice(0, at) + String.fromCharCode(code) + pem.slice(at + 1))
        try {
          await loadIdentity(file)
        } catch (error) {
          if (!(error instanceof PeerlineError)) throw error
          expect(error.code).toBe('ERR_PEERLINE_KEY_FILE')
          const shown = `${error.stack} ${JSON.stringify(error)} ${String(error.cause)}`
          expect(shown).not.toContain(body.slice(24, 40))
          expect(shown).not.toContain(PEM_HEAD)
        }
      }),
      { numRuns: 150 },
    )
  })
})

function hasOpenssl(): boolean {
  return runs('openssl', ['version'])
}

function hasMkfifo(): boolean {
  return runs('mkfifo', ['--version'])
}

function runs(command: string, args: string[]): boolean {
  try {
    execFileSync(command, args, { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** Root may read everything, so the superuser steps down for the time of `work`. */
async function asOrdinaryUser(work: () => Promise<unknown>): Promise<void> {
  const root = process.geteuid?.() === 0
  if (root) process.seteuid?.(65_534)
  try {
    await work()
  } finally {
    if (root) process.seteuid?.(0)
  }
}
