/** The links of the lab: compiles and runs `wire.c`, which joins pairs of TAP devices, and tells it what to change. */

import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { access, mkdir, readFile, rename } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { environment, run } from './command.js'
import { LabError } from './errors.js'

const SOURCE = fileURLToPath(new URL('./wire.c', import.meta.url))
const CACHE = fileURLToPath(new URL('../node_modules/.cache/peerline-lab/', import.meta.url))
const COMPILERS = ['cc', 'gcc', 'clang', 'tcc']
const QUEUE_MS = 100 // what a home router's bottleneck holds before it drops: much, as they do

/**
 * How a link is; both directions alike.
 *
 * @typedef {object} LinkSettings
 * @property {number} delayMs one way
 * @property {number} jitterMs added at random, 0 to this; never reorders
 * @property {number} lossPercent of frames, each direction
 * @property {number} rateMbit 0 is no limit
 * @property {number} queueMs what the bottleneck holds at most when there is a rate
 * @property {boolean} up false pulls the cable: silence, and no carrier lost
 *
 * @typedef {{ frames: number, bytes: number, lost: number, overflowed: number }} Counters
 */

/** @type {LinkSettings} */
const PLAIN = { delayMs: 0, jitterMs: 0, lossPercent: 0, rateMbit: 0, queueMs: QUEUE_MS, up: true }

/** Compiles the forwarder unless that was done before. */
export async function compileWire() {
  const source = await readFile(SOURCE)
  const binary = `${CACHE}wire-${createHash('sha256').update(source).digest('hex').slice(0, 16)}`
  const compiled = await access(binary).then(
    () => true,
    () => false,
  )
  if (compiled) return binary
  await mkdir(CACHE, { recursive: true })
  const draft = `${binary}.${process.pid}`
  let failure
  for (const compiler of COMPILERS) {
    try {
      await run(compiler, ['-O2', '-pthread', '-o', draft, SOURCE])
      await rename(draft, binary)
      return binary
    } catch (error) {
      if (error.cause?.code !== 'ENOENT') failure ??= error
    }
  }
  const why = failure?.message ?? `no C compiler (none of ${COMPILERS.join(', ')})`
  throw new LabError('ERR_LAB_UNAVAILABLE', why, { cause: failure })
}

/** One cable. End A is the home's or the host's, end B the core's. */
export class Link {
  #command
  #settings

  /**
   * @param {string} name
   * @param {LinkSettings} settings
   * @param {(line: string) => Promise<string>} command
   */
  constructor(name, settings, command) {
    this.name = name
    this.#settings = settings
    this.#command = command
  }

  get settings() {
    return { ...this.#settings }
  }

  /**
   * Changes what is named and keeps the rest. Frames already on the way keep their time.
   *
   * @param {Partial<LinkSettings>} changes
   */
  async set(changes) {
    const settings = { ...this.#settings, ...changes }
    await this.#command(`set ${this.name} ${written(settings)}`)
    this.#settings = settings
  }

  /** @returns {Promise<{ out: Counters, in: Counters }>} out is away from the home */
  async stats() {
    const n = (await this.#command(`stats ${this.name}`)).split(' ').map(Number)
    const counters = (at) => ({ frames: n[at], bytes: n[at + 1], lost: n[at + 2], overflowed: n[at + 3] })
    return { out: counters(0), in: counters(4) }
  }
}

function written({ delayMs, jitterMs, lossPercent, rateMbit, queueMs, up }) {
  const numbers = [delayMs * 1000, jitterMs * 1000, lossPercent * 10_000, rateMbit * 1000, queueMs * 1000]
  if (!numbers.every((n) => Number.isFinite(n) && n >= 0)) {
    throw new LabError('ERR_LAB_UNKNOWN', 'a link is described by numbers of 0 and above')
  }
  return `${numbers.map(Math.round).join(' ')} ${up ? 1 : 0}`
}

/** The forwarder process. */
export class Wire {
  #child
  #waiting = []
  #failure = null

  constructor(child) {
    this.#child = child
    createInterface({ input: child.stdout }).on('line', (line) => {
      const { resolve, reject } = this.#waiting.shift()
      if (line.startsWith('ok')) resolve(line.slice(3))
      else reject(new LabError('ERR_LAB_COMMAND', `the forwarder: ${line}`))
    })
    this.closed = new Promise((resolve) => {
      child.on('error', (error) => this.#fail(error.message))
      child.on('close', () => {
        this.#fail('has ended')
        resolve()
      })
    })
    child.stdin.on('error', () => {}) // its end is what tells
  }

  static async start() {
    const binary = await compileWire()
    // In a session of its own, so that Ctrl-C in a terminal reaches the lab first.
    const child = spawn(binary, [], { stdio: ['pipe', 'pipe', 'inherit'], detached: true, env: environment() })
    return new Wire(child)
  }

  #fail(reason) {
    this.#failure ??= new LabError('ERR_LAB_COMMAND', `the forwarder: ${reason}`)
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure)
  }

  #command(line) {
    if (this.#failure !== null) return Promise.reject(this.#failure)
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
      this.#child.stdin.write(`${line}\n`)
    })
  }

  /**
   * Makes a device in each of two namespaces and joins them.
   *
   * @param {string} name
   * @param {{ namespace: string, device: string, mac: string }} a
   * @param {{ namespace: string, device: string, mac: string }} b
   * @param {Partial<LinkSettings>} settings
   */
  async add(name, a, b, settings) {
    const all = { ...PLAIN, ...settings }
    const ends = [a, b].map(({ namespace, device, mac }) => `/run/netns/${namespace} ${device} ${mac}`)
    await this.#command(`add ${name} ${ends.join(' ')} ${written(all)}`)
    return new Link(name, all, (line) => this.#command(line))
  }

  /** Ends it; its devices go with it. */
  async close() {
    this.#child.stdin.end()
    await this.closed
  }
}
