/**
 * A process in a host that does what it is asked, for as long as it is wanted. JSON lines over stdin and stdout:
 *
 *   to it     {"id":1,"ask":"name","with":{...}}
 *   from it   {"id":1,"result":...}  {"id":1,"error":{"message":"...","code":"..."}}  {"event":"name","with":{...}}
 *
 * Inside the process call `serve({ name: async (parameters) => result })`. It ends when its stdin does, so none outlives
 * the lab. What it writes to stdout in other ways breaks the protocol: use stderr.
 */

import { createInterface } from 'node:readline'
import { LabError } from './errors.js'

const ANSWER_MS = 15_000 // of one request, unless it says otherwise
const STOP_MS = 2_000
const LAST_WORDS = 2_000 // characters of stderr that an error quotes

/** The lab's end. `host.agent(script)` makes one. */
export class Agent {
  #child
  #calls = new Map()
  #nextId = 1
  #failure = null
  #stderr = ''
  #stopping = false
  /** Called for what it says unasked. @type {(event: string, parameters: any) => void} */
  onEvent = () => {}

  /**
   * @param {string} name for messages
   * @param {import('node:child_process').ChildProcess} child with pipes for stdin, stdout and stderr
   */
  constructor(name, child) {
    this.name = name
    this.#child = child
    child.stdin.on('error', () => {}) // its end is what tells
    child.stderr.setEncoding('utf8')
    child.stderr.on('data', (text) => {
      this.#stderr = (this.#stderr + text).slice(-LAST_WORDS)
    })
    createInterface({ input: child.stdout }).on('line', (line) => this.#onLine(line))
    /** Settles when the process has ended. @type {Promise<void>} */
    this.closed = new Promise((resolve) => {
      child.on('error', (error) => this.#fail(error.message))
      child.on('close', (code, signal) => {
        this.#fail(`ended (${signal ?? `code ${code}`})${this.#stderr === '' ? '' : `: ${this.#stderr.trim()}`}`)
        resolve()
      })
    })
  }

  get pid() {
    return this.#child.pid
  }

  /** What it last wrote to stderr. */
  get stderr() {
    return this.#stderr
  }

  #onLine(line) {
    let message
    try {
      message = JSON.parse(line)
    } catch {
      return this.#fail(`wrote something else than a message: ${line.slice(0, 200)}`)
    }
    if (message.event !== undefined) return this.onEvent(message.event, message.with)
    const call = this.#calls.get(message.id)
    if (call === undefined) return
    this.#calls.delete(message.id)
    clearTimeout(call.timer)
    if (message.error === undefined) return call.resolve(message.result)
    call.reject(
      Object.assign(new LabError('ERR_LAB_COMMAND', `${this.name}: ${message.error.message}`), {
        remote: message.error,
      }),
    )
  }

  #fail(reason) {
    this.#failure ??= new LabError('ERR_LAB_COMMAND', `${this.name}: ${reason}`)
    for (const { reject, timer } of this.#calls.values()) {
      clearTimeout(timer)
      reject(this.#failure)
    }
    this.#calls.clear()
  }

  /**
   * Asks, and waits for the answer. An error thrown inside arrives as a `LabError` with `remote: { message, code }`.
   *
   * @param {string} name
   * @param {object} [parameters]
   * @param {{ timeoutMs?: number }} [options]
   * @returns {Promise<any>}
   */
  ask(name, parameters = {}, { timeoutMs = ANSWER_MS } = {}) {
    if (this.#failure !== null) return Promise.reject(this.#failure)
    return new Promise((resolve, reject) => {
      const id = this.#nextId++
      const timer = setTimeout(() => {
        this.#calls.delete(id)
        reject(new LabError('ERR_LAB_TIMEOUT', `${this.name}: no answer to ${name} in ${timeoutMs} ms`))
      }, timeoutMs)
      this.#calls.set(id, { resolve, reject, timer })
      this.#child.stdin.write(`${JSON.stringify({ id, ask: name, with: parameters })}\n`)
    })
  }

  /** Ends it: kindly, then not. */
  async stop() {
    if (!this.#stopping) {
      this.#stopping = true
      this.#child.stdin.end()
      const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_MS)
      this.closed.then(() => clearTimeout(timer))
    }
    await this.closed
  }

  [Symbol.asyncDispose]() {
    return this.stop()
  }
}

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`)

/** Inside the process: tells the lab something unasked. */
export const emit = (event, parameters = {}) => say({ event, with: parameters })

/**
 * Inside the process: answers the lab until stdin ends.
 *
 * @param {Record<string, (parameters: any) => unknown>} handlers
 */
export function serve(handlers) {
  const answer = async ({ id, ask, with: parameters }) => {
    try {
      const handler = handlers[ask]
      if (handler === undefined) throw new Error(`nothing here is called ${ask}`)
      say({ id, result: (await handler(parameters)) ?? null })
    } catch (error) {
      say({ id, error: { message: error?.message ?? String(error), code: error?.code } })
    }
  }
  const lines = createInterface({ input: process.stdin })
  lines.on('line', (line) => answer(JSON.parse(line)).catch(() => process.exit(1)))
  lines.on('close', () => process.exit(0))
}
