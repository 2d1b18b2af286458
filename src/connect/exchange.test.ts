import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { createOffer, MAX_OFFER_LIFETIME_MS, openOffer, ReplayCache } from '../handshake/index.ts'
import { Identity } from '../identity/index.ts'
import type { ExchangeOptions, Signaling, SignalingCost } from '../signaling/index.ts'
import { exchange, limitsOf } from './exchange.ts'

const caller = Identity.generate()
const callee = Identity.generate()
const signal = new AbortController().signal
const EMPTY = new Uint8Array(0)
const offline = () => new PeerlineError('ERR_PEERLINE_OFFLINE', 'not there')

/** A medium that does what it is told, and notes when it was used. */
class Fake implements Signaling {
  readonly name: string
  readonly #cost: SignalingCost | undefined
  readonly #act: (offer: Uint8Array, options: ExchangeOptions) => Promise<Uint8Array>
  usedAt: number | undefined
  stopped = false

  constructor(
    name: string,
    act: (offer: Uint8Array, options: ExchangeOptions) => Promise<Uint8Array>,
    cost?: SignalingCost,
  ) {
    this.name = name
    this.#act = act
    this.#cost = cost
  }

  cost(): SignalingCost {
    return this.#cost ?? { messages: 0 }
  }

  exchange(_to: string, _id: Uint8Array, offer: Uint8Array, options: ExchangeOptions): Promise<Uint8Array> {
    this.usedAt = Date.now()
    options.signal.addEventListener('abort', () => {
      this.stopped = true
    })
    return this.#act(offer, options)
  }
}

const answering = async (offer: Uint8Array) =>
  openOffer(callee, offer, { replay: new ReplayCache() }).accept(EMPTY).message
const refusing = async (offer: Uint8Array) =>
  openOffer(callee, offer, { replay: new ReplayCache() }).refuse('ERR_PEERLINE_DENIED', 'no')
const silent = () => new Promise<Uint8Array>(() => {})
const failing = () => Promise.reject(offline())

const KEPT: SignalingCost = { messages: 1, price: { amount: 0, unit: 'USD' } }
const CHEAP: SignalingCost = { messages: 1, price: { amount: 0.0008, unit: 'USD' } }
const DEAR: SignalingCost = { messages: 2, price: { amount: 0.01, unit: 'USD' } }

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date', 'performance'] })
})
afterEach(() => {
  vi.useRealTimers()
})

const make = () => createOffer(caller, callee.peerId, { body: EMPTY })

describe('the order of media', () => {
  test('what is free goes first; money is not spent where that answers', async () => {
    const free = new Fake('free', answering)
    const paid = new Fake('paid', silent, CHEAP)
    const { signaled, fireInMs } = await exchange([paid, free], make(), { signal })
    expect(fireInMs).toBe(0)
    expect(paid.usedAt).toBeUndefined()
    expect(signaled).toMatchObject([{ medium: 'free', outcome: 'answered', messages: 0 }])
    await vi.advanceTimersByTimeAsync(60_000)
    expect(paid.usedAt).toBeUndefined()
  })

  test('where the free ones are silent, others follow, the cheapest first; all go on until one is answered', async () => {
    const start = Date.now()
    const free = new Fake('free', silent)
    const kept = new Fake('kept', silent, KEPT)
    const cheap = new Fake('cheap', silent, CHEAP)
    const dear = new Fake('dear', answering, DEAR)
    const done = exchange([dear, cheap, kept, free], make(), { signal })
    await vi.advanceTimersByTimeAsync(20_000)
    const { signaled } = await done
    expect([free, kept, cheap, dear].map(({ usedAt }) => usedAt! - start)).toEqual([0, 500, 3_500, 6_500])
    expect([free, kept, cheap, dear].map(({ stopped }) => stopped)).toEqual([true, true, true, true])
    expect(signaled.map(({ medium, outcome, messages, price }) => [medium, outcome, messages, price?.amount])).toEqual([
      ['dear', 'answered', 2, 0.01],
      ['cheap', 'overtaken', 1, 0.0008],
      ['kept', 'overtaken', 1, 0],
      ['free', 'overtaken', 0, undefined],
    ])
  })

  test('where all before have failed, the next begins at once', async () => {
    const start = Date.now()
    const paid = new Fake('paid', answering, CHEAP)
    await exchange([new Fake('free', failing), new Fake('kept', failing, KEPT), paid], make(), { signal })
    expect(paid.usedAt! - start).toBe(0)
  })

  test('all at once, when that is wanted', async () => {
    const start = Date.now()
    const dear = new Fake('dear', answering, DEAR)
    await exchange([new Fake('free', silent), dear], make(), { signal, order: 'all-at-once' })
    expect(dear.usedAt! - start).toBe(0)
  })

  test('who refuses by one medium is not asked by another', async () => {
    const paid = new Fake('paid', answering, CHEAP)
    const refused = exchange([new Fake('free', refusing), new Fake('other', silent), paid], make(), { signal })
    await expect(refused).rejects.toMatchObject({ code: 'ERR_PEERLINE_DENIED' })
    await vi.advanceTimersByTimeAsync(60_000)
    expect(paid.usedAt).toBeUndefined()
  })

  test('a forged answer changes nothing', async () => {
    const forging = new Fake('forging', async (_offer, { accept }) => {
      expect(accept!(new Uint8Array(200))).toBe(false)
      throw offline()
    })
    const { signaled } = await exchange([forging, new Fake('slow', answering, KEPT)], make(), { signal })
    expect(signaled.map(({ medium, outcome }) => [medium, outcome])).toEqual([
      ['forging', 'failed'],
      ['slow', 'answered'],
    ])
  })

  test('what a medium knows of when the other side begins comes with the answer', async () => {
    const timed = new Fake('timed', async (offer, { accept }) => {
      const answer = await answering(offer)
      expect(accept!(answer, { fireInMs: 1_234 })).toBe(true)
      return answer
    })
    expect((await exchange([timed], make(), { signal })).fireInMs).toBe(1_234)
  })

  test('when none finds the peer, the most telling failure is told', async () => {
    const busy = () => Promise.reject(new PeerlineError('ERR_PEERLINE_BUSY', 'busy'))
    const dial = exchange([new Fake('a', failing), new Fake('b', busy), new Fake('c', failing, CHEAP)], make(), {
      signal,
    })
    await expect(dial).rejects.toMatchObject({ code: 'ERR_PEERLINE_BUSY' })
    await expect(exchange([new Fake('a', failing)], make(), { signal })).rejects.toMatchObject({
      code: 'ERR_PEERLINE_OFFLINE',
    })
  })

  test('the caller ends it: nothing more is begun, and no timer stays', async () => {
    const cancel = new AbortController()
    const heard = (_: Uint8Array, options: ExchangeOptions) =>
      new Promise<Uint8Array>((_resolve, reject) =>
        options.signal.addEventListener('abort', () => reject(new PeerlineError('ERR_PEERLINE_ABORTED', 'cancelled'))),
      )
    const paid = new Fake('paid', answering, CHEAP)
    const dial = exchange([new Fake('free', heard), paid], make(), { signal: cancel.signal })
    const outcome = expect(dial).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
    cancel.abort()
    await outcome
    await vi.advanceTimersByTimeAsync(60_000)
    expect(paid.usedAt).toBeUndefined()
    expect(vi.getTimerCount()).toBe(0)
  })
})

test('an offer is as small as the smallest medium wants it, and lives as long as the slowest one takes', () => {
  const of = (limits: { maxSignalBytes?: number; patienceMs?: number }) => Object.assign(new Fake('m', silent), limits)
  expect(limitsOf([of({})])).toEqual({ maxBytes: 4_096, lifetimeMs: 30_000 })
  const { maxBytes, lifetimeMs } = limitsOf([of({}), of({ maxSignalBytes: 900, patienceMs: 60_000 })])
  expect(createOffer(caller, callee.peerId, { body: new Uint8Array(maxBytes) }).message.length).toBe(900)
  expect(lifetimeMs).toBe(60_000)
  expect(limitsOf([of({ patienceMs: 10 ** 9 })]).lifetimeMs).toBe(MAX_OFFER_LIFETIME_MS)
})
