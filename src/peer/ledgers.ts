/**
 * The ledgers of a peer together: which are open, what may be dialled by them, who lives as far as they tell, and when what is
 * kept of them is saved.
 *
 *     settings --> link to each (ledger-link.ts) --> signaling (offers, answers, heartbeats) --> medium
 *                                                \-> registry (who has which topics), where names do not follow from peer ids
 *
 * Where a ledger is paid for, what is written is what others cause us to answer: see `answersPerMinute`. Nothing that is
 * published tells an address of ours.
 */
import { untilAborted } from '../connect/index.ts'
import { PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import type { PeerId } from '../identity/index.ts'
import { type LivenessChange, type LivenessState, type Topics, topicEntries } from '../ledger/index.ts'
import type { Signaling } from '../signaling/index.ts'
import { LedgerLink, type LedgerSettings, type LedgersHost } from './ledger-link.ts'

/** Who is heard at one ledger lives, whatever others say. */
const BY_CERTAINTY = ['alive', 'suspect', 'offline', 'dead'] as const

/** ms between looks at what has to be kept. */
const KEEP_MS = 5_000

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

export class Ledgers extends TypedEventTarget<LedgersEvents> {
  readonly #host: LedgersHost
  readonly #links: LedgerLink[]
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
        new LedgerLink(one, {
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
