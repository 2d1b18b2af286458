import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { temporaryDirectory } from '../temporary.compliance.ts'
import { FileStore, type Store } from './file-store.ts'
import { hostileJson } from './hostile-json.compliance.ts'
import { SavedState, type Section } from './saved-state.ts'

/** A section that holds one number. */
class Numbered implements Section {
  number = 0
  export(): unknown {
    return { number: this.number }
  }
  load(json: unknown): void {
    const { number } = (json ?? {}) as { number?: unknown }
    if (typeof number !== 'number') throw new PeerlineError('ERR_PEERLINE_INVALID', 'no number')
    this.number = number
  }
}

/** A store in memory, whose saves take as long as the test likes. */
class MemoryStore implements Store {
  bytes: Uint8Array | undefined
  saves = 0
  closed = false
  failing = false
  wait: Promise<void> | undefined
  constructor(text?: string) {
    this.bytes = text === undefined ? undefined : new TextEncoder().encode(text)
  }
  get json(): unknown {
    return JSON.parse(new TextDecoder().decode(this.bytes))
  }
  async load(): Promise<Uint8Array | undefined> {
    return this.bytes
  }
  async save(bytes: Uint8Array): Promise<void> {
    this.saves++
    if (this.failing) throw new Error('no disk')
    await this.wait
    this.bytes = bytes
  }
  async close(): Promise<void> {
    this.closed = true
  }
}

const fileError = expect.objectContaining({ code: 'ERR_PEERLINE_FILE' })
afterEach(() => void vi.useRealTimers())

describe('what a peer remembers', () => {
  test('goes to its sections, and what nobody claims is kept as it is', async () => {
    const text = '{"version":1,"bans":{"number":7},"later":{"__proto__":[1,{"a":null}]},"__proto__":"odd","rules":"?"}'
    const store = new MemoryStore(text)
    const [peers, bans] = [new Numbered(), new Numbered()]
    const state = new SavedState(store, { peers, bans })
    expect(await state.load()).toEqual([])
    expect([peers.number, bans.number]).toEqual([0, 7])
    peers.number = 1
    state.touch()
    await state.close()
    const expected = `{"version":1,"peers":{"number":1},${text.slice('{"version":1,'.length)}`
    expect(store.json).toEqual(JSON.parse(expected))
    expect(JSON.stringify(store.json)).toBe(expected)
  })

  test('is saved once a second at most, however often it changes, and not at all when it does not', async () => {
    vi.useFakeTimers()
    const store = new MemoryStore()
    const peers = new Numbered()
    const state = new SavedState(store, { peers })
    await state.load()
    await vi.advanceTimersByTimeAsync(10_000)
    expect(store.saves).toBe(0)
    for (let ms = 0; ms < 999; ms++) {
      peers.number++
      state.touch()
      await vi.advanceTimersByTimeAsync(1)
    }
    expect(store.saves).toBe(0)
    await vi.advanceTimersByTimeAsync(1)
    expect([store.saves, store.json]).toEqual([1, { version: 1, peers: { number: 999 } }])
    await vi.advanceTimersByTimeAsync(10_000)
    expect(store.saves).toBe(1)
    await state.close()
    expect([store.saves, store.closed, vi.getTimerCount()]).toEqual([1, true, 0])
  })

  test('is saved at once by flush and by close, with what changes during a save', async () => {
    vi.useFakeTimers()
    const store = new MemoryStore()
    const peers = new Numbered()
    const state = new SavedState(store, { peers })
    await state.load()
    let go = (): void => {}
    store.wait = new Promise((resolve) => {
      go = resolve
    })
    state.touch()
    const first = state.flush()
    await vi.advanceTimersByTimeAsync(0)
    expect(store.saves).toBe(1)
    peers.number = 2
    state.touch()
    const second = state.flush()
    await vi.advanceTimersByTimeAsync(0)
    expect(store.saves).toBe(1) // no store is asked for two at once
    go()
    await Promise.all([first, second])
    expect([store.saves, store.json]).toEqual([2, { version: 1, peers: { number: 2 } }])
    peers.number = 3
    state.touch()
    await state.close()
    peers.number = 4
    state.touch()
    await state.close()
    expect([store.json, vi.getTimerCount()]).toEqual([{ version: 1, peers: { number: 3 } }, 0])
  })

  test('is told when it cannot be saved, and saved later', async () => {
    vi.useFakeTimers()
    const store = new MemoryStore()
    const state = new SavedState(store, { peers: new Numbered() })
    await state.load()
    const errors: PeerlineError[] = []
    state.addEventListener('error', ({ detail }) => errors.push(detail.error))
    store.failing = true
    state.touch()
    await vi.advanceTimersByTimeAsync(1_000)
    expect(errors).toEqual([fileError])
    await expect(state.flush()).rejects.toEqual(fileError)
    await vi.advanceTimersByTimeAsync(29_999)
    expect([store.saves, errors.length]).toEqual([2, 2])
    store.failing = false
    await vi.advanceTimersByTimeAsync(1)
    expect([store.saves, store.json]).toEqual([3, { version: 1, peers: { number: 0 } }])
    store.failing = true
    state.touch()
    await expect(state.close()).rejects.toEqual(fileError)
    await expect(state.flush()).rejects.toEqual(fileError)
    expect([store.closed, vi.getTimerCount()]).toEqual([true, 0])
  })

  test('waits for a slow store, and asks it for one save at a time', async () => {
    vi.useFakeTimers()
    const store = new MemoryStore()
    const state = new SavedState(store, { peers: new Numbered() })
    await state.load()
    let go = (): void => {}
    store.wait = new Promise((resolve) => {
      go = resolve
    })
    for (let second = 0; second < 5; second++) {
      state.touch()
      await vi.advanceTimersByTimeAsync(1_000)
    }
    expect(store.saves).toBe(1)
    go()
    await state.close()
    expect([store.saves, vi.getTimerCount()]).toEqual([2, 0])
  })

  test('is not written over before it is loaded, nor when loading failed', async () => {
    const store = new MemoryStore('torn')
    const state = new SavedState(store, { peers: new Numbered() })
    state.touch()
    await state.flush()
    await expect(state.load()).rejects.toEqual(fileError) // this store can set nothing aside
    state.touch()
    await state.close()
    expect([store.saves, new TextDecoder().decode(store.bytes)]).toEqual([0, 'torn'])
  })

  test('is loaded once, and closing waits for it', async () => {
    const store = new MemoryStore('{"version":1,"peers":{"number":5}}')
    const peers = new Numbered()
    const state = new SavedState(store, { peers })
    const [loading, closing, again] = [state.load(), state.close(), state.load()]
    await expect(again).rejects.toMatchObject({ code: 'ERR_PEERLINE_INVALID' })
    await Promise.all([loading, closing])
    expect([peers.number, store.closed]).toEqual([5, true])
    state.touch()
    await state.flush()
    expect(store.saves).toBe(0) // closed stays closed
  })

  test('of a later version is left alone', async () => {
    const store = new MemoryStore('{"version":2,"peers":[]}')
    const state = new SavedState(store, { peers: new Numbered() })
    await expect(state.load()).rejects.toMatchObject({ code: 'ERR_PEERLINE_VERSION' })
    state.touch()
    await state.close()
    expect(store.saves).toBe(0)
  })
})

describe('a damaged file', () => {
  let directory: string
  let path: string
  beforeEach(async () => {
    directory = await temporaryDirectory()
    path = join(directory, 'state.json')
  })

  const VALID = '{"version":1,"peers":{"number":1},"bans":{"number":2}}\n'

  async function loaded(content: string | Uint8Array) {
    await writeFile(path, content, { mode: 0o600 })
    const sections = { peers: new Numbered(), bans: new Numbered() }
    const state = new SavedState(new FileStore(path), sections)
    const events: unknown[] = []
    state.addEventListener('damage', ({ detail }) => events.push(detail))
    return { state, sections, events, damages: await state.load() }
  }

  const deep = `${'['.repeat(100_000)}${']'.repeat(100_000)}`
  test.each<[string, string | Uint8Array]>([
    ['cut off', VALID.slice(0, 30)],
    ['empty', ''],
    ['zeros', new Uint8Array(100)],
    ['no UTF-8', Uint8Array.from([0x22, 0xff, 0x22])],
    ['a list', '[]'],
    ['null', 'null'],
    ['something else', '{"name":"package"}'],
    ['without a true version', '{"version":"1","peers":{"number":1}}'],
    ['nested without end', `{"version":1,"other":${deep}}`],
  ])('that is %s is kept aside, and told', async (_, content) => {
    const { state, sections, events, damages } = await loaded(content)
    expect(damages).toEqual([{ error: fileError, keptAs: `${path}.bad` }])
    expect(events).toEqual(damages)
    expect(damages[0]!.error.message).toContain(`${path}.bad`)
    expect([sections.peers.number, sections.bans.number]).toEqual([0, 0])
    sections.peers.number = 9
    state.touch()
    await state.close()
    expect(await readFile(`${path}.bad`)).toEqual(Buffer.from(content))
    expect(await readFile(path, 'utf8')).toBe('{"version":1,"peers":{"number":9},"bans":{"number":0}}\n')
  })

  test('in one section keeps the others, here and aside', async () => {
    const content = '{"version":1,"peers":[],"bans":{"number":2},"more":true}'
    const { state, sections, damages } = await loaded(content)
    expect(damages).toEqual([{ error: fileError, keptAs: `${path}.bad`, section: 'peers' }])
    expect(sections.bans.number).toBe(2)
    await state.close() // nothing has changed, but what could be read is nowhere else
    expect(await readFile(`${path}.bad`, 'utf8')).toBe(content)
    const saved = '{"version":1,"peers":{"number":0},"bans":{"number":2},"more":true}\n'
    expect(await readFile(path, 'utf8')).toBe(saved)
  })

  test('never throws but typed errors, and never is lost', async () => {
    const damage = fc.oneof(
      fc.nat(VALID.length).map((length) => Buffer.from(VALID.slice(0, length))),
      fc.tuple(fc.nat(VALID.length - 1), fc.nat(255)).map(([at, byte]) => Buffer.from(VALID).fill(byte, at, at + 1)),
      hostileJson(JSON.parse(VALID)).map((json) => Buffer.from(JSON.stringify(json) ?? '')),
    )
    await fc.assert(
      fc.asyncProperty(damage, async (content) => {
        await writeFile(path, content, { mode: 0o600 })
        const sections = { peers: new Numbered(), bans: new Numbered() }
        const state = new SavedState(new FileStore(path), sections)
        const damages = await state.load().catch((error: unknown) => {
          expect(error).toMatchObject({ code: 'ERR_PEERLINE_VERSION' })
          return undefined
        })
        state.touch()
        await state.close()
        if (damages === undefined) expect(await readFile(path)).toEqual(content)
        else if (damages.length > 0) expect(await readFile(damages[0]!.keptAs)).toEqual(content)
        for (const name of await readdir(directory)) if (name.includes('.bad')) await rm(join(directory, name))
      }),
      { numRuns: 100 },
    )
  })
})
