/**
 * One ledger of a peer: opened, and opened again when it could not be, or when nothing can be heard there any more.
 *
 *     opening --announced--> online --deaf--> closed --a heartbeat's interval, or the schedule--> opening
 *        \--it fails, or takes OPEN_MS-----------^
 */
import { fromHex, toHex } from '../bytes/index.ts'
import { firstOf, type PinnedServerUrl, pause, untilAborted } from '../connect/index.ts'
import type { KnownPeers } from '../discovery/index.ts'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import {
  heartbeatIntervalMs,
  type Ledger,
  type LivenessChange,
  namedTopics,
  namesTopics,
  Registry,
  RemoteLedger,
  type Topics,
  topicEntries,
  topicsOf,
} from '../ledger/index.ts'
import type { Session } from '../session/index.ts'
import { LedgerSignaling, type OfferHandler } from '../signaling/index.ts'
import type { KeptLedgers } from './kept-ledgers.ts'
import { RetrySchedule } from './retry-schedule.ts'

/** ms to open one: a server that is dialled, three topics that are made, what was said meanwhile. */
const OPEN_MS = 60_000

/**
 * ms of that to be told of in the registry, which must be read first. Whoever has filled it holds up no more than that: we are there
 * then for those who know our topics, and for the others when it has been read.
 */
const PUBLISH_MS = 20_000

/** ms that a dial waits for the registry when the topics of the peer are remembered: a page or two. */
const LOOK_UP_MS = 2_000

/** ms between heartbeats, at the least and at the most: a longer one could not say when the next comes. */
const MIN_HEARTBEAT_MS = 10_000
const MAX_HEARTBEAT_MS = 57_600_000

/** A ledger, and how it is used. */
export interface LedgerSettings {
  /** The ledger, which is closed with the peer; or the URL of a server that offers one: `ws://host:port#<peer id>`. */
  readonly ledger: Ledger | string
  /**
   * The topic where peers tell which topics are theirs, shared by all who want to find each other; without it, only those are
   * found whose record is in the address book. A ledger that leaves names to us needs none.
   */
  readonly registry?: string
  /** ms between heartbeats, 10 s to 16 h. @default half a minute, and ten minutes where they cost money */
  readonly heartbeatMs?: number
  /** Answers a minute. @default 120, and 12 where they cost money */
  readonly answersPerMinute?: number
}

export interface LedgersHost {
  readonly identity: Identity
  /** Topics of peers, as records tell of them. */
  readonly known: KnownPeers
  readonly listed: boolean
  readonly onOffer: OfferHandler
  /** Dials a server that offers a ledger. */
  readonly dial: (url: PinnedServerUrl, signal: AbortSignal) => Promise<Session>
  readonly parse: (url: string) => PinnedServerUrl
  /** URLs where we may be found, which the registry tells. */
  readonly rendezvous: readonly string[]
  readonly kept: KeptLedgers
  /** Something that is kept has changed. */
  readonly touch: () => void
}

export interface LedgerLinkHost extends LedgersHost {
  readonly onOnline: (ledger: string) => void
  readonly onLiveness: (ledger: string, change: LivenessChange) => void
  readonly onError: (ledger: string, error: PeerlineError, retryMs?: number) => void
  readonly closing: AbortSignal
}

/** One ledger. */
export class LedgerLink {
  readonly #settings: LedgerSettings
  readonly #host: LedgerLinkHost
  readonly #url: PinnedServerUrl | undefined
  readonly #schedule = new RetrySchedule()
  /** Settles with the first try. */
  readonly tried: Promise<void>
  #tell!: { resolve: () => void; reject: (error: PeerlineError) => void }
  signaling: LedgerSignaling | undefined
  #ledger: Ledger | undefined
  #registry: Registry | undefined
  #session: Promise<Session> | undefined
  #running: Promise<void> | undefined

  constructor(settings: LedgerSettings, host: LedgerLinkHost) {
    this.#settings = settings
    this.#host = host
    const { ledger } = settings
    checkSettings(settings)
    this.#url = typeof ledger === 'string' ? host.parse(ledger) : undefined
    this.#ledger = typeof ledger === 'string' ? undefined : ledger
    this.tried = new Promise((resolve, reject) => {
      this.#tell = { resolve, reject }
    })
    this.tried.catch(() => {})
  }

  get name(): string {
    return this.#url === undefined ? this.#ledger!.name : `ledger at ${this.#url.address}`
  }

  /** What is kept of it is found by this. */
  get #key(): string {
    return this.#url === undefined ? this.#ledger!.id : `${this.#url.address}#${this.#url.peer}`
  }

  run(): void {
    this.#running ??= this.#run()
  }

  /** Opens it, and opens it again when it could not be, or cannot be heard any more. Never rejects. */
  async #run(): Promise<void> {
    const { closing, onOnline, onError } = this.#host
    while (!closing.aborted) {
      let leastMs = 0
      try {
        const lost = new AbortController()
        await this.#open(firstOf(closing, AbortSignal.timeout(OPEN_MS)), lost)
        this.#schedule.reset()
        // To come back costs messages: no more often than it is said that we are there.
        leastMs = this.#heartbeatMs
        this.#tell.resolve()
        onOnline(this.name)
        await untilAborted(new Promise<never>(() => {}), firstOf(closing, lost.signal), `using ${this.name}`)
      } catch (cause) {
        const error = asPeerlineError(cause, 'ERR_PEERLINE_UNREACHABLE')
        this.#tell.reject(error)
        if (closing.aborted) return
        await this.#shut()
        const retryMs = Math.max(this.#schedule.next(), leastMs)
        onError(this.name, error, retryMs)
        await pause(retryMs, closing).catch(() => {})
      }
    }
  }

  get #heartbeatMs(): number {
    const ledger = this.#ledger!
    return this.#settings.heartbeatMs ?? heartbeatIntervalMs(ledger.price(ledger.maxMessageBytes))
  }

  /** @param lost is aborted, with why, when nothing can be heard there any more */
  async #open(signal: AbortSignal, lost: AbortController): Promise<void> {
    const { identity, listed, onOffer, kept, onError } = this.#host
    const { registry, answersPerMinute } = this.#settings
    const before = kept.all.get(this.#key)
    if (this.#url !== undefined) {
      this.#ledger = await RemoteLedger.open({
        session: ({ signal }) => untilAborted(this.#dial(this.#url!), signal, `reaching ${this.name}`),
        head: before?.head === undefined ? undefined : fromHex(before.head),
        signal,
      })
    }
    const ledger = this.#ledger!
    const failing = (error: PeerlineError) => onError(this.name, error)
    if (registry !== undefined) {
      this.#registry = new Registry({ ledger, topic: registry, identity, onError: failing })
    }
    this.signaling = await LedgerSignaling.open({
      ...{ ledger, identity, listed, onOffer, signal },
      state: before?.state,
      topicsOf: (peer, how) => this.#topicsOf(peer, how.signal),
      onError: failing,
      onDeaf: (error) => lost.abort(error),
      heartbeatMs: this.#heartbeatMs,
      ...(answersPerMinute === undefined ? {} : { answersPerMinute }),
    })
    this.signaling.liveness.addEventListener('change', ({ detail }) => this.#host.onLiveness(this.name, detail))
    await untilAborted(this.signaling.announced(), signal, `saying in ${this.name} that we are there`)
    this.#host.touch()
    const { topics } = this.signaling
    if (this.#registry !== undefined && topics !== undefined) await this.#publish(this.#registry, topics, signal)
  }

  /** Has the registry tell of our topics; where it takes too long to read it, that goes on. */
  async #publish(registry: Registry, topics: Topics, signal: AbortSignal): Promise<void> {
    const { rendezvous, closing, onError } = this.#host
    // No address: whoever reads the ledger reads this.
    const content = { topics: topicEntries(topics), rendezvous: rendezvous.slice(0, 2) }
    const published = registry.publish(content, { signal: closing })
    const late = firstOf(signal, AbortSignal.timeout(PUBLISH_MS))
    try {
      await untilAborted(published, late, `telling of our topics in ${this.name}`)
    } catch (error) {
      if (closing.aborted || !late.aborted) throw error
      published.catch((cause) => {
        if (this.#registry === registry) onError(this.name, asPeerlineError(cause, 'ERR_PEERLINE_LEDGER'))
      })
    }
  }

  async #topicsOf(peer: PeerId, signal: AbortSignal): Promise<Topics | undefined> {
    const { known } = this.#host
    const ledger = this.#ledger!
    if (namesTopics(ledger.id)) return namedTopics(ledger.id, peer)
    const remembered = topicsOf({ topics: known.topicsOf(peer) }, ledger.id)
    const patience = remembered === undefined ? signal : firstOf(signal, AbortSignal.timeout(LOOK_UP_MS))
    const record = await this.#registry?.find(peer, { signal: patience }).catch((error) => {
      if (remembered === undefined) throw error
    })
    if (record === undefined) return remembered
    known.learnRecord(record)
    return topicsOf(record, ledger.id) ?? remembered
  }

  /** One session serves all that is asked of a server's ledger, as long as it stands. */
  #dial(url: PinnedServerUrl): Promise<Session> {
    if (this.#session !== undefined) return this.#session
    const dialling = this.#host.dial(url, this.#host.closing)
    this.#session = dialling
    const over = () => {
      if (this.#session === dialling) this.#session = undefined
    }
    dialling.then((session) => session.closed.then(over), over)
    return dialling
  }

  /** Notes what is to be kept. */
  keep(signaling: LedgerSignaling | undefined = this.signaling): void {
    if (signaling === undefined) return
    const state = signaling.export()
    const ledger = this.#ledger
    const head = ledger instanceof RemoteLedger ? toHex(ledger.head.bytes) : undefined
    this.#host.kept.all.delete(this.#key)
    this.#host.kept.all.set(this.#key, { state, head })
  }

  async #shut(): Promise<void> {
    const { signaling } = this
    this.signaling = undefined
    await signaling?.close()
    // Its goodbye has a number, which is not to be given again.
    this.keep(signaling)
    await this.#registry?.close().catch(() => {})
    this.#registry = undefined
    // A ledger that we were given is opened again; one of a server is made anew.
    if (this.#url !== undefined) await this.#ledger?.close()
  }

  async close(): Promise<void> {
    await this.#running
    await this.#shut()
    await this.#ledger?.close()
    const session = await this.#session?.catch(() => undefined)
    await session?.close().catch(() => {})
  }
}

/** @throws PeerlineError `ERR_PEERLINE_INVALID`: a timer of a wrong number would fire a thousand times a second, and pay for it */
function checkSettings({ heartbeatMs = MIN_HEARTBEAT_MS, answersPerMinute = 0 }: LedgerSettings): void {
  if (!(heartbeatMs >= MIN_HEARTBEAT_MS && heartbeatMs <= MAX_HEARTBEAT_MS)) {
    const range = `${MIN_HEARTBEAT_MS} to ${MAX_HEARTBEAT_MS}`
    throw new PeerlineError('ERR_PEERLINE_INVALID', `heartbeatMs is ${range}, not ${heartbeatMs}`)
  }
  if (answersPerMinute >= 0) return
  throw new PeerlineError('ERR_PEERLINE_INVALID', `answersPerMinute is a number from 0 up, not ${answersPerMinute}`)
}
