import { randomBytes } from 'node:crypto'
import { getEventListeners, setMaxListeners } from 'node:events'
import fc from 'fast-check'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { concatBytes } from '../bytes/bytes.ts'
import { inLines, readPasted, writePasted } from '../bytes/pasted-text.ts'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import { createOffer, openOffer, ReplayCache } from '../handshake/index.ts'
import { Identity } from '../identity/index.ts'
import { ByHand, MAX_HAND_BYTES } from './by-hand.ts'
import { type Medium, signalingCompliance, type Tamper } from './signaling.compliance.ts'
import type { AnswerHow, OfferHandler } from './signaling.ts'

const BOB = Identity.generate().peerId
const id = () => new Uint8Array(randomBytes(16))
const fails = (code: string, message = '') =>
  expect.objectContaining({ code: `ERR_PEERLINE_${code}`, message: expect.stringContaining(message) })
const signal = new AbortController().signal
setMaxListeners(0, signal) // of dozens of exchanges at once
const echo: OfferHandler = async (offer) => offer
const forever: OfferHandler = () => new Promise(() => {})

/** Two peers, and the texts that the one shows. */
function pair(onOffer: OfferHandler = echo) {
  const shown: string[] = []
  const alice = new ByHand({ show: (text) => void shown.push(text), onOffer: forever })
  const bob = new ByHand({ show: () => {}, onOffer })
  const next = () => vi.waitFor(() => shown.shift() ?? expect.fail('nothing is shown'), { interval: 1 })
  return { alice, bob, next }
}

afterEach(() => void vi.useRealTimers())

/** A person at both machines, who knows which of them is whose; and `tamper`, who gets hold of every text. */
function carried(onOffer: OfferHandler, tamper?: Tamper): Medium {
  const bob = new ByHand({ show: () => {}, onOffer })
  const carry = async (offer: string) => {
    const answer = await bob.answer(offer)
    if (tamper === undefined) return alice.take(answer)
    // Behind the version and the tag of the offer.
    onTheWay('answer', answer, 9, tamper, (text) => alice.take(text))
  }
  const alice: ByHand = new ByHand({
    onOffer: forever,
    show: (text, to) => {
      if (to !== BOB) throw new PeerlineError('ERR_PEERLINE_OFFLINE', 'there is no such machine')
      // What is left without an answer, or comes too late, is told to the person alone.
      const quietly = (offer: string) => void carry(offer).catch(() => {})
      if (tamper === undefined) quietly(text)
      else onTheWay('offer', text, 1, tamper, quietly)
    },
  })
  return {
    caller: alice,
    callee: BOB,
    end: () => alice.close(),
    teardown: async () => {
      alice.close()
      bob.close()
    },
  }
}

/** Gives a text into other hands: they may put other bytes behind its head, and write it anew. */
function onTheWay(
  kind: 'offer' | 'answer',
  text: string,
  head: number,
  tamper: Tamper,
  arrive: (text: string) => void,
): void {
  const body = readPasted(kind, text, { maxBytes: 4_096 })
  tamper[kind]({
    bytes: body.subarray(head),
    pass: (bytes) => {
      try {
        arrive(bytes === undefined ? text : writePasted(kind, concatBytes([body.subarray(0, head), bytes])))
      } catch {
        // It is told to the person who pastes it.
      }
    },
  })
}

signalingCompliance('a person who pastes', async (onOffer) => carried(onOffer), {
  tampered: async (onOffer, tamper) => carried(onOffer, tamper),
})

describe('signaling by hand', () => {
  test('carries a handshake as two texts that may be pasted anywhere', async () => {
    const [a, b] = [Identity.generate(), Identity.generate()]
    const replay = new ReplayCache()
    const { alice, bob, next } = pair(async (message) => openOffer(b, message, { replay }).accept(id()).message)
    const offer = createOffer(a, b.peerId, { body: id(), lifetimeMs: alice.patienceMs })
    const accept = (answer: Uint8Array) => offer.complete(answer).body.length === 16
    const exchange = alice.exchange(b.peerId, offer.requestId, offer.message, { signal, accept })
    const text = await next()
    expect(text).toMatch(/^peerline-offer:[a-z0-9]+$/)
    const answer = await bob.answer(inLines(text).toUpperCase())
    expect(answer).toMatch(/^peerline-answer:[a-z0-9]+$/)
    alice.take(`\n${inLines(answer)}\n`)
    await exchange
    expect(offer.answered).toBe(true)
  })

  test('says what it takes, and for how long nobody knows when it is pasted', async () => {
    let how: AnswerHow | undefined
    const { alice, bob, next } = pair(async (offer, told) => {
      how = told
      return offer
    })
    const exchange = alice.exchange(BOB, id(), id(), { signal })
    alice.take(await bob.answer(await next()))
    await exchange
    expect(how).toEqual({ travelMs: 0, patientMs: 300_000, maxBytes: 2_048 })
    expect([alice.maxSignalBytes, alice.patienceMs, alice.cost().messages]).toEqual([2_048, 300_000, 2])
  })

  test('waits on when the wrong text is pasted, and says what it was', async () => {
    const { alice, bob, next } = pair()
    const sent = id()
    const exchange = alice.exchange(BOB, id(), sent, { signal })
    const offer = await next()
    const answer = await bob.answer(offer)
    expect(() => alice.take(offer)).toThrow(fails('INVALID', 'this is an offer, and an answer is wanted'))
    expect(() => alice.take('peerline:yy')).toThrow(fails('INVALID', 'this is a ticket, and an answer is wanted'))
    expect(() => alice.take(answer.slice(0, -3))).toThrow(fails('INVALID', 'the answer is not whole'))
    await expect(bob.answer(answer)).rejects.toEqual(fails('INVALID', 'this is an answer, and an offer is wanted'))
    await expect(bob.answer(`${offer}y`)).rejects.toEqual(fails('INVALID', 'the offer is not whole'))
    alice.take(answer)
    expect(await exchange).toEqual(sent)
  })

  test('waits on for the genuine answer when another one is pasted', async () => {
    const { alice, bob, next } = pair()
    const sent = id()
    const accept = (answer: Uint8Array) => answer.length === sent.length
    const exchange = alice.exchange(BOB, id(), sent, { signal, accept })
    const mallory = new ByHand({ show: () => {}, onOffer: async () => new Uint8Array(3) })
    const offer = await next()
    const forged = await mallory.answer(offer)
    for (let time = 0; time < 3; time++) expect(() => alice.take(forged)).toThrow(fails('HANDSHAKE'))
    alice.take(await bob.answer(offer))
    expect(await exchange).toEqual(sent)
  })

  test('ends with the refusal of the other side', async () => {
    const { alice, bob, next } = pair()
    const refusal = new PeerlineError('ERR_PEERLINE_DENIED', 'no')
    const accept = () => {
      throw refusal
    }
    const exchange = alice.exchange(BOB, id(), id(), { signal, accept }).catch((error: unknown) => error)
    alice.take(await bob.answer(await next()))
    expect(await exchange).toBe(refusal)
  })

  test('says so when an answer comes twice, or when nobody waits for it any more', async () => {
    const { alice, bob, next } = pair()
    const exchange = alice.exchange(BOB, id(), id(), { signal })
    const answer = await bob.answer(await next())
    alice.take(answer)
    await exchange
    expect(() => alice.take(answer)).toThrow(fails('INVALID', 'nobody waits for'))
  })

  test('gives the same answer to an offer that is pasted again, and hands it on once', async () => {
    vi.useFakeTimers()
    let asked = 0
    const { alice, bob, next } = pair(async () => {
      asked++
      return id()
    })
    const exchange = alice.exchange(BOB, id(), id(), { signal }).catch(() => {})
    vi.useRealTimers()
    const offer = await next()
    vi.useFakeTimers()
    const answers = await Promise.all([bob.answer(offer), bob.answer(inLines(offer))])
    expect([asked, answers[0] === answers[1]]).toEqual([1, true])
    vi.advanceTimersByTime(300_000)
    expect(await bob.answer(offer)).toBe(answers[0])
    vi.advanceTimersByTime(1)
    expect(await bob.answer(offer)).not.toBe(answers[0])
    expect(asked).toBe(2)
    alice.close()
    await exchange
  })

  test('says that an offer is left without an answer, and asks again when it comes again', async () => {
    let asked = 0
    const { bob } = pair(async (offer) => (asked++ === 0 ? undefined : offer))
    const offer = writePasted('offer', Uint8Array.of(1, 7))
    await expect(bob.answer(offer)).rejects.toEqual(fails('DENIED', 'not for this peer, or too old'))
    expect(await bob.answer(offer)).toMatch(/^peerline-answer:/)
    expect(asked).toBe(2)
  })

  test('of a later version is told as such', async () => {
    const { alice, bob } = pair()
    await expect(bob.answer(writePasted('offer', Uint8Array.of(2)))).rejects.toEqual(fails('VERSION'))
    expect(() => alice.take(writePasted('answer', Uint8Array.of(2, 0)))).toThrow(fails('VERSION', 'version 2'))
    expect(() => alice.take(writePasted('answer', new Uint8Array()))).toThrow(fails('VERSION', 'version none'))
    expect(() => alice.take(writePasted('answer', new Uint8Array(8).fill(1)))).toThrow(fails('INVALID', '7 bytes'))
  })

  test('takes no more than a person can carry', async () => {
    let bytes = MAX_HAND_BYTES
    const { alice, bob } = pair(async () => new Uint8Array(bytes))
    const large = new Uint8Array(MAX_HAND_BYTES + 1)
    await expect(alice.exchange(BOB, id(), large, { signal })).rejects.toEqual(fails('TOO_LARGE'))
    await expect(bob.answer(writePasted('offer', Uint8Array.of(1, ...large)))).rejects.toEqual(fails('INVALID'))
    const offer = (number: number) => writePasted('offer', Uint8Array.of(1, number))
    expect(await bob.answer(offer(0))).toHaveLength(
      'peerline-answer:'.length + Math.ceil(((1 + 8 + 2_048 + 4) * 8) / 5),
    )
    bytes++
    await expect(bob.answer(offer(1))).rejects.toEqual(fails('TOO_LARGE'))
    await expect(bob.answer(' '.repeat(100_000))).rejects.toEqual(fails('TOO_LARGE'))
  })

  test('takes no more at once than there is room for, and then says so', async () => {
    const { alice, bob } = pair(forever)
    const failed: unknown[] = []
    const waiting = Array.from({ length: 64 }, () => alice.exchange(BOB, id(), id(), { signal }))
    await expect(alice.exchange(BOB, id(), id(), { signal })).rejects.toEqual(fails('LIMIT'))
    const answers = Array.from({ length: 64 }, (_, at) => bob.answer(writePasted('offer', Uint8Array.of(1, at))))
    await expect(bob.answer(writePasted('offer', Uint8Array.of(1, 64)))).rejects.toEqual(fails('BUSY'))
    for (const one of [...waiting, ...answers]) one.catch((error: unknown) => failed.push(error))
    alice.close()
    bob.close()
    await Promise.allSettled([...waiting, ...answers])
    expect(failed).toEqual(Array.from({ length: 128 }, () => fails('CLOSED')))
    await expect(bob.answer(writePasted('offer', Uint8Array.of(1, 64)))).rejects.toEqual(fails('CLOSED'))
  })

  test('ends when the offer cannot be shown', async () => {
    for (const fault of [new PeerlineError('ERR_PEERLINE_FILE', 'no printer'), new Error('no printer')]) {
      const show = async () => Promise.reject(fault)
      const exchange = new ByHand({ show, onOffer: forever }).exchange(BOB, id(), id(), { signal })
      await expect(exchange).rejects.toEqual(fails(isPeerlineError(fault) ? 'FILE' : 'REMOTE', 'no printer'))
    }
  })

  test('shows nothing for a dial that was given up at once', async () => {
    let shown = 0
    const alice = new ByHand({ show: () => void shown++, onOffer: forever })
    const cancel = new AbortController()
    const exchange = alice.exchange(BOB, id(), id(), { signal: cancel.signal })
    cancel.abort()
    await expect(exchange).rejects.toEqual(fails('ABORTED'))
    await new Promise((resolve) => setImmediate(resolve))
    expect(shown).toBe(0)
  })

  test('leaves no timer and no listener behind, however it ends', async () => {
    vi.useFakeTimers()
    const outcomes: unknown[] = []
    const cancel = new AbortController()
    const end = new AbortController()
    const { alice, bob } = pair(forever)
    const keep = (promise: Promise<unknown>) => void promise.catch((error: unknown) => outcomes.push(error))
    keep(alice.exchange(BOB, id(), id(), { signal: cancel.signal }))
    keep(alice.exchange(BOB, id(), id(), { signal: end.signal }))
    keep(bob.answer(writePasted('offer', Uint8Array.of(1, 1))))
    expect(vi.getTimerCount()).toBe(3)
    cancel.abort()
    await vi.advanceTimersByTimeAsync(299_999)
    expect(outcomes).toEqual([fails('ABORTED')])
    await vi.advanceTimersByTimeAsync(1)
    expect(outcomes.slice(1)).toEqual([fails('TIMEOUT', 'pasted'), fails('TIMEOUT', 'says nothing')])
    keep(alice.exchange(BOB, id(), id(), { signal: end.signal }))
    keep(bob.answer(writePasted('offer', Uint8Array.of(1, 2))))
    alice.close()
    bob.close()
    await vi.advanceTimersByTimeAsync(0)
    expect(outcomes.slice(3)).toEqual([fails('CLOSED'), fails('CLOSED')])
    const listeners = [cancel, end].map((one) => getEventListeners(one.signal, 'abort').length)
    expect([vi.getTimerCount(), ...listeners]).toEqual([0, 0, 0])
  })

  test('fails with typed errors only, whatever is pasted', async () => {
    const { alice, bob } = pair()
    void alice.exchange(BOB, id(), id(), { signal }).catch(() => {})
    const bytes = fc.uint8Array({ maxLength: 60 })
    const texts = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 200 }),
      bytes.map((body) => writePasted('answer', body)),
      bytes.map((body) => writePasted('answer', Uint8Array.of(1, ...body))),
      bytes.map((body) => writePasted('offer', body)),
    )
    await fc.assert(
      fc.asyncProperty(texts, async (text) => {
        const said = await bob.answer(text).catch((error: unknown) => error)
        expect(typeof said === 'string' || isPeerlineError(said)).toBe(true)
        expect(() => alice.take(text)).toThrow(PeerlineError)
      }),
    )
    alice.close()
  })
})
