import { appendFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { temporaryDirectory } from '../temporary.compliance.ts'
import { LogWatch } from './log-watch.ts'

let directory: string
beforeEach(async () => {
  directory = await temporaryDirectory()
})

describe('where the system says when a file has changed', () => {
  test('it is looked at then, and once more when it changes during a look', async () => {
    const path = join(directory, 'file')
    await writeFile(path, '')
    // no looks from time to time
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    onTestFinished(() => void vi.useRealTimers())
    let looks = 0
    let finish = () => {}
    const watch = new LogWatch(path, async () => {
      looks++
      await new Promise<void>((resolve) => {
        finish = resolve
      })
      return true
    })
    onTestFinished(watch.start())
    const until = async (count: number) => {
      for (let turns = 0; looks < count && turns < 1e5; turns++) await new Promise(setImmediate)
      expect(looks).toBe(count)
    }
    await appendFile(path, '1')
    await until(1)
    await appendFile(path, '2')
    for (let turns = 0; turns < 1e3; turns++) await new Promise(setImmediate)
    expect(looks).toBe(1)
    finish()
    await until(2)
    finish()
  })
})

describe('where it does not', () => {
  const nowhere = () => join(directory, 'nowhere')
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    return () => vi.useRealTimers()
  })

  /** Looks that are made in so many ms. */
  async function looksIn(ms: number, looks: { count: number }): Promise<number> {
    const before = looks.count
    await vi.advanceTimersByTimeAsync(ms)
    return looks.count - before
  }

  test('it is looked at often while it grows, and seldom when it is quiet', async () => {
    const looks = { count: 0, grows: false }
    const watch = new LogWatch(nowhere(), async () => {
      looks.count++
      return looks.grows
    })
    onTestFinished(watch.start())
    expect(await looksIn(500, looks)).toBe(20)
    await looksIn(60_000, looks)
    expect(await looksIn(60_000, looks)).toBe(60)
    looks.grows = true
    await looksIn(1_000, looks)
    expect(await looksIn(500, looks)).toBe(20)
    looks.grows = false
    await looksIn(60_000, looks)
    // Known from elsewhere: the next look comes soon, not when it would have come.
    watch.grown()
    expect(await looksIn(25, looks)).toBe(1)
  })

  test('it is not looked at while nobody watches, nor when it was closed', async () => {
    const looks = { count: 0 }
    const watch = new LogWatch(nowhere(), async () => {
      looks.count++
      return true
    })
    watch.grown()
    expect(await looksIn(1_000, looks)).toBe(0)
    const [one, two] = [watch.start(), watch.start()]
    expect(await looksIn(100, looks)).toBe(4)
    one()
    one()
    expect(await looksIn(100, looks)).toBe(4)
    two()
    watch.grown()
    expect(await looksIn(1_000, looks)).toBe(0)
    watch.start()
    expect(await looksIn(100, looks)).toBe(4)
    watch.close()
    watch.start()
    watch.grown()
    expect(await looksIn(1_000, looks)).toBe(0)
    expect(vi.getTimerCount()).toBe(0)
  })
})
