/**
 * The contract of `signaling.ts` as a test suite. Every medium must pass it.
 */
import { createHash, randomBytes } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { isPeerlineError, PeerlineError } from '../errors.ts'
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

/** A message on its way. */
export interface OnTheWay {
  readonly bytes: Uint8Array
  /**
   * Has it arrive, as it is or with other bytes in it, as well as somebody who has no key can do that; once for each call, now
   * or later. Of one message, other bytes are put into it once at most.
   */
  pass(bytes?: Uint8Array): void
}

/** Somebody on the way, through whose hands every message goes. */
export interface Tamper {
  offer(message: OnTheWay): void
  answer(message: OnTheWay): void
}

export interface ComplianceOptions {
  /** Makes a medium with somebody on the way. @default its wire lets nobody come between */
  readonly tampered?: (onOffer: OfferHandler, tamper: Tamper) => Promise<Medium>
}

const id = () => new Uint8Array(randomBytes(16))
const forever: OfferHandler = () => new Promise(() => {})
const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })
const answerTo = (offer: Uint8Array) => new Uint8Array(createHash('sha512').update(offer).digest())
const isSame = (one: Uint8Array, other: Uint8Array) => Buffer.compare(one, other) === 0
const turn = () => new Promise<void>((resolve) => setImmediate(resolve))
const limitOf = ({ maxSignalBytes = MAX_SIGNAL_BYTES }: Signaling) => maxSignalBytes

/**
 * Runs the suite; `open` makes a medium at which offers to the callee go to `onOffer`. Where vitest's time has been taken for
 * the whole file, it must go on by itself.
 */
export function signalingCompliance(
  name: string,
  open: (onOffer: OfferHandler) => Promise<Medium>,
  { tampered }: ComplianceOptions = {},
): void {
  describe(`${name} as signaling`, () => {
    const media: Medium[] = []
    const signal = new AbortController().signal
    setMaxListeners(0, signal) // of dozens of exchanges at once

    async function make(onOffer: OfferHandler, opened = open(onOffer)): Promise<Medium> {
      const medium = await opened
      media.push(medium)
      return medium
    }

    let isTimeOwn = false
    beforeEach(() => {
      isTimeOwn = vi.isFakeTimers()
    })
    afterEach(async () => {
      if (!isTimeOwn) vi.useRealTimers()
      for (const medium of media.splice(0)) await medium.teardown()
    })

    test('carries an offer there and the answer back, as they were', async () => {
      const offers: Uint8Array[] = []
      const { caller, callee } = await make(async (offer) => {
        offers.push(new Uint8Array(offer))
        return answerTo(offer)
      })
      for (const bytes of [0, 1, 300, limitOf(caller)]) {
        const offer = new Uint8Array(randomBytes(bytes))
        expect(new Uint8Array(await caller.exchange(callee, id(), offer, { signal }))).toEqual(answerTo(offer))
        expect(offers.at(-1)).toEqual(offer)
      }
    })

    test('carries answers of any bytes, and of the largest size: it cannot tell a refusal from another', async () => {
      const { caller, callee } = await make(async (offer) => offer)
      for (const bytes of [0, 1, 17, limitOf(caller)]) {
        const answer = new Uint8Array(randomBytes(bytes))
        expect(new Uint8Array(await caller.exchange(callee, id(), answer, { signal }))).toEqual(answer)
      }
    })

    test('refuses an offer that is larger than it carries, and works on', async () => {
      const { caller, callee } = await make(async (offer) => answerTo(offer))
      const tooLarge = new Uint8Array(limitOf(caller) + 1)
      await expect(caller.exchange(callee, id(), tooLarge, { signal })).rejects.toEqual(code('ERR_PEERLINE_TOO_LARGE'))
      const offer = id()
      expect(new Uint8Array(await caller.exchange(callee, id(), offer, { signal }))).toEqual(answerTo(offer))
    })

    test('does not carry an answer that is larger, and works on', async () => {
      let asked = false
      const { caller, callee } = await make(async (offer) => {
        if (asked) return answerTo(offer)
        asked = true
        return new Uint8Array(limitOf(caller) + 1)
      })
      const cancel = new AbortController()
      const outcome = caller.exchange(callee, id(), id(), { signal: cancel.signal }).catch((error: unknown) => error)
      while (!asked) await turn()
      cancel.abort()
      expect(isPeerlineError(await outcome)).toBe(true)
      const offer = id()
      expect(new Uint8Array(await caller.exchange(callee, id(), offer, { signal }))).toEqual(answerTo(offer))
    })

    test('ends with what accept throws at an answer, which is a refusal', async () => {
      const { caller, callee } = await make(async (offer) => offer)
      const accept = () => {
        throw new PeerlineError('ERR_PEERLINE_DENIED', 'the peer refuses')
      }
      const refused = caller.exchange(callee, id(), id(), { signal, accept })
      await expect(refused).rejects.toEqual(code('ERR_PEERLINE_DENIED'))
      const offer = id()
      expect(new Uint8Array(await caller.exchange(callee, id(), offer, { signal }))).toEqual(offer)
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
      if (!isTimeOwn) vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
      const exchange = caller.exchange(callee, id(), id(), { signal })
      const outcome = expect(exchange).rejects.toEqual(code('ERR_PEERLINE_TIMEOUT'))
      while (!asked) await turn()
      if (!isTimeOwn) vi.advanceTimersByTime(caller.patienceMs ?? ANSWER_TIMEOUT_MS)
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

    describe.runIf(tampered !== undefined)('with somebody on the way', () => {
      const honest: Tamper = { offer: (message) => message.pass(), answer: (message) => message.pass() }

      /** A medium whose callee answers the offers of this test, and no others. */
      async function among(tamper: Partial<Tamper>) {
        const heard: string[] = []
        const made = new Set<string>()
        const onOffer: OfferHandler = async (offer) => {
          heard.push(nameOf(offer))
          return made.has(nameOf(offer)) ? answerTo(offer) : undefined
        }
        const hands = { ...honest, ...tamper }
        const way: Tamper = { offer: (message) => hands.offer(message), answer: (message) => hands.answer(message) }
        const { caller, callee } = await make(onOffer, tampered!(onOffer, way))
        const ask = async (offer = id(), given = signal) => {
          made.add(nameOf(offer))
          const accept = (answer: Uint8Array) => isSame(answer, answerTo(offer))
          const answer = await caller.exchange(callee, id(), offer, { signal: given, accept })
          expect(new Uint8Array(answer)).toEqual(answerTo(offer))
        }
        return { ask, heard, hands }
      }

      test('a message that comes twice is as good as one', async () => {
        const twice = (message: OnTheWay) => {
          message.pass()
          message.pass()
        }
        const { ask, heard } = await among({ offer: twice, answer: twice })
        const offers = [id(), id(), id()]
        for (const offer of offers) await ask(offer)
        expect(new Set(heard)).toEqual(new Set(offers.map(nameOf)))
      })

      test('messages that overtake each other come to the right exchange', async () => {
        const { ask } = await among({ offer: inReverse(3), answer: inReverse(3) })
        await Promise.all([ask(), ask(), ask()])
      })

      test('a message that comes when nobody waits any more does no harm', async () => {
        for (const which of ['offer', 'answer'] as const) {
          const held: OnTheWay[] = []
          const { ask, hands } = await among({ [which]: (message: OnTheWay) => held.push(message) })
          const cancel = new AbortController()
          const given = expect(ask(id(), cancel.signal)).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
          while (held.length === 0) await turn()
          cancel.abort()
          await given
          hands[which] = (message) => message.pass()
          for (const message of held) message.pass()
          await ask()
        }
      })

      test('a message that was passed before does not pass for another', async () => {
        const seen: { offer?: OnTheWay; answer?: OnTheWay } = {}
        const { ask, hands } = await among({
          offer: (message) => {
            seen.offer ??= message
            message.pass()
          },
          answer: (message) => {
            seen.answer ??= message
            message.pass()
          },
        })
        await ask()
        const { offer, answer } = seen as Required<typeof seen>
        offer.pass()
        answer.pass()
        await ask()
        hands.offer = (message) => {
          offer.pass()
          message.pass()
        }
        hands.answer = (message) => {
          answer.pass()
          message.pass(answer.bytes)
          message.pass()
        }
        await ask()
      })

      test('an offer that nobody has made leads to nothing, and hides none', async () => {
        const { ask, hands } = await among({})
        for (const bytes of [0, 1, 80]) {
          hands.offer = (message) => {
            message.pass(new Uint8Array(randomBytes(bytes)))
            message.pass()
          }
          await ask()
        }
      })

      test('a forged answer is passed over, and does not hide the genuine one', async () => {
        const { ask, hands } = await among({})
        for (const bytes of [0, 1, 64]) {
          hands.answer = (message) => {
            message.pass(new Uint8Array(randomBytes(bytes)))
            message.pass()
          }
          await ask()
        }
      })
    })
  })
}

const nameOf = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')

/** Holds so many different messages, and lets them go the last one first; what comes after that passes. */
function inReverse(count: number): (message: OnTheWay) => void {
  const held = new Map<string, OnTheWay>()
  let isOver = false
  return (message) => {
    if (isOver) return message.pass()
    held.set(nameOf(message.bytes), message)
    if (held.size < count) return
    isOver = true
    for (const one of [...held.values()].reverse()) one.pass()
  }
}
