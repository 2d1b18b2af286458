/**
 * A peer whose only medium is a ledger that takes seconds, on a machine whose clock is wrong.
 *
 *   start  { skewMs, settings, options } -> { id, wrongMs }   `settings`: `file`, and those of SlowLedger; `wrongMs`: of Date.now()
 *   settle {}                            -> { nat }           once it has asked what others see of it
 *   hear   { of }                        -> {}                once it has seen that a peer is alive
 *   dial   { to, ms }                    -> { at, ms, path, paths }, or { at, ms, failed: { code, message } }
 *   kept   {}                            -> [{ kind, bytes, at }, …] offers to it and answers of it that the ledger keeps
 *
 * `at` is the true time, ms since 1970.
 *
 * The library is loaded after the clock was set: it never sees the true time.
 */
import { serve } from './agent.js'

/** Bytes before each message in the file, and of the largest message: what ledgers usually take. */
const HEAD_BYTES = 16
const MESSAGE_BYTES = 1_024

/** ms for the first heartbeat, and until others have seen it. */
const START_MS = 12_000

/** ms since 1970: the hosts of a lab have one clock. */
const began = performance.timeOrigin
const trueNow = () => began + performance.now()

/** Puts the clock of this process ahead, as one is that was set wrong: Date, and what performance counts from. */
function setClock(skewMs) {
  const RightDate = Date
  globalThis.Date = class extends RightDate {
    constructor(...parts) {
      super(...(parts.length === 0 ? [RightDate.now() + skewMs] : parts))
    }
    static now = () => RightDate.now() + skewMs
  }
  Object.defineProperty(performance, 'timeOrigin', { value: began + skewMs })
}

const between = ([low, high]) => low + Math.random() * (high - low)
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)))

/**
 * A file that is read as a mirror node is: a message has its time when it is appended, by a clock that is right; whoever appended
 * it is told a while later, and each reader has each entry at another moment.
 *
 *     in the file: when it was appended f64 | what the ledger says of that f64 | message
 */
class SlowLedger {
  #log
  #settings
  /** When an entry is to be seen here, by topic and sequence: ms since 1970. */
  #seen = new Map()

  /**
   * @param {object} settings
   * @param {[number, number]} settings.readMs until an entry is seen here: anything between these
   * @param {[number, number]} settings.knownMs until whoever appended it is told
   * @param {number} settings.latencyMs as the ledger says
   * @param {number} settings.spreadMs as the ledger says
   * @param {number} [settings.lieMs] by which the time of what is appended here is wrong; @default 0
   */
  constructor(log, settings) {
    this.#log = log
    this.#settings = settings
    this.name = `slow ${log.name}`
    this.id = log.id
    this.maxMessageBytes = MESSAGE_BYTES
    this.latencyMs = settings.latencyMs
    this.spreadMs = settings.spreadMs
  }

  price = () => this.#log.price()
  createTopic = (hint, options) => this.#log.createTopic(hint, options)
  close = () => this.#log.close()

  async append(topic, message, { signal, wait = 'consensus' }) {
    const { knownMs, lieMs = 0 } = this.#settings
    const now = trueNow()
    const { sequence } = await this.#log.append(topic, timed(now, now + lieMs, message), { signal })
    if (wait === 'sent') return {}
    await pause(between(knownMs))
    return { sequence, at: now + lieMs }
  }

  async read(topic, { since = 0, ...options }) {
    const page = await this.#log.read(topic, options)
    const seen = page.entries.filter((entry) => this.#seenAt(topic, entry) <= trueNow())
    const entries = seen.map(untimed).filter(({ at }) => at >= since)
    return { entries, next: seen.length < page.entries.length ? undefined : page.next }
  }

  async *subscribe(topic, { since = 0, ...options }) {
    for await (const entry of this.#log.subscribe(topic, options)) {
      await pause(this.#seenAt(topic, entry) - trueNow())
      if (options.signal.aborted) return
      if (untimed(entry).at >= since) yield untimed(entry)
    }
  }

  /** What is before it in the topic is seen first. */
  #seenAt(topic, { sequence, ...entry }) {
    const key = `${topic} ${sequence}`
    if (!this.#seen.has(key)) {
      const at = appendedAt(entry) + between(this.#settings.readMs)
      this.#seen.set(key, Math.max(at, this.#seen.get(`${topic} ${sequence - 1}`) ?? 0))
    }
    return this.#seen.get(key)
  }
}

function timed(at, told, message) {
  const head = Buffer.alloc(HEAD_BYTES)
  head.writeDoubleBE(at)
  head.writeDoubleBE(told, HEAD_BYTES / 2)
  return Buffer.concat([head, message])
}

const untimed = ({ sequence, message }) => ({
  sequence,
  at: Buffer.from(message).readDoubleBE(HEAD_BYTES / 2),
  message: message.subarray(HEAD_BYTES),
})

const appendedAt = ({ message }) => Buffer.from(message).readDoubleBE()

let peer
let log
let ledger

serve({
  async start({ skewMs, settings, options }) {
    setClock(skewMs)
    const { LogLedger, Peer } = await import('../dist/index.js')
    log = await LogLedger.open(settings.file, { maxMessageBytes: HEAD_BYTES + MESSAGE_BYTES })
    ledger = new SlowLedger(log, settings)
    peer = await Peer.create({ lan: false, firewall: { allow: 'all' }, ledgers: [{ ledger }], ...options })
    await peer.online({ signal: AbortSignal.timeout(START_MS) })
    return { id: peer.id, wrongMs: Date.now() - trueNow() }
  },

  async settle() {
    await peer.settled()
    return { nat: peer.nat }
  },

  async hear({ of }) {
    for await (const _ of ledger.subscribe(`${of}/out`, { signal: AbortSignal.timeout(START_MS) })) return
  },

  async dial({ to, ms }) {
    const started = performance.now()
    const since = () => performance.now() - started
    const at = trueNow()
    try {
      const session = await peer.connect(to, { signal: AbortSignal.timeout(ms) })
      const { path, paths } = session
      return { at, ms: since(), path, paths }
    } catch ({ code, message }) {
      return { at, ms: since(), failed: { code, message } }
    }
  },

  async kept() {
    const { Kind, readMessage } = await import('../dist/ledger/envelope.js')
    const signal = AbortSignal.timeout(START_MS)
    const pages = await Promise.all(
      ['in', 'out'].map((topic) => log.read(`${peer.id}/${topic}`, { signal, max: 1_000 })),
    )
    return pages.flatMap(({ entries }) =>
      entries.flatMap((entry) => {
        const { message } = untimed(entry)
        const kind = { [Kind.OFFER]: 'offer', [Kind.ANSWER]: 'answer' }[readMessage(message).kind]
        return kind === undefined ? [] : [{ kind, bytes: message.length, at: appendedAt(entry) }]
      }),
    )
  },
})
