/**
 * Peers at a ledger in memory, for tests; their time is vitest's, and goes on by itself, as fast as it can.
 */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, expect, vi } from 'vitest'
import { Identity, type PeerId } from '../identity/index.ts'
import { ConsensusClock } from '../ledger/clock.ts'
import { readMessage, sealMessage } from '../ledger/envelope.ts'
import type { Entry, Ledger, Topics } from '../ledger/ledger.ts'
import { MemoryLedger, type MemoryLedgerOptions } from '../ledger/memory-ledger.compliance.ts'
import { LedgerSignaling, type LedgerSignalingOptions } from './ledger.ts'
import type { OfferHandler } from './signaling.ts'

export const T0 = Date.UTC(2026, 0, 1)

/** ms of a step of time. */
export const STEP_MS = 10

export const signal = new AbortController().signal
export const silent: OfferHandler = async () => undefined
export const echo: OfferHandler = async (offer) => offer
export const bytes = (size = 40) => new Uint8Array(randomBytes(size))
export const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

/** Until something is so. */
export async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await turn()
}

export async function pass(ms: number): Promise<void> {
  const at = Date.now() + ms
  await until(() => Date.now() >= at)
}

/** The clock of a machine that is ahead of the others by so much. */
export const clockOf = (aheadMs = 0) =>
  new ConsensusClock({ now: () => Date.now() + aheadMs, wall: () => Date.now() + aheadMs })

const open: LedgerSignaling[] = []

/** Ends all that was opened. */
export async function closeAll(): Promise<void> {
  for (const one of open.splice(0)) await one.close()
}

/** Has time go on by itself in all tests of a file. @returns what stops it */
export function runTime(): () => Promise<void> {
  let stop: () => Promise<void>
  beforeEach(() => {
    const toFake = ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'Date', 'performance'] as const
    vi.useFakeTimers({ now: T0, toFake: [...toFake] })
    let isOver = false
    const run = async () => {
      while (!isOver) {
        await vi.advanceTimersByTimeAsync(STEP_MS)
        await turn()
      }
    }
    const running = run()
    stop = () => {
      isOver = true
      return running
    }
  })
  afterEach(async () => {
    await closeAll()
    await stop()
    vi.useRealTimers()
  })
  return () => stop()
}

/** Peers at one ledger. */
export class LedgerNet {
  readonly ledger: Ledger
  readonly memory: MemoryLedger
  readonly known = new Map<PeerId, Topics>()

  constructor(options: MemoryLedgerOptions = {}, wrap: (ledger: MemoryLedger) => Ledger = (ledger) => ledger) {
    this.memory = new MemoryLedger(options)
    this.ledger = wrap(this.memory)
  }

  async open(options: Partial<LedgerSignalingOptions> = {}): Promise<LedgerSignaling> {
    const signaling = await LedgerSignaling.open({
      ledger: this.ledger,
      identity: Identity.generate(),
      listed: false,
      onOffer: silent,
      topicsOf: async (peer) => this.known.get(peer),
      clock: clockOf(),
      signal,
      ...options,
    })
    open.push(signaling)
    return signaling
  }

  /** A peer that can be dialled: it is when its first heartbeat has its place. */
  async callee(onOffer: OfferHandler = echo, options: Partial<LedgerSignalingOptions> = {}) {
    const { identity = Identity.generate() } = options
    const openedAt = Date.now() + this.memory.clockAheadMs
    const signaling = await this.open({ ...options, identity, listed: true, onOffer })
    const topics = signaling.topics!
    this.known.set(identity.peerId, topics)
    await until(() => this.memory.entriesOf(topics.stdout).some(({ at }) => at >= openedAt))
    return { signaling, identity, id: identity.peerId, topics }
  }

  /** Puts a message there as its peer would, or somebody in its name. */
  put(
    signer: Identity,
    topic: string,
    kind: number,
    payload: Uint8Array,
    { sequence = Date.now() + 1_000_000, time = Date.now() } = {},
  ): Entry {
    const message = sealMessage(signer, { ledger: this.ledger.id, topic, sequence, kind, payload, time })
    return this.memory.put(topic, message)
  }

  kindsAt(topic: string): number[] {
    return this.memory.entriesOf(topic).map(({ message }) => readMessage(message).kind)
  }
}
