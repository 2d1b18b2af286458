/**
 * The ledgers of a peer: opened, and opened again until it works, and when nothing can be heard there any more; what is said in
 * them, where they may be read from, and what is kept for the next start.
 *
 *     settings --> ledger, ours or a server's --> signaling (offers, answers, heartbeats) --> medium
 *                                             \-> registry (who has which topics), where names do not follow from peer ids
 *
 * Where a ledger is paid for, what is written is what others cause us to answer: see `answersPerMinute`. Nothing that is
 * published tells an address of ours.
 */
import { fields, fromHex, toHex } from '../bytes/index.ts'
import { firstOf, type parseServerUrl, pause, untilAborted } from '../connect/index.ts'
import type { KnownPeers, Section } from '../discovery/index.ts'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import {
  heartbeatIntervalMs,
  type Ledger,
  type LivenessChange,
  type LivenessState,
  namedTopics,
  namesTopics,
  Registry,
  RemoteLedger,
  type Topics,
  topicEntries,
  topicsOf,
} from '../ledger/index.ts'
import type { Session } from '../session/index.ts'
import {
  LedgerSignaling,
  type LedgerState,
  type OfferHandler,
  readLedgerState,
  type Signaling,
} from '../signaling/index.ts'
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

/** Who is heard at one ledger lives, whatever others say. */
const BY_CERTAINTY = ['alive', 'suspect', 'offline', 'dead'] as const

/** ms between looks at what has to be kept. */
const KEEP_MS = 5_000

/** Ledgers remembered: those in use, and those used before. */
const MAX_KEPT = 16

/** Characters of a head in hexadecimal. */
const MAX_HEAD_CHARS = 1_024

type ServerUrl = ReturnType<typeof parseServerUrl>

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

/** How a peer stands with one of its ledgers. */
export interface LedgerStatus {
  readonly name: string
  /** What it was opened as: offers can go out and come in. */
  readonly online: boolean
  /** Where others may dial us; undefined while it is not open, or we are not listed. */
  readonly topics?: Topics
}

export type LedgersEvents = {
  /** A peer that was dialled there lives, or does not, as far as its heartbeats tell. */
  liveness: LivenessChange & { readonly ledger: string }
  /** Open, for the first time or again. */
  online: { readonly ledger: string }
  /**
   * It could not be opened, or nothing can be heard there any more, and it is tried again in `retryMs`; or something went wrong
   * in it, and it goes on.
   */
  error: { readonly ledger: string; readonly error: PeerlineError; readonly retryMs?: number }
}

export interface LedgersHost {
  readonly identity: Identity
  /** Topics of peers, as records tell of them. */
  readonly known: KnownPeers
  readonly listed: boolean
  readonly onOffer: OfferHandler
  /** Dials a server that offers a ledger. */
  readonly dial: (url: ServerUrl, signal: AbortSignal) => Promise<Session>
  readonly parse: (url: string) => ServerUrl
  /** URLs where we may be found, which the registry tells. */
  readonly rendezvous: readonly string[]
  readonly kept: KeptLedgers
  /** Something that is kept has changed. */
  readonly touch: () => void
}

/** What is kept of one ledger. */
interface Kept {
  readonly state?: LedgerState | undefined
  /** The newest head of a server's, hex. */
  readonly head?: string | undefined
}

/** What is kept of ledgers for the next start, by their names. What of it is of no use, the ledger itself finds. */
export class KeptLedgers {
  readonly all = new Map<string, Kept>()
  /** Brings what is there up to date. */
  refresh: () => void = () => {}

  get section(): Section {
    return {
      export: () => {
        this.refresh()
        return Object.fromEntries([...this.all].slice(-MAX_KEPT))
      },
      load: (json) => {
        if (typeof json !== 'object' || json === null || Array.isArray(json)) {
          throw new PeerlineError('ERR_PEERLINE_INVALID', 'what was kept of ledgers is none of that')
        }
        this.all.clear()
        for (const [key, kept] of Object.entries(json).slice(0, MAX_KEPT)) this.all.set(key, readKept(kept))
      },
    }
  }
}

/** @throws PeerlineError `ERR_PEERLINE_INVALID`, or `ERR_PEERLINE_PROTOCOL` where a field is not of its kind */
function readKept(json: unknown): Kept {
  const all = fields(json, 'kept ledger')
  return {
    head: all.optional('head', (name) => all.text(name, { max: MAX_HEAD_CHARS })),
    state: all.optional('state', () => readLedgerState((json as { state: unknown }).state)),
  }
}

export class Ledgers extends TypedEventTarget<LedgersEvents> {
  readonly #host: LedgersHost
  readonly #links: Link[]
  readonly #closing = new AbortController()
  #timer: NodeJS.Timeout | undefined
  /** What was kept at the last look. */
  #looked: string | undefined
  #closed: Promise<void> | undefined

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` for a URL that is none, and for a number out of its range */
  constructor(settings: readonly LedgerSettings[], host: LedgersHost) {
    super()
    host.kept.refresh = () => {
      for (const link of this.#links) link.keep()
    }
    this.#host = host
    this.#links = settings.map(
      (one) =>
        new Link(one, {
          ...host,
          onOnline: (ledger) => this.emit('online', { ledger }),
          onError: (ledger, error, retryMs) =>
            this.emit('error', { ledger, error, ...(retryMs === undefined ? {} : { retryMs }) }),
          onLiveness: (ledger, change) => this.emit('liveness', { ...change, ledger }),
          closing: this.#closing.signal,
        }),
    )
  }

  /** Begins to open them, all at once. */
  open(): void {
    if (this.#links.length === 0) return
    for (const link of this.#links) link.run()
    this.#timer = setInterval(() => this.#look(), KEEP_MS)
    this.#timer.unref()
  }

  /** Has what is kept saved where it has changed: each save writes all that the peer keeps. */
  #look(): void {
    const { kept, touch } = this.#host
    const now = JSON.stringify(kept.section.export())
    if (now === this.#looked) return
    this.#looked = now
    touch()
  }

  get media(): readonly Signaling[] {
    return this.#links.flatMap(({ signaling }) => signaling ?? [])
  }

  get status(): readonly LedgerStatus[] {
    return this.#links.map(({ name, signaling }) => {
      const topics = signaling?.topics
      return { name, online: signaling !== undefined, ...(topics === undefined ? {} : { topics }) }
    })
  }

  /** What is thought of a peer that was dialled by a ledger: what one of them says that has heard it most surely. */
  livenessOf(peer: PeerId): LivenessState {
    const said = this.#links.map(({ signaling }) => signaling?.liveness.of(peer) ?? 'unknown')
    return BY_CERTAINTY.find((state) => said.includes(state)) ?? 'unknown'
  }

  /** Where others may dial us, as a record tells it. */
  get topicEntries(): readonly string[] {
    return this.status.flatMap(({ topics }) => (topics === undefined ? [] : topicEntries(topics)))
  }

  /**
   * Resolves when at least one is open.
   * @throws PeerlineError of the first when each has failed once (they are tried again all the same), or what the signal says
   */
  async online(signal: AbortSignal): Promise<void> {
    const tries = this.#links.map(({ tried }) => tried)
    if (tries.length === 0) throw new PeerlineError('ERR_PEERLINE_NO_ADDRESS', 'no ledger was given')
    const first = Promise.any(tries).catch((error: AggregateError) => Promise.reject(error.errors[0]))
    await untilAborted(first, signal, 'opening a ledger')
  }

  /** Says goodbye, and closes them. */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    this.#closing.abort(new PeerlineError('ERR_PEERLINE_CLOSED', 'the peer was closed'))
    clearInterval(this.#timer)
    await Promise.all(this.#links.map((link) => link.close()))
    if (this.#links.length > 0) this.#look()
  }
}

interface LinkHost extends LedgersHost {
  readonly onOnline: (ledger: string) => void
  readonly onLiveness: (ledger: string, change: LivenessChange) => void
  readonly onError: (ledger: string, error: PeerlineError, retryMs?: number) => void
  readonly closing: AbortSignal
}

/** One ledger. */
class Link {
  readonly #settings: LedgerSettings
  readonly #host: LinkHost
  readonly #url: ServerUrl | undefined
  readonly #schedule = new RetrySchedule()
  /** Settles with the first try. */
  readonly tried: Promise<void>
  #tell!: { resolve: () => void; reject: (error: PeerlineError) => void }
  signaling: LedgerSignaling | undefined
  #ledger: Ledger | undefined
  #registry: Registry | undefined
  #session: Promise<Session> | undefined
  #running: Promise<void> | undefined

  constructor(settings: LedgerSettings, host: LinkHost) {
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
    const { registry, heartbeatMs, answersPerMinute } = this.#settings
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
      ...(heartbeatMs === undefined ? {} : { heartbeatMs }),
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
  #dial(url: ServerUrl): Promise<Session> {
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
