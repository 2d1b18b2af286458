/**
 * The contract of `signaling.ts` as a test suite. Every medium must pass it.
 */
import { createHash, randomBytes } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { isPeerlineError } from '../errors.ts'
import { Identity, type PeerId } from '../identity/index.ts'
import { ANSWER_TIMEOUT_MS, MAX_SIGNAL_BYTES, type OfferHandler, type Signaling } from './signaling.ts'

/** Two peers at one medium. */
export interface Medium {
  readonly caller: Signaling
  /** Who answers offers, with the handler the medium was made with. */
  readonly callee: PeerId
  /** Ends the medium for the caller, without a word to it beforehand. */
  end(): void | Promise<void>
  teardown(): Promise<void>
}

const id = () => new Uint8Array(randomBytes(16))
const forever: OfferHandler = () => new Promise(() => {})
const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })

/** Runs the suite; `open` makes a medium at which offers to the callee go to `onOffer`. */
export function signalingCompliance(name: string, open: (onOffer: OfferHandler) => Promise<Medium>): void {
  describe(`${name} as signaling`, () => {
    const media: Medium[] = []
    const signal = new AbortController().signal
    setMaxListeners(0, signal) // of dozens of exchanges at once

    async function make(onOffer: OfferHandler): Promise<Medium> {
      const medium = await open(onOffer)
      media.push(medium)
      return medium
    }

    afterEach(async () => {
      vi.useRealTimers()
      for (const medium of media.splice(0)) await medium.teardown()
    })

    test('carries an offer there and the answer back, as they were', async () => {
      const offers: Uint8Array[] = []
      const answer = (offer: Uint8Array) => new Uint8Array(createHash('sha512').update(offer).digest())
      const { caller, callee } = await make(async (offer) => {
        offers.push(new Uint8Array(offer))
        return answer(offer)
      })
      for (const bytes of [0, 1, 300, MAX_SIGNAL_BYTES]) {
        const offer = new Uint8Array(randomBytes(bytes))
        expect(new Uint8Array(await caller.exchange(callee, id(), offer, { signal }))).toEqual(answer(offer))
        expect(offers.at(-1)).toEqual(offer)
      }
    })

    test('carries answers of the largest size', async () => {
      const large = new Uint8Array(randomBytes(MAX_SIGNAL_BYTES))
      const { caller, callee } = await make(async () => large)
      expect(new Uint8Array(await caller.exchange(callee, id(), large, { signal }))).toEqual(large)
    })

    test('gives each of many exchanges its own answer, in whatever order they are answered', async () => {
      const waiting: (() => void)[] = []
      const { caller, callee } = await make(
        (offer) =>
          new Promise((resolve) => {
            waiting.push(() => resolve(offer))
            if (waiting.length === 20) for (const answer of waiting.reverse()) answer()
          }),
      )
      const offers = Array.from({ length: 20 }, () => new Uint8Array(randomBytes(50)))
      const answers = await Promise.all(offers.map((offer) => caller.exchange(callee, id(), offer, { signal })))
      expect(answers.map((answer) => new Uint8Array(answer))).toEqual(offers)
    })

    test('says so when the peer is not there', async () => {
      const { caller } = await make(forever)
      const absent = Identity.generate().peerId
      await expect(caller.exchange(absent, id(), id(), { signal })).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
    })

    test('ends an exchange when the signal fires, and at once when it has fired', async () => {
      const { caller, callee } = await make(forever)
      const cancel = new AbortController()
      const exchange = caller.exchange(callee, id(), id(), { signal: cancel.signal })
      cancel.abort()
      await expect(exchange).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
      const again = caller.exchange(callee, id(), id(), { signal: cancel.signal })
      await expect(again).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
      const late = caller.exchange(callee, id(), id(), { signal: AbortSignal.timeout(1) })
      await expect(late).rejects.toEqual(code('ERR_PEERLINE_TIMEOUT'))
    })

    test('drops an answer that nobody waits for any more, and works on', async () => {
      let answer: (() => void) | undefined
      const { caller, callee } = await make(
        (offer) =>
          new Promise((resolve) => {
            if (answer === undefined) answer = () => resolve(offer)
            else resolve(offer)
          }),
      )
      const cancel = new AbortController()
      const exchange = caller.exchange(callee, id(), id(), { signal: cancel.signal }).catch(() => {})
      await vi.waitFor(() => expect(answer).toBeDefined())
      cancel.abort()
      await exchange
      answer!()
      const offer = id()
      expect(new Uint8Array(await caller.exchange(callee, id(), offer, { signal }))).toEqual(offer)
    })

    test('gives up when the other side stays silent for too long', async () => {
      let asked = false
      const { caller, callee } = await make(async () => {
        asked = true
        return undefined
      })
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
      const exchange = caller.exchange(callee, id(), id(), { signal })
      const outcome = expect(exchange).rejects.toEqual(code('ERR_PEERLINE_TIMEOUT'))
      while (!asked) await new Promise((resolve) => setImmediate(resolve))
      vi.advanceTimersByTime(ANSWER_TIMEOUT_MS)
      await outcome
    })

    test('ends every exchange, typed, when it ends itself, and takes no more', async () => {
      const { caller, callee, end } = await make(forever)
      const failure = (exchange: Promise<unknown>) =>
        exchange.then(
          () => 'answered',
          (error: unknown) => error,
        )
      const running = [1, 2, 3].map(() => failure(caller.exchange(callee, id(), id(), { signal })))
      await end()
      for (const error of [
        ...(await Promise.all(running)),
        await failure(caller.exchange(callee, id(), id(), { signal })),
      ])
        expect(isPeerlineError(error), String(error)).toBe(true)
    })
  })
}
