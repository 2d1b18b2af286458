/** The two or three processes that run one stack, and everything needed to be sure that they end. */

import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const WORKER = fileURLToPath(new URL('./worker.js', import.meta.url))
const CALL_LIMIT_MS = 60_000 // no single measurement takes longer; a stack that hangs is left out
const STOP_LIMIT_MS = 1_000 // an orderly end is a courtesy, not part of what is measured

const alive = new Set()

/** Ends every process this run started. Safe to call at any time, from any handler. */
export function endAll() {
  for (const child of alive) child.kill('SIGKILL')
}

/** More flags for every process of every stack: the same for all. */
const v8Flags = (process.env.BENCH_V8_FLAGS ?? '').split(' ').filter((flag) => flag !== '')

class Worker {
  #child
  #calls = new Map()
  #nextId = 1
  #failure = null
  #stderr = ''
  onSignal = () => {}

  constructor(stackName, role) {
    this.role = role
    this.#child = fork(WORKER, [stackName, role], {
      execArgv: ['--expose-gc', '--no-warnings', ...v8Flags],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      serialization: 'advanced',
    })
    alive.add(this.#child)
    this.#child.stderr.on('data', (text) => (this.#stderr = (this.#stderr + text).slice(-2000)))
    this.ready = new Promise((resolve, reject) => this.#calls.set(0, { resolve, reject }))
    this.#child.on('message', (message) => this.#onMessage(message))
    this.#child.on('error', (error) => this.#fail(error.message))
    this.#child.on('exit', (code, signal) => {
      alive.delete(this.#child)
      this.#fail(`the ${role} process ended (${signal ?? `code ${code}`})${lastWords(this.#stderr)}`)
    })
  }

  #onMessage(message) {
    if ('signal' in message) this.onSignal(message.signal)
    else if ('crashed' in message) this.#fail(`${this.role}: ${message.crashed}`)
    else if ('ready' in message) this.#settle(0, 'resolve')
    else if ('error' in message) this.#settle(message.id, 'reject', new Error(`${this.role}: ${message.error}`))
    else this.#settle(message.id, 'resolve', message.result)
  }

  #settle(id, how, value) {
    const call = this.#calls.get(id)
    this.#calls.delete(id)
    call?.[how](value)
  }

  #fail(reason) {
    this.#failure ??= new Error(reason)
    for (const id of [...this.#calls.keys()]) this.#settle(id, 'reject', this.#failure)
  }

  signal(data) {
    if (this.#child.connected) this.#child.send({ signal: data })
  }

  call(method, ...args) {
    if (this.#failure !== null) return Promise.reject(this.#failure)
    return new Promise((resolve, reject) => {
      const id = this.#nextId++
      const timer = setTimeout(() => {
        this.#settle(id, 'reject', new Error(`${this.role}: ${method} took more than ${CALL_LIMIT_MS / 1000} s`))
      }, CALL_LIMIT_MS)
      const settled = (settle) => (value) => {
        clearTimeout(timer)
        settle(value)
      }
      this.#calls.set(id, { resolve: settled(resolve), reject: settled(reject) })
      this.#child.send({ id, method, args })
    })
  }

  async end() {
    const gone = new Promise((resolve) => {
      if (alive.has(this.#child)) this.#child.once('exit', resolve)
      else resolve()
    })
    const limit = new Promise((resolve) => setTimeout(resolve, STOP_LIMIT_MS).unref())
    await Promise.race([this.call('stop').catch(() => {}), limit])
    this.#child.kill('SIGKILL')
    await gone
  }
}

/** Why a process died, from the last error line it wrote. */
function lastWords(stderr) {
  const line = stderr.split('\n').findLast((text) => /error|cannot|fail/i.test(text))
  return line === undefined ? '' : `: ${line.trim()}`
}

export class Group {
  #workers = {}

  /** Starts every process of a stack, in the order the stack needs, each knowing what the earlier ones announced. */
  static async start(stackName, stack, prepared) {
    const group = new Group()
    const roles = stack.order ?? (stack.third === undefined ? ['server', 'client'] : ['third', 'server', 'client'])
    try {
      for (const role of roles) group.#workers[role] = new Worker(stackName, role)
      const { server, client } = group.#workers
      server.onSignal = (data) => client.signal(data)
      client.onSignal = (data) => server.signal(data)
      await Promise.all(group.all.map((worker) => worker.ready))
      const context = { prepared }
      for (const role of roles) context[role] = await group.#workers[role].call('start', { ...context })
      return group
    } catch (error) {
      await group.end()
      throw error
    }
  }

  get all() {
    return Object.values(this.#workers)
  }

  get server() {
    return this.#workers.server
  }

  get client() {
    return this.#workers.client
  }

  /** CPU seconds spent so far by all processes of the stack together. */
  async cpuSeconds() {
    const each = await Promise.all(this.all.map((worker) => worker.call('cpuSeconds')))
    return each.reduce((sum, seconds) => sum + seconds, 0)
  }

  /** Resident bytes of both ends after garbage collection; a relay in between is not an end. */
  async memory() {
    const each = await Promise.all([this.server, this.client].map((worker) => worker.call('memory')))
    return each.reduce((sum, bytes) => sum + bytes, 0)
  }

  async end() {
    await Promise.all(this.all.map((worker) => worker.end()))
  }
}
