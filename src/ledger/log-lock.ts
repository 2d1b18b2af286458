/**
 * The right to append to a file, for one at a time of the processes that share it.
 *
 *     take      NAME.lock          made exclusively; says who holds it
 *     inherit   NAME.lock.<token>  made exclusively by the heir of a holder that died, then renamed to NAME.lock
 *     give      NAME.lock          removed
 *
 * - A holder that was killed is found out at once where the system tells: on Linux, of the same boot and space of process ids.
 *   Elsewhere, and on another machine, it is held for dead when its lock has stood for {@link LEASE_MS} before the eyes of
 *   whoever waits: no two clocks are compared.
 * - So a holder begins to write only while it {@link Held.isSure}. One that is put to sleep between that look and the write, where
 *   nobody can tell, for as long as a lease, may still write at the wrong time: the chain of the file shows the damage.
 * - A death has one heir: tokens are random, and the name of the heir's file is that of one death. Who makes it late, when the
 *   lock has passed on, sees another token in the lock and gives up. To remove the lock of a dead holder and make a new one, as
 *   is usual, lets the slower of two remove the lock of the faster.
 * - It needs a file system that creates exclusively: local ones, SMB, and NFS from version 3.
 */
import { randomUUID } from 'node:crypto'
import { readFileSync, readlinkSync } from 'node:fs'
import { open, readdir, rename, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { PeerlineError } from '../errors.ts'
import { ioError } from '../io-error.ts'
import { pause } from '../pause.ts'

/** ms after which a lock that did not change is that of a dead holder: a batch of appends takes ms, on a slow share a second. */
const LEASE_MS = 20_000

/** The part of a lease for which a holder may begin to write: what it began has the rest to end. */
const SURE_PART = 1 / 4

/** Leases to wait for the lock: one, should its holder have died, and time to spare. */
const WAIT_LEASES = 1.5

/** ms between two looks, at first and at most: a batch takes about one. */
const FIRST_LOOK_MS = 1
const MAX_LOOK_MS = 16

/** Bytes of what a lock says: 200 are written. */
const MAX_LOCK_BYTES = 1_024

/** Heirs of heirs that died before they had the lock. */
const MAX_HEIRS = 16

const MODE = 0o644 // who may share the file must be able to see who holds it
const TOKEN = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/

/** What Windows says of a file that is just being removed or looked at. */
const TAKEN = new Set<unknown>(process.platform === 'win32' ? ['EEXIST', 'EPERM', 'EACCES', 'EBUSY'] : ['EEXIST'])

interface Holder {
  /** Boot and space of process ids; '' where the system does not tell. */
  readonly machine: string
  readonly pid: number
  /** When the process began, in what the system counts; '' where it does not tell. */
  readonly started: string
  readonly token: string
}

/** The lock, while one has it. */
export interface Held {
  /** Whether there is time to begin to write: nobody has had reason to take the lock away. */
  isSure(): boolean
}

export class LogLock {
  readonly #path: string
  readonly #leaseMs: number
  readonly #self = { machine: machineOf(), pid: process.pid, started: startOf(process.pid) }
  /** Those that stood in the way at the last look, and since when, ms of the monotonic clock. */
  #seen = new Map<string, number>()
  /** Our own lock that could not be removed. */
  #left: string | undefined

  /**
   * @param path of the file; the lock lies beside it
   * @param leaseMs the same for all that share the file
   */
  constructor(path: string, leaseMs: number = LEASE_MS) {
    this.#path = `${path}.lock`
    this.#leaseMs = leaseMs
  }

  /**
   * Does `work` while no other has the lock.
   * @throws PeerlineError `ERR_PEERLINE_BUSY` when others have it for half a minute, `ERR_PEERLINE_FILE`,
   *   `ERR_PEERLINE_DISK_FULL`, what the signal says, or what `work` throws
   */
  async hold<T>(signal: AbortSignal, work: (held: Held) => Promise<T>): Promise<T> {
    const token = await this.#take(signal)
    const began = [Date.now(), performance.now()] as const
    // The later of two clocks: the monotonic one may stand still while the machine sleeps, the other may be set back.
    const isSure = () => Math.max(Date.now() - began[0], performance.now() - began[1]) < this.#leaseMs * SURE_PART
    try {
      return await work({ isSure })
    } finally {
      await this.#give(token, isSure())
    }
  }

  async #take(signal: AbortSignal): Promise<string> {
    const until = performance.now() + this.#leaseMs * WAIT_LEASES
    for (let lookMs = FIRST_LOOK_MS; ; lookMs = Math.min(lookMs * 1.5, MAX_LOOK_MS)) {
      const token = randomUUID()
      try {
        if ((await this.#make(this.#path, token)) || (await this.#inherit(token))) return token
      } catch (error) {
        throw ioError(error, `locking ${this.#path}`)
      }
      if (performance.now() > until) {
        throw new PeerlineError('ERR_PEERLINE_BUSY', `another process does not give back ${this.#path}`)
      }
      await pause(lookMs * (0.5 + Math.random()), signal)
    }
  }

  /** Never rejects: what was done under the lock is done. A lock that stays is inherited, by us or others. */
  async #give(token: string, isSure: boolean): Promise<void> {
    try {
      if (isSure) return await unlink(this.#path)
      // Who was slow may have an heir by now. Being our own heir shows whether there was one, and keeps others from it.
      const claim = this.#claim(token)
      if (!(await this.#make(claim, token))) return
      if ((await holderOf(this.#path))?.token === token) await unlink(this.#path)
      await unlink(claim)
    } catch {
      this.#left = token
    }
  }

  /** Makes a file that says that we hold it; false when it is there. */
  async #make(path: string, token: string): Promise<boolean> {
    const file = await open(path, 'wx', MODE).catch((error: unknown) => {
      if (TAKEN.has((error as NodeJS.ErrnoException).code)) return undefined
      throw error
    })
    if (file === undefined) return false
    try {
      await file.writeFile(JSON.stringify({ ...this.#self, token } satisfies Holder))
    } catch (error) {
      await unlink(path).catch(() => {}) // the disk is full, as a rule: that is what counts
      throw error
    } finally {
      await file.close()
    }
    return true
  }

  /** Takes the lock of a holder that is dead; false when there is none. */
  async #inherit(token: string): Promise<boolean> {
    const holder = await holderOf(this.#path)
    const seen = this.#seen
    this.#seen = new Map()
    for (let dead = holder, n = 0; dead !== undefined && n < MAX_HEIRS; n++) {
      this.#seen.set(dead.token, seen.get(dead.token) ?? performance.now())
      if (!this.#isDead(dead)) return false
      const claim = this.#claim(dead.token)
      if (await this.#make(claim, token)) return this.#enter(claim, token, holder!)
      dead = await holderOf(claim)
    }
    return false
  }

  /** Makes the claim the lock, unless that has passed on meanwhile. */
  async #enter(claim: string, token: string, holder: Holder): Promise<boolean> {
    try {
      if ((await holderOf(this.#path))?.token !== holder.token) return false
      await rename(claim, this.#path)
    } finally {
      await unlink(claim).catch(() => {}) // it was renamed, as a rule
    }
    // Claims to deaths of the past are void, and so are those still to be made: the lock says otherwise.
    const [directory, begin] = [dirname(this.#path), `${basename(this.#path)}.`]
    for (const name of await readdir(directory)) {
      const past = name.startsWith(begin) ? name.slice(begin.length) : token
      if (past !== token && TOKEN.test(past)) await unlink(join(directory, name)).catch(() => {})
    }
    return true
  }

  #claim(token: string): string {
    return `${this.#path}.${token}`
  }

  #isDead(holder: Holder): boolean {
    if (holder.token === this.#left) return true
    const life = holder.machine === '' || holder.machine !== this.#self.machine ? 'unknown' : lifeOf(holder)
    if (life !== 'unknown') return life === 'dead'
    return performance.now() - this.#seen.get(holder.token)! > this.#leaseMs
  }
}

/** Who holds a lock; undefined when nobody does. One that says nothing of use has a token of its own, and nothing else. */
async function holderOf(path: string): Promise<Holder | undefined> {
  const file = await open(path, 'r').catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT' || TAKEN.has((error as NodeJS.ErrnoException).code)) return
    throw error
  })
  if (file === undefined) return undefined
  try {
    const { ino, mtimeMs } = await file.stat()
    const { buffer, bytesRead } = await file.read(Buffer.alloc(MAX_LOCK_BYTES), 0, MAX_LOCK_BYTES, 0)
    return parse(buffer.toString('latin1', 0, bytesRead)) ?? { ...NOBODY, token: `unknown-${ino}-${mtimeMs}` }
  } finally {
    await file.close()
  }
}

const NOBODY = { machine: '', pid: 0, started: '' }

function parse(text: string): Holder | undefined {
  let said: Partial<Record<keyof Holder, unknown>> | null
  try {
    said = JSON.parse(text)
  } catch {
    return undefined // it is just being written, or its writer died in the middle
  }
  const { machine, pid, started, token } = said ?? {}
  if (typeof machine !== 'string' || typeof started !== 'string') return undefined
  if (typeof token !== 'string' || !TOKEN.test(token)) return undefined
  if (!Number.isSafeInteger(pid) || (pid as number) <= 0) return undefined
  return { machine, pid: pid as number, started, token }
}

/** What stands for this boot and this space of process ids: the same number is the same process there, as long as that lives. */
function machineOf(): string {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()
    return startOf(process.pid) === '' ? '' : `${boot} ${readlinkSync('/proc/self/ns/pid')}`
  } catch {
    return ''
  }
}

/** Whether a process of this machine is the one that it was. */
function lifeOf({ pid, started }: Holder): 'dead' | 'alive' | 'unknown' {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return 'dead'
  }
  const now = startOf(pid)
  if (now === '') return 'unknown' // not for our eyes
  return now === started ? 'alive' : 'dead'
}

/** When a process began, in ticks since boot, proc(5); `ended` for one that nobody has buried; '' where that is not told. */
function startOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // The name of the program, in brackets, may hold anything.
    const [state = '', ...rest] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return /[ZX]/.test(state) ? 'ended' : (rest[18] ?? '')
  } catch {
    return ''
  }
}
