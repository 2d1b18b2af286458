import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import { temporaryDirectory } from '../temporary.compliance.ts'
import { LogLock } from './log-lock.ts'

/** Stands before a file is made exclusively: other processes are there first. */
const hooks = vi.hoisted(() => ({ beforeMaking: undefined as ((path: string) => Promise<void>) | undefined }))
vi.mock('node:fs/promises', async (original) => {
  const fs = await original<typeof import('node:fs/promises')>()
  const open: typeof fs.open = async (path, flags, mode) => {
    if (flags === 'wx') await hooks.beforeMaking?.(String(path))
    return fs.open(path, flags, mode)
  }
  return { ...fs, open }
})

const LEASE_MS = 200
const LINUX = process.platform === 'linux'
const TOKENS = Array.from({ length: 4 }, (_, i) => `00000000-0000-4000-8000-00000000000${i}`)

let directory: string
let path: string
let lock: string
let signal: AbortSignal
beforeEach(async () => {
  directory = await temporaryDirectory()
  path = join(directory, 'file')
  lock = `${path}.lock`
  signal = AbortSignal.timeout(15_000)
})

const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })
const take = (held = new LogLock(path, LEASE_MS)) => held.hold(signal, async () => 'taken')

/** What a lock says while we hold it. */
async function own(): Promise<{ machine: string; pid: number; started: string; token: string }> {
  return new LogLock(path).hold(signal, async () => JSON.parse(await readFile(lock, 'utf8')))
}

/** The id of a process that has ended. */
async function ended(): Promise<number> {
  const child = spawn(process.execPath, ['--version'], { stdio: 'ignore' })
  await once(child, 'close')
  return child.pid!
}

function gate(): { readonly opened: Promise<void>; readonly open: () => void } {
  let open = () => {}
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return { opened, open: () => open() }
}

describe('a lock', () => {
  test('is held by one at a time, and leaves nothing behind', async () => {
    let inside = 0
    let done = 0
    const hold = async (held: LogLock) => {
      for (let i = 0; i < 10; i++) {
        await held.hold(signal, async () => {
          expect(++inside).toBe(1)
          await new Promise(setImmediate)
          inside--
          done++
        })
      }
    }
    await Promise.all([1, 2, 3].map(() => hold(new LogLock(path))))
    expect(done).toBe(30)
    expect(await readdir(directory)).toEqual([])
  })

  test('is given back when the work fails', async () => {
    const failing = new LogLock(path).hold(signal, () => Promise.reject(new Error('the work')))
    await expect(failing).rejects.toThrow('the work')
    expect(await take()).toBe('taken')
  })

  test('that does not come is BUSY after a while, and the wait ends with its signal', async () => {
    await new LogLock(path).hold(signal, async () => {
      await expect(take(new LogLock(path, 50))).rejects.toEqual(code('ERR_PEERLINE_BUSY'))
      const aborted = new LogLock(path).hold(AbortSignal.abort(), async () => {})
      await expect(aborted).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
    })
  })

  test('is not to be had where nothing can be written', async () => {
    await expect(take(new LogLock(join(directory, 'nowhere', 'file')))).rejects.toEqual(code('ERR_PEERLINE_FILE'))
  })

  test('whose holder is slow is given back all the same, and its holder is not sure any more', async () => {
    await new LogLock(path, LEASE_MS).hold(signal, async ({ isSure }) => {
      expect(isSure()).toBe(true)
      await expect.poll(isSure, { interval: 10 }).toBe(false)
    })
    expect(await readdir(directory)).toEqual([])
  })

  test('whose holder had an heir meanwhile is left to that', async () => {
    const end = gate()
    const heir = await new LogLock(path, LEASE_MS).hold(signal, async ({ isSure }) => {
      const holder = JSON.parse(await readFile(lock, 'utf8'))
      // as from a machine that knows nothing of this process
      await writeFile(lock, JSON.stringify({ ...holder, machine: 'elsewhere' }))
      const inherited = gate()
      const done = new LogLock(path, LEASE_MS).hold(signal, async () => {
        inherited.open()
        await end.opened
        return JSON.parse(await readFile(lock, 'utf8')).token
      })
      await inherited.opened
      expect(isSure()).toBe(false)
      return { done, before: holder.token }
    })
    expect(JSON.parse(await readFile(lock, 'utf8')).token).not.toBe(heir.before)
    expect(await readdir(directory)).toEqual(['file.lock'])
    end.open()
    expect(await heir.done).not.toBe(heir.before)
    expect(await readdir(directory)).toEqual([])
  })
})

describe('a holder that died', () => {
  test.runIf(LINUX)('on this machine is found out at once', async () => {
    await writeFile(lock, JSON.stringify({ ...(await own()), pid: await ended(), token: TOKENS[0] }))
    const began = performance.now()
    expect(await take(new LogLock(path))).toBe('taken')
    expect(performance.now() - began).toBeLessThan(2_000)
    expect(await readdir(directory)).toEqual([])
  })

  test.runIf(LINUX)('is found out when another process has its number now', async () => {
    await writeFile(lock, JSON.stringify({ ...(await own()), started: '1', token: TOKENS[0] }))
    expect(await take(new LogLock(path))).toBe('taken')
  })

  test.runIf(LINUX)('is found out though nobody has buried it', async () => {
    // A child that ends when told so, and whose parent has become another program by then, which does not ask for it.
    const script = 'exec 3<&0; (read line <&3) & echo $!; exec sleep 60'
    const parent = spawn('sh', ['-c', script], { stdio: ['pipe', 'pipe', 'ignore'] })
    try {
      const [line] = await once(parent.stdout, 'data')
      const pid = Number(String(line))
      await expect.poll(() => readFile(`/proc/${parent.pid}/comm`, 'utf8')).toBe('sleep\n')
      parent.stdin.write('\n')
      const statOf = () => readFile(`/proc/${pid}/stat`, 'utf8')
      await expect.poll(statOf).toContain(') Z ')
      const started = (await statOf()).split(' ')[21]
      await writeFile(lock, JSON.stringify({ ...(await own()), pid, started, token: TOKENS[0] }))
      expect(await take(new LogLock(path))).toBe('taken')
    } finally {
      parent.kill('SIGKILL')
    }
  })

  test.runIf(LINUX)('on this machine is told from one that takes long', async () => {
    await new LogLock(path).hold(signal, async () => {
      await expect(take()).rejects.toEqual(code('ERR_PEERLINE_BUSY'))
    })
  })

  test.each([
    ['on another machine', JSON.stringify({ machine: 'elsewhere', pid: process.pid, started: '1', token: TOKENS[0] })],
    ['before it had said who it is', ''],
    ['in the middle of saying so', '{"machine":"'],
    ['and said nothing of use', '{"machine":1,"pid":-1,"started":"","token":"../../x"}'],
    ['and said nothing at all', 'null'],
  ])('%s is found out after a lease', async (_, text) => {
    await writeFile(lock, text)
    const began = performance.now()
    expect(await take()).toBe('taken')
    expect(performance.now() - began).toBeGreaterThanOrEqual(LEASE_MS)
    expect(await readdir(directory)).toEqual([])
  })

  test('on another machine is not taken for one that gives its lock back and takes it again', async () => {
    const leaseMs = 3 * LEASE_MS
    let isTaken = false
    const waiting = new LogLock(path, leaseMs).hold(signal, async () => {
      isTaken = true
    })
    const began = performance.now()
    for (let n = 0; performance.now() - began < 1.4 * leaseMs; n++) {
      await writeFile(lock, JSON.stringify({ machine: '', pid: 1, started: '', token: TOKENS[n % TOKENS.length] }))
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    expect(isTaken).toBe(false)
    await rm(lock)
    await waiting
  })

  test.runIf(LINUX)('and its heir too, before it had the lock, and the heir of that one', async () => {
    const dead = { ...(await own()), pid: await ended() }
    await writeFile(lock, JSON.stringify({ ...dead, token: TOKENS[0] }))
    await writeFile(`${lock}.${TOKENS[0]}`, JSON.stringify({ ...dead, token: TOKENS[1] }))
    await writeFile(`${lock}.${TOKENS[1]}`, JSON.stringify({ ...dead, token: TOKENS[2] }))
    await writeFile(`${lock}.${TOKENS[3]}`, 'of a death long ago')
    await writeFile(`${lock}.txt`, 'not ours')
    expect(await take(new LogLock(path))).toBe('taken')
    expect(await readdir(directory)).toEqual(['file.lock.txt'])
  })

  test.runIf(LINUX)('has one heir: who comes late finds that the lock has passed on', async () => {
    await writeFile(lock, JSON.stringify({ ...(await own()), pid: await ended(), token: TOKENS[0] }))
    const [first, end] = [gate(), gate()]
    let inside = 0
    const work = async () => {
      expect(++inside).toBe(1)
      first.open()
      await end.opened
      inside--
    }
    let heir: Promise<void> | undefined
    hooks.beforeMaking = async (made) => {
      if (made !== `${lock}.${TOKENS[0]}`) return
      hooks.beforeMaking = undefined
      // The other has held the holder for dead too, and is faster.
      heir = new LogLock(path).hold(signal, work)
      await first.opened
    }
    const late = new LogLock(path).hold(signal, work)
    await first.opened
    await expect.poll(async () => (await readdir(directory)).length).toBe(1)
    setTimeout(end.open, 100)
    await Promise.all([heir, late])
    expect(await readdir(directory)).toEqual([])
  })

  test.runIf(LINUX)('has one heir, however many wait', async () => {
    const dead = { ...(await own()), pid: await ended() }
    for (let round = 0; round < 40; round++) {
      const token = `${round.toString(16).padStart(8, '0')}-0000-4000-8000-000000000000`
      await writeFile(lock, JSON.stringify({ ...dead, token }))
      let inside = 0
      const hold = () =>
        new LogLock(path).hold(signal, async () => {
          expect(++inside).toBe(1)
          await new Promise(setImmediate)
          inside--
        })
      await Promise.all(Array.from({ length: 8 }, hold))
    }
    expect(await readdir(directory)).toEqual([])
  })
})
