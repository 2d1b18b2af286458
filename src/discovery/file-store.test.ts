import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import {
  chmod,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { compile } from '../javascript.compliance.ts'
import { temporaryDirectory } from '../temporary.compliance.ts'
import { FileStore, MAX_STORE_BYTES } from './file-store.ts'

const POSIX = process.platform !== 'win32'
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const fails = (code: string, said: string) =>
  expect.objectContaining({ code, message: expect.stringContaining(said), recover: expect.stringMatching(/\w/) })

let directory: string
let path: string
beforeEach(async () => {
  directory = await temporaryDirectory()
  path = join(directory, 'state.json')
})
afterEach(() => void vi.unstubAllEnvs())

describe('a file store', () => {
  test('gives what was saved last, and nothing before', async () => {
    const store = new FileStore(path)
    expect(await store.load()).toBeUndefined()
    await store.save(bytes('one'))
    await store.save(bytes('two'))
    expect(await store.load()).toEqual(bytes('two'))
    expect(await new FileStore(path).load()).toEqual(bytes('two'))
    expect(await readdir(directory)).toEqual(['state.json'])
  })

  test.runIf(POSIX)('is private, and so is the directory it makes', async () => {
    await writeFile(path, 'old', { mode: 0o644 })
    await new FileStore(path).save(bytes('new'))
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    const deep = join(directory, 'a', 'b', 'state.json')
    await new FileStore(deep).save(bytes('new'))
    expect((await stat(join(directory, 'a'))).mode & 0o777).toBe(0o700)
  })

  test('lies in the home directory when its path starts with ~/', async () => {
    vi.stubEnv('HOME', directory)
    vi.stubEnv('USERPROFILE', directory)
    expect(homedir()).toBe(directory)
    await new FileStore('~/.peerline/state.json').save(bytes('home'))
    expect(await readFile(join(directory, '.peerline', 'state.json'), 'utf8')).toBe('home')
  })

  test('writes the latest of many saves, not each of them', async () => {
    const store = new FileStore(path)
    const inode = async () => (await stat(path)).ino
    await store.save(bytes('0'))
    const first = await inode()
    const saves = Array.from({ length: 100 }, (_, n) => store.save(bytes(`${n}`)))
    await saves[0]
    expect(await store.load()).toEqual(bytes('99'))
    expect(await inode()).not.toBe(first)
    await Promise.all(saves)
    await store.close()
    expect(await readdir(directory)).toEqual(['state.json'])
  })

  test('resolves a save that comes while one is under way when its own bytes are there', async () => {
    const store = new FileStore(path)
    const first = store.save(new Uint8Array(4_000_000))
    await Promise.resolve()
    await Promise.resolve() // the first has begun
    await store.save(bytes('second'))
    expect(await readFile(path, 'utf8')).toBe('second')
    await first
  })

  test.runIf(POSIX)('keeps a link a link, and writes what it leads to', async () => {
    const target = join(directory, 'elsewhere.json')
    await writeFile(target, 'old', { mode: 0o600 })
    await symlink(target, path)
    const store = new FileStore(path)
    await store.save(bytes('new'))
    expect(await readFile(target, 'utf8')).toBe('new')
    expect(await readdir(directory)).toEqual(['elsewhere.json', 'state.json'])
  })

  test('sets a file aside without overwriting any', async () => {
    const store = new FileStore(path)
    const kept: string[] = []
    for (const text of ['a', 'b', 'c']) {
      await store.save(bytes(text))
      kept.push(await store.setAside())
      expect(await store.load()).toBeUndefined()
    }
    expect(kept).toEqual([`${path}.bad`, `${path}.bad-2`, `${path}.bad-3`])
    expect(kept.map((file) => readFileSync(file, 'utf8'))).toEqual(['a', 'b', 'c'])
    await expect(store.setAside()).rejects.toEqual(fails('ERR_PEERLINE_FILE', 'setting aside'))
  })

  test('sets no more than 100 files aside, and leaves the next where it is', async () => {
    for (let n = 1; n <= 100; n++) writeFileSync(n === 1 ? `${path}.bad` : `${path}.bad-${n}`, `${n}`)
    const store = new FileStore(path)
    await store.save(bytes('the 101st'))
    await expect(store.setAside()).rejects.toEqual(fails('ERR_PEERLINE_FILE', '100 damaged ones'))
    expect(await store.load()).toEqual(bytes('the 101st'))
  })

  test('removes what dead processes left behind, and nothing else', async () => {
    const old = new Date(Date.now() - 2 * 3_600_000)
    const id = '123e4567-e89b-42d3-a456-426614174000'
    const names = [`.state.json.${id}.tmp`, `.other.json.${id}.tmp`, '.state.json.mine.tmp', `.state.json.${id}.bak`]
    for (const name of names) {
      await writeFile(join(directory, name), 'x')
      await utimes(join(directory, name), old, old)
    }
    const young = `.state.json.${id.replace('1', '2')}.tmp`
    await writeFile(join(directory, young), 'x')
    await new FileStore(path).load()
    expect(await readdir(directory)).toEqual([...names.slice(1), young].sort())
  })
})

describe('a file that is not to be read', () => {
  test.runIf(POSIX).each([0o622, 0o602, 0o620])('may be written by others (mode %o)', async (mode) => {
    await writeFile(path, '{}')
    await chmod(path, mode)
    await expect(new FileStore(path).load()).rejects.toEqual(fails('ERR_PEERLINE_FILE', 'by other users'))
  })

  test('is a directory', async () => {
    await mkdir(path)
    const store = new FileStore(path)
    await expect(store.load()).rejects.toEqual(fails('ERR_PEERLINE_FILE', path))
    await expect(store.save(bytes('x'))).rejects.toEqual(fails('ERR_PEERLINE_FILE', 'writing'))
    expect(await readdir(directory)).toEqual(['state.json']) // no temporary file is left
  })

  test.runIf(POSIX && hasMkfifo())('is a named pipe, which is not waited for', async () => {
    execFileSync('mkfifo', ['-m', '600', path])
    await expect(new FileStore(path).load()).rejects.toEqual(fails('ERR_PEERLINE_FILE', 'regular file'))
  })

  test('is larger than its limit, and so is what is not to be saved', async () => {
    await writeFile(path, '', { mode: 0o600 })
    await truncate(path, MAX_STORE_BYTES + 1)
    const store = new FileStore(path)
    await expect(store.load()).rejects.toEqual(fails('ERR_PEERLINE_TOO_LARGE', `${MAX_STORE_BYTES}`))
    const large = new Uint8Array(MAX_STORE_BYTES + 1)
    await expect(store.save(large)).rejects.toEqual(fails('ERR_PEERLINE_TOO_LARGE', `${MAX_STORE_BYTES}`))
  })

  test('lies below a file', async () => {
    await writeFile(path, '')
    const store = new FileStore(join(path, 'below'))
    await expect(store.load()).rejects.toEqual(fails('ERR_PEERLINE_FILE', 'ENOTDIR'))
    await expect(store.save(bytes('x'))).rejects.toEqual(fails('ERR_PEERLINE_FILE', 'writing'))
    await store.close()
  })

  test.each(['', 'a\0b'])('has no path %j', (text) => {
    expect(() => new FileStore(text)).toThrow(fails('ERR_PEERLINE_INVALID', 'path'))
  })
})

/**
 * Programs that save generation after generation, and say so: `begin n` before, `done n` after. A generation is
 * GENERATION_BYTES of its own number, so that a mixture of two, or a part of one, shows.
 */
describe('other processes', () => {
  const GENERATION_BYTES = 8_000_000 // takes some ms to write
  let program: string
  let built: string

  beforeAll(async () => {
    built = await mkdtemp(join(tmpdir(), 'peerline-store-js-'))
    compile('discovery/file-store.ts', built)
    program = join(built, 'main.js')
    writeFileSync(
      program,
      `import { writeSync } from 'node:fs'
      import { FileStore } from './discovery/file-store.js'
      const store = new FileStore(process.argv[2])
      for (let n = 1; n < 256; n++) {
        writeSync(1, 'begin ' + n + '\\n')
        await store.save(new Uint8Array(${GENERATION_BYTES}).fill(n))
        writeSync(1, 'done ' + n + '\\n')
      }`,
    )
    return () => rm(built, { recursive: true })
  })

  /** The generation that is in the file, whole. */
  async function generation(): Promise<number> {
    const found = (await new FileStore(path).load())!
    const [number = 0] = found
    expect(found.length).toBe(GENERATION_BYTES)
    expect(Buffer.compare(found, Buffer.alloc(GENERATION_BYTES, number))).toBe(0)
    return number
  }

  /** Starts the program; `lines` are what it says. */
  function start() {
    const child = spawn(process.execPath, [program, path], { stdio: ['ignore', 'pipe', 'inherit'] })
    const ended = once(child, 'close')
    onTestFinished(async () => {
      child.kill('SIGKILL')
      await ended
    })
    return { child, ended, lines: createInterface({ input: child.stdout }) }
  }

  test.each([0, 4, 8, 16])('that are killed %d ms into a save leave the old file or the new one', async (ms) => {
    const { child, ended, lines } = start()
    let begun = 0
    let done = 0
    for await (const line of lines) {
      const [what, n] = line.split(' ')
      if (what === 'begin') begun = Number(n)
      else done = Number(n)
      if (line === 'begin 3') setTimeout(() => child.kill('SIGKILL'), ms)
    }
    await ended
    expect(begun).toBeGreaterThanOrEqual(3)
    const found = await generation()
    expect([done, begun]).toContain(found)
    expect(found).toBeGreaterThanOrEqual(done)
    // What was left behind does not disturb whoever comes next.
    await new FileStore(path).save(new Uint8Array(GENERATION_BYTES).fill(0))
    expect(await generation()).toBe(0)
  })

  test.each([1, 2, 3])('that are killed in the middle of a write leave the old file (%d)', async () => {
    const { child, ended, lines } = start()
    let done = 0
    lines.on('line', (line) => {
      if (line.startsWith('done')) done = Number(line.split(' ')[1])
    })
    const sizes = () =>
      readdirSync(directory).map((name) => statSync(join(directory, name), { throwIfNoEntry: false })?.size ?? 0)
    const half = (size: number): boolean => size > 0 && size < GENERATION_BYTES
    while (done < 2 || !sizes().some(half)) await new Promise(setImmediate)
    child.kill('SIGKILL')
    await ended
    // Unless this machine was so busy that the save was over before the signal came, it was caught in the act.
    expect(sizes().some(half) ? [done] : [done, done + 1]).toContain(await generation())
  })

  test('that write the same file at once never tear it', async () => {
    const writers = [start(), start()]
    await Promise.all(
      writers.map(
        ({ lines }) =>
          new Promise((resolve) => {
            lines.on('line', (line) => line === 'done 1' && resolve(undefined))
          }),
      ),
    )
    const found = new Set<number>()
    while (found.size < 10) found.add(await generation())
    for (const { child } of writers) child.kill('SIGKILL')
    await Promise.all(writers.map(({ ended }) => ended))
    await generation()
  })
})

function hasMkfifo(): boolean {
  try {
    execFileSync('mkfifo', ['--version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}
