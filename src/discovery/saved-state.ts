/**
 * What a peer remembers from one start to the next: several sections in one store.
 *
 *     { "version": 1, "peers": …, "rules": …, "bans": …, … }     JSON, UTF-8, one line
 *
 * - Each section is written and read by who owns it. Sections that nobody claims are kept as they are.
 * - Changes are saved together, at most a second after the first of them; at once by `flush` and `close`. What fails to be
 *   saved is told, and tried again.
 * - What cannot be read is set aside before anything is saved, and told; a store that can set nothing aside is not written
 *   to any more. A section that its owner refuses takes the others with it to the side, but those are read all the same.
 * - What a later version has written is left alone.
 */
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import type { Store } from './file-store.ts'

const VERSION = 1

/** ms from a change to its save: changes come in flocks, when a session opens or a list is pasted. */
const SAVE_DELAY_MS = 1_000

/** ms to the next attempt when a save has failed: a full disk is not emptied in a second. */
const RETRY_MS = 30_000

/** Who owns a section. */
export interface Section {
  /** The section, as plain JSON. */
  export(): unknown
  /** Takes over what `export` gave once. @throws PeerlineError when it cannot be that */
  load(json: unknown): void
}

/** What could not be read. */
export interface Damage {
  readonly error: PeerlineError
  /** Where it is now. */
  readonly keptAs: string
  /** The section that is damaged; undefined: all of it is. */
  readonly section?: string
}

export type SavedStateEvents = {
  damage: Damage
  /** A save has failed, and is tried again. */
  error: { error: PeerlineError }
}

export class SavedState extends TypedEventTarget<SavedStateEvents> {
  readonly #store: Store
  readonly #sections: ReadonlyMap<string, Section>
  readonly #delayMs: number
  /** Sections that nobody claims, as JSON. */
  #others: ReadonlyMap<string, string> = new Map()
  #state: 'new' | 'loading' | 'open' | 'closed' = 'new'
  /** Settle, never reject, when loading and the last save have. */
  #loading: Promise<void> = Promise.resolve()
  #saving: Promise<void> = Promise.resolve()
  #dirty = false
  #timer: NodeJS.Timeout | undefined

  /** @param options `delayMs`: from a change to its save. @default 1_000 */
  constructor(store: Store, sections: Readonly<Record<string, Section>>, options: { delayMs?: number } = {}) {
    super()
    if (Object.hasOwn(sections, 'version')) throw new PeerlineError('ERR_PEERLINE_INVALID', 'no section is a version')
    this.#store = store
    this.#sections = new Map(Object.entries(sections))
    this.#delayMs = options.delayMs ?? SAVE_DELAY_MS
  }

  /**
   * Has each section take over what was saved. Once, before anything is saved.
   * @returns what could not be read, also told by `damage` events: a section there begins empty, bans as well
   * @throws PeerlineError of the store; `ERR_PEERLINE_VERSION` when a later version has written it; `ERR_PEERLINE_FILE`
   *   when it is damaged and cannot be set aside. Nothing is saved then.
   */
  async load(): Promise<readonly Damage[]> {
    if (this.#state !== 'new') throw new PeerlineError('ERR_PEERLINE_INVALID', 'it is loaded already')
    this.#state = 'loading'
    const reading = this.#load()
    this.#loading = reading.then(ignore, ignore)
    return reading
  }

  async #load(): Promise<readonly Damage[]> {
    let opened = false
    try {
      const bytes = await this.#store.load()
      const damages = bytes === undefined ? [] : await this.#read(bytes)
      opened = true
      return damages
    } finally {
      // What could not be loaded may be loaded again, and is not written over.
      this.#state = opened ? 'open' : 'new'
      if (this.#dirty) this.touch()
    }
  }

  async #read(bytes: Uint8Array): Promise<readonly Damage[]> {
    let all: ReadonlyMap<string, unknown>
    try {
      all = parse(bytes)
      const others = [...all].filter(([name]) => !this.#sections.has(name))
      // As text already now: what is nested too deep to be written would fail every save.
      this.#others = new Map(others.map(([name, json]) => [name, JSON.stringify(json)]))
    } catch (error) {
      const wrong = asPeerlineError(error, 'ERR_PEERLINE_FILE')
      if (wrong.code === 'ERR_PEERLINE_VERSION') throw wrong
      return this.#setAside([{ error: wrong }])
    }
    const wrong: { error: PeerlineError; section: string }[] = []
    for (const [section, owner] of this.#sections) {
      if (!all.has(section)) continue
      try {
        owner.load(all.get(section))
      } catch (error) {
        wrong.push({ section, error: asPeerlineError(error, 'ERR_PEERLINE_FILE', `the saved ${section}`) })
      }
    }
    return wrong.length === 0 ? [] : this.#setAside(wrong)
  }

  async #setAside(wrong: readonly { error: PeerlineError; section?: string }[]): Promise<readonly Damage[]> {
    const { error } = wrong[0]!
    if (this.#store.setAside === undefined) {
      throw new PeerlineError('ERR_PEERLINE_FILE', `what was saved cannot be read: ${error.message}`, { cause: error })
    }
    const keptAs = await this.#store.setAside()
    // What could be read is nowhere else now.
    this.#dirty = true
    const damages = wrong.map((one) => {
      const said = `what was saved cannot be read, and is kept as ${keptAs}: ${one.error.message}`
      return { ...one, error: new PeerlineError('ERR_PEERLINE_FILE', said, { cause: one.error }), keptAs }
    })
    for (const damage of damages) this.emit('damage', damage)
    return damages
  }

  /** Something has changed: it is saved soon. */
  touch(): void {
    // What changes while it is being loaded is what was saved.
    if (this.#state !== 'open') return
    this.#dirty = true
    this.#schedule(this.#delayMs)
  }

  #schedule(ms: number): void {
    this.#timer ??= setTimeout(() => void this.#save().catch(ignore), ms) // who listens for `error` is told
  }

  /**
   * Resolves when all changes are saved.
   * @throws PeerlineError of the store
   */
  async flush(): Promise<void> {
    await this.#saving
    if (this.#dirty) await this.#save()
  }

  /**
   * Saves what has changed, and nothing after that. No timer is left.
   * @throws PeerlineError of the store
   */
  async close(): Promise<void> {
    await this.#loading
    if (this.#state === 'closed') return
    this.#state = 'closed'
    try {
      await this.flush()
    } finally {
      clearTimeout(this.#timer)
      await this.#store.close?.()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** One after the other: no store is asked for two saves at once. */
  #save(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const done = this.#saving.then(() => this.#write())
    this.#saving = done.catch(ignore)
    return done
  }

  async #write(): Promise<void> {
    if (!this.#dirty) return
    this.#dirty = false
    try {
      await this.#store.save(this.#encode())
    } catch (reason) {
      const error = asPeerlineError(reason, 'ERR_PEERLINE_FILE', 'saving')
      this.#dirty = true
      if (this.#state === 'open') this.#schedule(RETRY_MS)
      this.emit('error', { error })
      throw error
    }
  }

  #encode(): Uint8Array {
    const own = [...this.#sections].map(([name, owner]): [string, string] => [name, JSON.stringify(owner.export())])
    const parts = [['version', String(VERSION)], ...own, ...this.#others].map(
      ([name, json]) => `${JSON.stringify(name)}:${json}`,
    )
    return new TextEncoder().encode(`{${parts.join()}}\n`)
  }
}

function ignore(): void {}

/** The sections by name. Throws what makes it something else than ours. */
function parse(bytes: Uint8Array): Map<string, unknown> {
  let json: unknown
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (cause) {
    // the cause is left out of the message: it may quote the file
    throw new PeerlineError('ERR_PEERLINE_FILE', 'it is torn, or no JSON', { cause })
  }
  if (typeof json !== 'object' || json === null || !Object.hasOwn(json, 'version')) {
    throw new PeerlineError('ERR_PEERLINE_FILE', 'it is not ours')
  }
  const all = new Map<string, unknown>(Object.entries(json))
  const version = all.get('version')
  if (typeof version !== 'number' || !Number.isSafeInteger(version) || version < 1)
    throw new PeerlineError('ERR_PEERLINE_FILE', 'it is not ours')
  if (version > VERSION) {
    const recover = 'Update this program, or give it another file.'
    throw new PeerlineError('ERR_PEERLINE_VERSION', `version ${version} of Peerline's file is not known`, { recover })
  }
  all.delete('version')
  return all
}
