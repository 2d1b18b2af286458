/**
 * The runner's end of a program of chaos-contract.md: tells it what to do, waits for what it says, and keeps everything
 * it has said.
 */
import { createInterface } from 'node:readline'
import { LabError } from './errors.js'

/** Characters of stderr that an error quotes. */
const LAST_WORDS = 2_000

/** ms for an answer, unless the caller says otherwise. */
const ANSWER_MS = 30_000

/** ms to end by itself. */
const STOP_MS = 3_000

export class Program {
  #child
  #name
  #stderr = ''
  #waiting = new Set()
  #failure
  /** Everything it has said, oldest first. @type {any[]} */
  events = []
  /** Called for each event. @type {(event: any) => void} */
  onEvent = () => {}

  /**
   * @param {import('./home.js').Host} host
   * @param {string} file a script for Node
   */
  constructor(host, file) {
    this.#name = `${file.split('/').at(-1)} at ${host.name}`
    this.#child = host.spawn(process.execPath, [file], { stdio: ['pipe', 'pipe', 'pipe'] })
    const child = this.#child
    child.stdin.on('error', () => {}) // its end is what tells
    child.stderr.setEncoding('utf8')
    child.stderr.on('data', (text) => {
      this.#stderr = (this.#stderr + text).slice(-LAST_WORDS)
    })
    createInterface({ input: child.stdout }).on('line', (line) => this.#onLine(line))
    /** Settles when it has ended. @type {Promise<void>} */
    this.ended = new Promise((resolve) => {
      child.on('error', (error) => this.#fail(error.message))
      child.on('close', (code, signal) => {
        const said = this.#stderr.trim()
        this.#fail(`ended (${signal ?? `code ${code}`})${said === '' ? '' : `: ${said}`}`)
        resolve()
      })
    })
  }

  get pid() {
    return this.#child.pid
  }

  #onLine(line) {
    let event
    try {
      event = JSON.parse(line)
    } catch {
      return this.#fail(`wrote something else than an event: ${line.slice(0, 200)}`)
    }
    this.events.push(event)
    this.onEvent(event)
    for (const wait of [...this.#waiting]) wait.look(event)
  }

  #fail(reason) {
    this.#failure ??= new LabError('ERR_LAB_COMMAND', `${this.#name}: ${reason}`)
    for (const wait of [...this.#waiting]) wait.end(this.#failure)
  }

  /** @param {object} command */
  tell(command) {
    this.#child.stdin.write(`${JSON.stringify(command)}\n`)
  }

  /**
   * The first event that `wanted` accepts, of those that come from now on; or, with `past`, of all.
   *
   * @param {(event: any) => boolean} wanted
   * @param {string} what for messages
   * @param {{ timeoutMs?: number, past?: boolean }} [options]
   * @returns {Promise<any>}
   */
  until(wanted, what, { timeoutMs = ANSWER_MS, past = false } = {}) {
    const found = past ? this.events.find(wanted) : undefined
    if (found !== undefined) return Promise.resolve(found)
    if (this.#failure !== undefined) return Promise.reject(this.#failure)
    return new Promise((resolve, reject) => {
      const done = () => {
        clearTimeout(timer)
        this.#waiting.delete(wait)
      }
      const wait = {
        look: (event) => {
          if (!wanted(event)) return
          done()
          resolve(event)
        },
        end: (error) => {
          done()
          reject(error)
        },
      }
      const timer = setTimeout(
        () => wait.end(new LabError('ERR_LAB_TIMEOUT', `${this.#name}: no ${what} in ${timeoutMs} ms`)),
        timeoutMs,
      )
      this.#waiting.add(wait)
    })
  }

  /**
   * Tells it to do something and waits for the answer; `unsupported` is an answer too.
   *
   * @param {object} command
   * @param {string} answer the event that answers it
   */
  async do(command, answer) {
    const answered = this.until(({ event }) => event === answer || event === 'unsupported', answer)
    this.tell(command)
    const event = await answered
    if (event.event === 'unsupported') throw new LabError('ERR_LAB_UNSUPPORTED', event.message ?? 'not supported')
    return event
  }

  /** @param {NodeJS.Signals} signal */
  signal(signal) {
    this.#child.kill(signal)
  }

  /** Ends it without warning, and waits until it is gone. */
  async kill() {
    this.signal('SIGKILL')
    await this.ended
  }

  /** Ends it: kindly, then not. */
  async stop() {
    const timer = setTimeout(() => this.signal('SIGKILL'), STOP_MS)
    this.tell({ do: 'stop' })
    await this.ended
    clearTimeout(timer)
  }
}
