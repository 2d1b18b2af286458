import { mkdir, mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { Identity } from '../identity/index.ts'
import type { Json } from './control-lines.ts'
import { DecisionLog, MAX_FILE_BYTES, readLog } from './decision-log.ts'

const PEER = Identity.generate().peerId
const decision = (at: number) =>
  ({ at, peer: PEER, object: '/a/1', direction: 'in', action: 'deny', reason: 'no-rule' }) as const
const times = (lines: readonly Json[]) => lines.map(({ at }) => at)

async function logFile(): Promise<string> {
  const home = await mkdtemp(path.join(tmpdir(), 'peerline-log-'))
  onTestFinished(() => rm(home, { recursive: true, force: true }))
  return path.join(home, 'id.log')
}

describe('the log', () => {
  test('is a line of JSON for each decision, for its owner alone', async () => {
    const file = await logFile()
    const log = new DecisionLog(file, () => expect.unreachable())
    log.add(decision(1))
    log.add({ ...decision(2), action: 'allow', reason: 'rule', rule: 'everyone anything in' })
    await log.close()
    const lines = (await readFile(file, 'utf8')).trimEnd().split('\n')
    expect(lines.map((line) => JSON.parse(line))).toEqual([
      decision(1),
      { ...decision(2), action: 'allow', reason: 'rule', rule: 'everyone anything in' },
    ])
    expect((await stat(file)).mode & 0o777).toBe(0o600)
  })

  test('tells the latest, across its two files', async () => {
    const file = await logFile()
    await writeFile(`${file}.1`, [1, 2, 3].map((at) => `${JSON.stringify(decision(at))}\n`).join(''))
    await writeFile(file, [4, 5].map((at) => `${JSON.stringify(decision(at))}\n`).join(''))
    expect(times(await readLog(file, 2))).toEqual([4, 5])
    expect(times(await readLog(file, 4))).toEqual([2, 3, 4, 5])
    expect(times(await readLog(file, 9))).toEqual([1, 2, 3, 4, 5])
    expect(await readLog(file, 0)).toEqual([])
    expect(await readLog(`${file}.none`, 9)).toEqual([])
  })

  test('passes over what is no line of its own, as half of one', async () => {
    const file = await logFile()
    await writeFile(file, `{"at":1}\n{"at":2\nnull\n7\n{"x":1}\n{"at":3}\n{"at":4`)
    expect(times(await readLog(file, 9))).toEqual([1, 3])
  })

  test('starts another file when one is full, and keeps the one before', async () => {
    const file = await logFile()
    await writeFile(file, `${JSON.stringify(decision(1))}\n`)
    await truncate(file, MAX_FILE_BYTES)
    const log = new DecisionLog(file, () => expect.unreachable())
    log.add(decision(2))
    await log.close()
    expect((await stat(`${file}.1`)).size).toBe(MAX_FILE_BYTES)
    expect(times(await readLog(file, 9))).toEqual([1, 2])
  })

  test('counts what is too much', async () => {
    const file = await logFile()
    const log = new DecisionLog(file, () => expect.unreachable())
    for (let at = 1; at <= 5_000; at++) log.add(decision(at))
    await expect
      .poll(() => {
        log.add(decision(6_000))
        return log.tail(1).then(times)
      })
      .toEqual([6_000])
    await log.close()
    const lines = await readLog(file, 10_000)
    expect(lines.length).toBeLessThan(1_500)
    const skipped = lines.reduce((sum, line) => sum + Number(line.skipped ?? 0), 0)
    const listed = lines.filter((line) => line.skipped === undefined && Number(line.at) <= 5_000).length
    expect(skipped + listed).toBeGreaterThanOrEqual(5_000)
  })

  test('is followed without a gap, and nothing twice', async () => {
    const log = new DecisionLog(await logFile(), () => expect.unreachable())
    const live: Json[] = []
    for (let at = 1; at <= 5; at++) log.add(decision(at))
    const { past, stop } = log.follow(3, (line) => live.push(line))
    for (let at = 6; at <= 8; at++) log.add(decision(at))
    expect(times(await past)).toEqual([3, 4, 5])
    stop()
    log.add(decision(9))
    await log.close()
    expect(times(live)).toEqual([6, 7, 8])
    expect(times(await log.tail(9))).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9])
  })

  test('that cannot be written says so once, and stops nobody', async () => {
    const file = await logFile()
    await mkdir(file)
    const errors: unknown[] = []
    const log = new DecisionLog(file, (error) => errors.push(error))
    for (let at = 1; at <= 3; at++) {
      log.add(decision(at))
      await log.close()
    }
    expect(errors).toEqual([expect.objectContaining({ code: 'EISDIR' })])
    await rm(file, { recursive: true })
    log.add(decision(4))
    await log.close()
    expect(times(await log.tail(9))).toEqual([4])
  })
})
