/**
 * Several processes with one ledger: what was acknowledged stays, in one order, whoever is killed when.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { compile } from '../javascript.compliance.ts'
import { temporaryDirectory } from '../temporary.compliance.ts'
import { LogLedger } from './log.ts'

/** ms: a dozen processes begin, on a machine that has much else to do. */
const TEST_MS = 60_000

/**
 * Appends messages that begin with its name and count, several at once, and says a line for each that was acknowledged: its
 * count, its sequence.
 */
const WRITER = `
  import { writeSync } from 'node:fs'
  import { LogLedger } from './ledger/log.js'
  const [path, topic, name, count, atOnce, sync] = process.argv.slice(2)
  const ledger = await LogLedger.open(path, { sync: JSON.parse(sync), maxMessageBytes: 65_536 })
  const { signal } = new AbortController()
  let next = 0
  writeSync(1, 'open\\n')
  await Promise.all(Array.from({ length: Number(atOnce) }, async () => {
    while (next < Number(count)) {
      const n = ++next
      const text = name + ' ' + n + ' ' + 'x'.repeat((n * 7919) % 3_000)
      const { sequence } = await ledger.append(topic, new TextEncoder().encode(text), { signal })
      writeSync(1, n + ' ' + sequence + '\\n')
    }
  }))
  await ledger.close()
`

/** Reads until it has as many entries as it was told, and says the sequence and the time since 1970 of each. */
const READER = `
  import { LogLedger } from './ledger/log.js'
  const [path, topic, count] = process.argv.slice(2)
  const ledger = await LogLedger.open(path)
  const { signal } = new AbortController()
  let seen = 0
  console.log('open')
  for await (const { sequence } of ledger.subscribe(topic, { signal })) {
    console.log(sequence + ' ' + Date.now())
    if (++seen === Number(count)) break
  }
  await ledger.close()
`

let built: string
let directory: string
let path: string

beforeAll(async () => {
  built = await mkdtemp(join(tmpdir(), 'peerline-log-js-'))
  compile('ledger/log.ts', built)
  writeFileSync(join(built, 'writer.js'), WRITER)
  writeFileSync(join(built, 'reader.js'), READER)
  return () => rm(built, { recursive: true })
})

beforeEach(async () => {
  directory = await temporaryDirectory()
  path = join(directory, 'ledger')
})

interface Process {
  readonly child: ChildProcess
  /** Its exit code; null when it was killed. */
  readonly ended: Promise<number | null>
  readonly lines: AsyncIterable<string>
}

/** Starts a program; it is killed with the test. */
function start(program: string, ...args: (string | number)[]): Process {
  const all = [join(built, program), path, ...args.map(String)]
  const child = spawn(process.execPath, all, { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(child, 'close').then(([code]) => code as number | null)
  onTestFinished(async () => {
    child.kill('SIGKILL')
    await ended
  })
  return { child, ended, lines: createInterface({ input: child.stdout! }) }
}

const write = (name: string, count: number, atOnce: number, sync: unknown = 'always', topic = 't') =>
  start('writer.js', topic, name, count, atOnce, JSON.stringify(sync))

/** What a writer has said was acknowledged: the sequence of each of its messages, by name and count. */
async function acknowledged(
  name: string,
  { lines }: Process,
  onLine = (_: string) => {},
): Promise<Map<string, number>> {
  const known = new Map<string, number>()
  for await (const line of lines) {
    const [n, sequence] = line.split(' ')
    if (sequence !== undefined) known.set(`${name} ${n}`, Number(sequence))
    onLine(line)
  }
  return known
}

/** All of a topic: name and count of each message. Verifies the file. */
async function messages(topic = 't'): Promise<string[]> {
  const ledger = await LogLedger.open(path)
  const signal = AbortSignal.timeout(TEST_MS)
  const found: string[] = []
  for (let from: number | undefined = 1; from !== undefined; ) {
    const page = await ledger.read(topic, { signal, from, max: 1_000 })
    for (const { message } of page.entries) found.push(/^\S+ \d+/.exec(Buffer.from(message).toString())![0])
    from = page.next
  }
  await ledger.close()
  return found
}

/** That each acknowledged message is where it was said to be, and no message is there twice. */
function expectKept(found: readonly string[], known: ReadonlyMap<string, number>): void {
  expect(new Set(found).size).toBe(found.length)
  expect([...known].filter(([message, sequence]) => found[sequence - 1] !== message)).toEqual([])
}

describe('processes that share a ledger file', { timeout: TEST_MS }, () => {
  test.each(['always', 'never'])('append at once, in one order (sync: %s)', async (sync) => {
    const names = ['a', 'b', 'c']
    const writers = names.map((name) => write(name, 50, 4, sync))
    const known = await Promise.all(writers.map((writer, i) => acknowledged(names[i]!, writer)))
    expect(await Promise.all(writers.map(({ ended }) => ended))).toEqual([0, 0, 0])
    const found = await messages()
    expect(found).toHaveLength(150)
    for (const one of known) {
      expect(one.size).toBe(50)
      expectKept(found, one)
    }
    expect(await readdir(directory)).toEqual(['ledger'])
  })

  test('take turns: none of two that never stop is kept waiting long', async () => {
    const writers = [write('a', 1e9, 8, 'never'), write('b', 1e9, 8, 'never')]
    const known = [0, 0]
    await Promise.all(
      writers.map(async ({ lines }, i) => {
        for await (const _ of lines) {
          known[i]!++
          if (known.every((count) => count > 200)) for (const { child } of writers) child.kill('SIGKILL')
        }
      }),
    )
    expect(Math.min(...known)).toBeGreaterThan(200)
  })

  test.each(['always', 'never'])(
    'lose nothing that was acknowledged when one is killed in the middle, again and again (sync: %s)',
    async (sync) => {
      const steady = write('steady', 1e9, 2)
      const kept = acknowledged('steady', steady)
      const known: Map<string, number>[] = []
      for (let round = 0; round < 5; round++) {
        const name = `killed${round}`
        const victim = write(name, 1e9, 6, sync)
        let said = 0
        known.push(
          await acknowledged(name, victim, () => {
            // between two lines it is anywhere: writing, syncing, taking the lock or giving it back
            if (++said === 10 + round * 3) setTimeout(() => victim.child.kill('SIGKILL'), round % 4)
          }),
        )
        expect(await victim.ended).toBe(null)
      }
      steady.child.kill('SIGKILL')
      known.push(await kept)
      const found = await messages()
      for (const one of known) {
        expect(one.size).toBeGreaterThan(5)
        expectKept(found, one)
      }
      const last = await acknowledged('last', write('last', 5, 1))
      expectKept(await messages(), last)
    },
  )

  test('see what others append while it happens', async () => {
    const readers = [start('reader.js', 't', 40), start('reader.js', 't', 40)]
    const seen = readers.map(async ({ lines }) => {
      const times: string[] = []
      for await (const line of lines) times.push(line)
      return times
    })
    const ledger = await LogLedger.open(path)
    onTestFinished(() => ledger.close())
    const writer = write('w', 20, 1)
    await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        ledger.append('t', Buffer.from(`us ${i}`), { signal: AbortSignal.timeout(TEST_MS) }),
      ),
    )
    expect(await writer.ended).toBe(0)
    expect(await Promise.all(readers.map(({ ended }) => ended))).toEqual([0, 0]) // nothing of theirs stays open either
    for (const lines of await Promise.all(seen)) {
      expect(lines.slice(1).map((line) => Number(line.split(' ')[0]))).toEqual(
        Array.from({ length: 40 }, (_, i) => i + 1),
      )
    }
  })
})
