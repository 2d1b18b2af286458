/**
 * The agent of lab/chaos-contract.md for a system that ends a stream when its connection ends: what it does with and
 * without help. The system itself is behind `System`.
 *
 *   CHAOS_RESUME unset   one stream, and what becomes of it: only what the system does by itself
 *   CHAOS_RESUME=1       the loop that most applications write around it: when the stream breaks, dial the peer again every
 *                        500 ms until that works, ask how much has arrived, go on from there
 *
 * On the busy stream, both ways at once:
 *
 *   dialer      'b', how often it has dialled (one byte), then the bytes from the offset on
 *   accepter    the offset: how many it has; 8 bytes, and the same again when it has all
 *
 * An idle stream carries 'i' and nothing else.
 *
 * @typedef {object} Pipe one stream of a system, in both directions
 * @property {(bytes: Uint8Array) => boolean} send false: it takes no more now
 * @property {() => Promise<void>} drained there is room again, or it has closed
 * @property {() => unknown} destroy at once; its `onClose` is not called
 * @property {() => string} path the kind that carries it: tcp, udp, webrtc, relay
 * @property {(chunk: Uint8Array) => void} onData set by the user
 * @property {(error: Error | undefined) => void} onClose set by the user; called once
 * @property {(() => void)} onPath set by the user: its path may have changed
 *
 * @typedef {object} System
 * @property {boolean} hasStreams more than one for a connection
 * @property {(options: { servers: any[], via: string, resume: boolean, accept: (pipe: Pipe) => void }) => Promise<any>} start gives the id
 * @property {(id: any) => Promise<Pipe>} dial
 * @property {() => void} [onLost] with the loop, every 500 ms on the accepting side without a stream: makes sure that it can be found
 * @property {() => Promise<unknown>} stop
 */

import { createCipheriv, createHash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { CHUNK, digestOf, Meter, now, obey, say } from '../../lab/chaos-kit.js'
import { emptyPipe } from '../lib/pipe.js'

const BUSY = 0x62 // 'b'
const IDLE = 0x69 // 'i'
const HEAD_BYTES = 2
const COUNT_BYTES = 8 // of an offset

const RESUME = process.env.CHAOS_RESUME === '1'
const RETRY_MS = 500 // from the beginning of a dial, or of what came of it, to the next
const ANSWER_MS = 5_000 // for the offset after a dial, or the stream is as good as none
const STREAMS_MS = 2_000 // that the idle streams have to end after the busy one
const STOP_MS = 1_000

/** The kind of path cannot be had with this system. */
export class Unsupported extends Error {}

/** A pipe that tells when it closes, and takes nothing after that. */
export function chaosPipe(parts) {
  return emptyPipe({ onPath() {}, ...parts })
}

/** Those of DOMException are numbers, and say nothing. */
const codeOf = (error) => (typeof error?.code === 'string' ? error.code : (error?.name ?? 'NO_ERROR'))
const oneLine = (error) => {
  const more = error?.errors?.map((each) => each.message) ?? []
  const all = new Set([error?.message ?? 'closed without an error', ...more])
  return [...all].join('; ').split('\n')[0]
}
const trace = (text) => say('trace', { text })

function encodeCount(count) {
  const bytes = Buffer.alloc(COUNT_BYTES)
  bytes.writeBigUInt64BE(BigInt(count))
  return bytes
}

/** The stream of a seed from a place on: as `source` of the kit, whose counter mode need not begin at the beginning. */
function sourceFrom(seed, offset) {
  const block = 16
  const key = createHash('sha256').update(seed).digest().subarray(0, block)
  const counter = Buffer.alloc(block)
  counter.writeBigUInt64BE(BigInt(Math.floor(offset / block)), block - 8)
  const cipher = createCipheriv('aes-128-ctr', key, counter)
  cipher.update(Buffer.alloc(offset % block))
  return { next: (length) => cipher.update(Buffer.alloc(length)) }
}

/** How the streams of the one transfer ended. */
class Ends {
  #counts = {}
  #open = new Set()
  #tell = () => {}

  watch(pipe) {
    this.#open.add(pipe)
    pipe.onClose = (error) => {
      this.add(codeOf(error))
      this.#open.delete(pipe)
      if (this.#open.size === 0) this.#tell()
    }
  }

  add(code) {
    this.#counts[code] = (this.#counts[code] ?? 0) + 1
  }

  /** What there is when all have ended, or have had their time. */
  async counts() {
    if (this.#open.size > 0) {
      const all = new Promise((resolve) => {
        this.#tell = resolve
      })
      await Promise.race([all, delay(STREAMS_MS)])
    }
    for (const _ of this.#open) this.add('STILL_OPEN')
    return this.#counts
  }
}

/** What both sides of the one transfer have to tell. */
class Transfer {
  /** Nothing more is told. */
  over = false
  ends = new Ends()

  constructor({ bytes, seed }) {
    this.bytes = bytes
    this.seed = seed
  }

  #session

  /** Both sides name a connection by the number of the dial. */
  opened(pipe, number) {
    this.#session = String(number)
    const tell = () => this.#state('open', pipe.path())
    pipe.onPath = tell
    tell()
  }

  broke(error) {
    trace(`the stream broke: ${codeOf(error)}: ${oneLine(error)}`)
    this.#state(RESUME ? 'reconnecting' : 'closed', null)
  }

  #state(state, path) {
    say('state', { state, path, session: this.#session })
  }

  done(found) {
    this.over = true
    say('done', found)
  }

  async fail(error, found) {
    if (this.over) return
    this.over = true
    const at = now()
    this.ends.add(codeOf(error))
    say('failed', { at, code: codeOf(error), message: oneLine(error), ...found, streams: await this.ends.counts() })
  }
}

class Receiver extends Transfer {
  #meter
  #pipe
  #patience
  #calling

  constructor(command, reconnectMs, onLost) {
    super(command)
    this.reconnectMs = reconnectMs
    this.onLost = onLost
    this.#meter = new Meter(this.seed, this.bytes, (progress) => say('progress', progress))
  }

  /** @param {Pipe} pipe */
  accept(pipe) {
    let head = Buffer.alloc(0)
    pipe.onData = (chunk) => {
      head = Buffer.concat([head, chunk])
      if (head[0] === IDLE) return this.ends.watch(pipe)
      // Nothing follows before the offset has been told.
      if (head.length >= HEAD_BYTES) this.#begin(pipe, head[1])
    }
  }

  #begin(pipe, number) {
    // A new stream of the same transfer takes the place of one that this side may not yet know to be broken.
    if (this.#pipe !== undefined) {
      if (!RESUME) return pipe.destroy()
      this.#pipe.destroy()
      trace(`goes on at ${this.#meter.bytes} bytes`)
    }
    clearTimeout(this.#patience)
    clearInterval(this.#calling)
    this.#pipe = pipe
    pipe.onData = (chunk) => this.#take(chunk)
    pipe.onClose = (error) => this.#lost(error)
    pipe.send(encodeCount(this.#meter.bytes))
    if (!this.over) this.opened(pipe, number)
  }

  #take(chunk) {
    if (this.over) return
    this.#meter.take(chunk)
    if (this.#meter.bytes < this.bytes) return
    this.done(this.#meter.end())
    this.#pipe.send(encodeCount(this.bytes))
  }

  #lost(error) {
    if (this.over) return
    this.broke(error)
    if (!RESUME) return this.fail(error, this.#meter.end())
    this.#calling = setInterval(this.onLost, RETRY_MS)
    this.#patience = setTimeout(() => {
      clearInterval(this.#calling)
      void this.fail(error, this.#meter.end())
    }, this.reconnectMs)
  }
}

class Sender extends Transfer {
  #system
  #sent = 0

  constructor(command, reconnectMs, system) {
    super(command)
    this.reconnectMs = reconnectMs
    this.to = command.to
    this.#system = system
  }

  async begin(idle) {
    const pipe = await this.#system.dial(this.to)
    for (let at = 0; this.#system.hasStreams && at < idle; at++) {
      const one = await this.#system.dial(this.to)
      one.send(Uint8Array.of(IDLE))
      this.ends.watch(one)
    }
    say('sending')
    void this.#run(pipe).catch((error) => this.fail(error, { bytes: this.#sent }))
  }

  async #run(first) {
    let pipe = first
    for (let number = 1; ; number++) {
      this.opened(pipe, number)
      const tried = now()
      try {
        await this.#over(pipe, number)
        return this.done({ bytes: this.bytes, sha256: digestOf(this.seed, this.bytes), differsAt: null })
      } catch (error) {
        pipe.destroy()
        this.broke(error)
        if (!RESUME) throw error
        pipe = await this.#again(tried)
      }
    }
  }

  /** Dials until it works, or for as long as it may. */
  async #again(since) {
    const until = now() + this.reconnectMs
    for (let tried = since; ; ) {
      await delay(Math.max(0, tried + RETRY_MS - now()))
      tried = now()
      try {
        return await this.#system.dial(this.to)
      } catch (error) {
        trace(`a dial of ${Math.round(now() - tried)} ms failed: ${codeOf(error)}: ${oneLine(error)}`)
        if (now() > until) throw error
      }
    }
  }

  /** Sends what the other side does not have; settles when it has everything. */
  #over(pipe, number) {
    return new Promise((resolve, reject) => {
      const state = { closed: false }
      const timer = setTimeout(
        () => reject(Object.assign(new Error('the stream is open and nothing answers'), { code: 'NO_ANSWER' })),
        ANSWER_MS,
      )
      pipe.onClose = (error) => {
        state.closed = true
        clearTimeout(timer)
        reject(error ?? Object.assign(new Error('closed without an error'), { code: 'NO_ERROR' }))
      }
      let said = Buffer.alloc(0)
      let began = false
      pipe.onData = (chunk) => {
        said = Buffer.concat([said, chunk])
        for (; said.length >= COUNT_BYTES; said = said.subarray(COUNT_BYTES)) {
          const count = Number(said.readBigUInt64BE())
          clearTimeout(timer)
          if (count === this.bytes) return resolve()
          if (!began) this.#pump(pipe, count, state).catch(reject)
          began = true
        }
      }
      pipe.send(Uint8Array.of(BUSY, number))
    })
  }

  async #pump(pipe, offset, state) {
    const content = sourceFrom(this.seed, offset)
    this.#sent = offset
    while (this.#sent < this.bytes && !state.closed) {
      const chunk = content.next(Math.min(CHUNK, this.bytes - this.#sent))
      this.#sent += chunk.length
      if (!pipe.send(chunk)) await pipe.drained()
    }
  }
}

/** Runs an agent until it is told to stop. @param {System} system */
export async function runAgent(system) {
  // What a library lets escape is told and is not the end of the process: its timers would be the ones that suffer.
  for (const name of ['uncaughtException', 'unhandledRejection']) {
    process.on(name, (error) => trace(`${name}: ${codeOf(error)}: ${oneLine(error)}`))
  }
  let reconnectMs
  let receiver
  const commands = {
    async start({ servers, via, reconnectMs: ms = 60_000 }) {
      reconnectMs = ms
      const accept = (pipe) => (receiver === undefined ? pipe.destroy() : receiver.accept(pipe))
      try {
        say('ready', { id: await system.start({ servers, via, resume: RESUME, accept }) })
      } catch (error) {
        if (!(error instanceof Unsupported)) throw error
        say('unsupported', { message: error.message })
      }
    },
    receive(command) {
      receiver = new Receiver(command, reconnectMs, () => system.onLost?.())
      say('receiving')
    },
    send: (command) => new Sender(command, reconnectMs, system).begin(command.idle ?? 0),
    async stop() {
      await Promise.race([system.stop().catch(() => {}), delay(STOP_MS)])
      process.exit(0)
    },
  }
  try {
    await obey(commands)
  } catch (error) {
    process.stderr.write(`${error.stack}\n`)
    process.exit(1)
  }
}
