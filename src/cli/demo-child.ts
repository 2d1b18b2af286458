/**
 * A process of `peerline demo`, seen from the parent: orders go in, news come out, and it never outlives the demo.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { abortError, PeerlineError } from '../errors.ts'
import { type News, type Order, wallMs } from './demo-wire.ts'

/** ms that a child gets to end in order before it is killed. */
const STOP_MS = 1_200

type NewsOf<K extends News['news']> = Extract<News, { news: K }>

export class Child {
  readonly role: string
  readonly #process: ChildProcess
  readonly #signal: AbortSignal
  readonly #heard: News[] = []
  readonly #listeners = new Set<() => void>()
  #ended: { readonly how: string; readonly atMs: number } | undefined
  readonly exited: Promise<void>

  /** @param signal ends every wait for news */
  constructor(role: string, signal: AbortSignal) {
    this.role = role
    this.#signal = signal
    const errors = process.env.PEERLINE_DEBUG === '1' ? 'inherit' : 'ignore'
    this.#process = fork(fileURLToPath(new URL('./demo-peer.js', import.meta.url)), {
      stdio: ['ignore', 'ignore', errors, 'ipc'],
    })
    this.#process.on('message', (news: News) => {
      this.#heard.push(news)
      this.#wake()
    })
    this.exited = new Promise((resolve) => {
      const end = (how: string) => {
        this.#ended ??= { how, atMs: wallMs() }
        this.#wake()
        resolve()
      }
      this.#process.on('exit', (code, killedBy) => end(killedBy ?? `exit code ${code}`))
      this.#process.on('error', (error) => end(error.message))
    })
    signal.addEventListener('abort', () => this.#wake())
  }

  get pid(): number | undefined {
    return this.#process.pid
  }

  /** How and when the process ended. */
  get ended(): { readonly how: string; readonly atMs: number } | undefined {
    return this.#ended
  }

  /** Called whenever there is news. */
  onNews(listener: () => void): void {
    this.#listeners.add(listener)
  }

  #wake(): void {
    for (const listener of [...this.#listeners]) listener()
  }

  tell(order: Order): void {
    if (this.#process.connected) this.#process.send(order)
  }

  /** The latest news of a kind. */
  latest<K extends News['news']>(kind: K): NewsOf<K> | undefined {
    return this.#heard.findLast((news): news is NewsOf<K> => news.news === kind)
  }

  /** All news of a kind. */
  all<K extends News['news']>(kind: K): NewsOf<K>[] {
    return this.#heard.filter((news): news is NewsOf<K> => news.news === kind)
  }

  /**
   * The first news of a kind for which `when` holds, whether it has come already or not.
   * @throws PeerlineError when the child reports a failure or ends, or what the signal says
   */
  until<K extends News['news']>(kind: K, when: (news: NewsOf<K>) => boolean = () => true): Promise<NewsOf<K>> {
    return new Promise((resolve, reject) => {
      const look = () => {
        const found = this.all(kind).find(when)
        const error = found === undefined ? this.#failure(kind) : undefined
        if (found === undefined && error === undefined) return
        this.#listeners.delete(look)
        if (found !== undefined) resolve(found)
        else reject(error)
      }
      this.#listeners.add(look)
      look()
    })
  }

  #failure(kind: string): PeerlineError | undefined {
    const failed = this.latest('failed')
    if (failed !== undefined) {
      return new PeerlineError('ERR_PEERLINE_REMOTE', `the ${this.role} failed: ${failed.message}`)
    }
    if (this.#ended !== undefined) {
      return new PeerlineError('ERR_PEERLINE_REMOTE', `the ${this.role} ended early (${this.#ended.how})`)
    }
    return this.#signal.aborted ? abortError(this.#signal, `waiting for the ${this.role} (${kind})`) : undefined
  }

  /** Ends the process without a warning, as a power cut does. */
  async kill(): Promise<void> {
    this.#process.kill('SIGKILL')
    await this.exited
  }

  /** Ends the process in order, or else by force. */
  async stop(): Promise<void> {
    if (this.#ended !== undefined) return
    this.tell({ order: 'stop' })
    const timer = setTimeout(() => this.#process.kill('SIGKILL'), STOP_MS)
    await this.exited
    clearTimeout(timer)
  }
}
