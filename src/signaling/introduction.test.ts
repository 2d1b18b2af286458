import { randomBytes } from 'node:crypto'
import { getEventListeners } from 'node:events'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { createOffer, openOffer, ReplayCache } from '../handshake/index.ts'
import { Identity } from '../identity/index.ts'
import { Acquaintance, meet, OVER, part, type TestHandler } from '../peer/acquaintances.compliance.ts'
import { MessageStream, type Session, type Stream, StreamCode } from '../session/index.ts'
import type { IntroducedHandler, Introductions } from './introduction.ts'
import {
  encodeIntroduced,
  INTRODUCE_PROTOCOL,
  INTRODUCED_PROTOCOL,
  MAX_INTRODUCTION_MESSAGE_BYTES,
  MAX_INTRODUCTION_RTT_MS,
  readAnswer,
} from './introduction-wire.ts'
import { type Medium, signalingCompliance, type Tamper } from './signaling.compliance.ts'
import { ANSWER_TIMEOUT_MS, MAX_SIGNAL_BYTES, type OfferHandler } from './signaling.ts'

const id = () => new Uint8Array(randomBytes(16))
const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })
const silent: IntroducedHandler = async () => undefined
const forever: IntroducedHandler = () => new Promise(() => {})
const signal = new AbortController().signal

const all: Acquaintance[] = []
function someone(identity?: Identity): Acquaintance {
  const peer = new Acquaintance(identity)
  all.push(peer)
  return peer
}

afterEach(async () => {
  vi.useRealTimers()
  vi.restoreAllMocks()
  await part(...all.splice(0))
})

signalingCompliance(
  'a mutual peer',
  async (onOffer) => {
    const [asker, middle, target] = [someone(), someone(), someone()]
    target.introducible((offer) => onOffer(offer))
    middle.introducer()
    const [[, atMiddle]] = await Promise.all([meet(asker, middle), meet(middle, target)])
    return {
      caller: asker.introducible(silent),
      callee: target.id,
      end: () => atMiddle.abort(new PeerlineError('ERR_PEERLINE_CLOSED', 'the introducer goes away')),
      teardown: () => part(asker, middle, target),
    }
  },
  { tampered: untrue },
)

/** An introducer that does with offers and answers what it likes; what it makes up is told by another, for each tells one answer. */
async function untrue(onOffer: OfferHandler, tamper: Tamper): Promise<Medium> {
  const [asker, middle, liar, target] = [someone(), someone(), someone(), someone()]
  target.introducible((offer) => onOffer(offer))
  const lies = new Map<string, MessageStream>()
  const nameOf = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')
  const tell = (to: MessageStream | undefined, answer: Uint8Array) => void to?.send({ answer }).catch(() => {}) // nobody waits for it any more
  liar.handlers.set(
    INTRODUCE_PROTOCOL,
    introduces((_, messages, offer) => lies.set(nameOf(offer), messages)),
  )
  middle.handlers.set(
    INTRODUCE_PROTOCOL,
    introduces((_, messages, genuine) => {
      const pass = async (offer: Uint8Array = genuine) => {
        const stream = await middle.with(target.id)!.open(INTRODUCED_PROTOCOL, { signal })
        const toTarget: MessageStream = new MessageStream(stream, {
          maxBytes: MAX_INTRODUCTION_MESSAGE_BYTES,
          onMessage: (message) => {
            const bytes = readAnswer(message)
            tamper.answer({
              bytes,
              pass: (answer) =>
                answer === undefined ? tell(messages, bytes) : tell(lies.get(nameOf(genuine)), answer),
            })
          },
          onEnd: () => {},
        })
        await toTarget.send(encodeIntroduced({ offer }))
      }
      tamper.offer({ bytes: genuine, pass: (offer) => void pass(offer) })
    }),
  )
  await Promise.all([meet(asker, middle), meet(asker, liar), meet(middle, target)])
  return {
    caller: asker.introducible(silent),
    callee: target.id,
    end: () => part(middle, liar),
    teardown: () => part(asker, middle, liar, target),
  }
}

/** What a hostile, or just another, introducer does with a stream: `say` is called when the whole request has come. */
function introduces(say: (stream: Stream, messages: MessageStream, offer: Uint8Array) => unknown): TestHandler {
  return (stream) => {
    const got: unknown[] = []
    const messages: MessageStream = new MessageStream(stream, {
      maxBytes: MAX_INTRODUCTION_MESSAGE_BYTES,
      onMessage: (message) => {
        if (got.push(message) === 2) say(stream, messages, (message as { offer: Uint8Array }).offer)
      },
      onEnd: () => {},
    })
  }
}

const answers = (answer: Uint8Array) =>
  introduces((_, messages) => void messages.send({ answer }).then(() => messages.end()))
const fails = (failed: string) => introduces((_, messages) => void messages.send({ failed }))

/** An asker, with introducers that do what they like. */
async function among(...handlers: readonly (TestHandler | undefined)[]) {
  const asker = someone()
  const introducers = await Promise.all(
    handlers.map(async (handler) => {
      const introducer = someone()
      if (handler !== undefined) introducer.handlers.set(INTRODUCE_PROTOCOL, handler)
      await meet(asker, introducer)
      return introducer
    }),
  )
  return { asker, introducers, introductions: asker.introducible(silent) }
}

const stranger = Identity.generate().peerId
const exchange = (introductions: Introductions, accept?: (answer: Uint8Array) => boolean, to = stranger) =>
  introductions.exchange(to, id(), id(), { signal, accept })

describe('asking for an introduction', () => {
  test('fails at once when nobody could introduce', async () => {
    const { introductions } = await among()
    expect(introductions.introducers).toBe(0)
    await expect(exchange(introductions)).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
  })

  test('does not ask the very peer it wants', async () => {
    const { introductions, introducers } = await among(answers(id()))
    await expect(exchange(introductions, undefined, introducers[0]!.id)).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
    expect(introducers[0]!.asked).toEqual([])
  })

  test('does not ask a second time who does not introduce', async () => {
    const { introductions, introducers, asker } = await among(undefined, undefined)
    await expect(exchange(introductions)).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
    expect(introductions.introducers).toBe(0)
    await expect(exchange(introductions)).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
    expect(introducers.map(({ asked }) => asked.length)).toEqual([1, 1])
    // With a new session it may have changed its mind.
    await meet(asker, introducers[0]!)
    expect(introductions.introducers).toBe(1)
  })

  test('asks the eight nearest, and each peer once', async () => {
    const { introductions, introducers, asker } = await among(...Array.from({ length: 10 }, () => fails('x')))
    for (const [at, session] of asker.sessions.entries()) {
      vi.spyOn(session, 'rttMs', 'get').mockReturnValue([40, 10, 90, 30, 20, 80, 60, 70, 50, undefined][at])
    }
    // One of two sessions with the same peer: the nearer one.
    for (const [at, ms] of [
      [1, 12],
      [3, 25],
    ] as const) {
      const [again] = await meet(asker, introducers[at]!)
      vi.spyOn(again, 'rttMs', 'get').mockReturnValue(ms)
    }
    const opens = asker.sessions.map((session) => vi.spyOn(session, 'open'))
    // Near, but nothing answers there.
    vi.spyOn(asker.sessions[4]!, 'needsPath', 'get').mockReturnValue(true)
    await expect(exchange(introductions)).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
    expect(opens.map(({ mock }) => mock.calls.length)).toEqual([1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1])
  })

  test('leaves another medium a moment first', async () => {
    const { introducers, asker } = await among(answers(Uint8Array.of(1)))
    let delayMs = 60_000
    const introductions = asker.introducible(silent, { delayMs: () => delayMs })
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const cancel = new AbortController()
    const found = introductions.exchange(stranger, id(), id(), { signal: cancel.signal })
    cancel.abort()
    await expect(found).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
    expect(vi.getTimerCount()).toBe(0)
    delayMs = 1_000
    const needed = exchange(introductions)
    vi.advanceTimersByTime(delayMs - 1)
    // Streams come in the order in which they were opened.
    await asker.sessions[0]!.open('/ask/me').then((stream) => stream.closed)
    expect(introducers[0]!.asked).toEqual(['/ask/me'])
    vi.advanceTimersByTime(1)
    expect(new Uint8Array(await needed)).toEqual(Uint8Array.of(1))
    // Who has gone meanwhile is not asked.
    const late = expect(exchange(introductions)).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
    asker.sessions[0]!.abort(OVER)
    vi.advanceTimersByTime(delayMs)
    await late
  })

  test('leaves out sessions that are not open', async () => {
    const { introductions, introducers, asker } = await among(fails('x'), fails('x'))
    asker.sessions[0]!.abort(OVER)
    vi.spyOn(asker.sessions[1]!, 'state', 'get').mockReturnValue('closing')
    await expect(exchange(introductions)).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
    expect(introducers.map(({ asked }) => asked.length)).toEqual([0, 0])
  })

  test('gives up the others when one has answered', async () => {
    const given: Promise<unknown>[] = []
    const hangs = introduces((stream) =>
      given.push(stream.closed.then(() => stream.write(id()).catch((e: unknown) => e))),
    )
    const answer = id()
    const late = introduces(async (_, messages) => {
      await vi.waitFor(() => expect(given.length).toBe(2))
      await messages.send({ answer })
    })
    const { introductions, asker } = await among(hangs, late, hangs)
    expect(new Uint8Array(await exchange(introductions))).toEqual(answer)
    expect(getEventListeners(signal, 'abort')).toEqual([])
    for (const error of await Promise.all(given)) expect(error).toEqual(code('ERR_PEERLINE_RESET'))
    await vi.waitFor(() => expect(asker.sessions.map(({ streams }) => streams)).toEqual([0, 0, 0]))
  })

  test('waits for introducers that hang no longer than an offer may', async () => {
    let asked = 0
    const { introductions, asker } = await among(
      introduces(() => asked++),
      introduces(() => asked++),
    )
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const outcome = expect(exchange(introductions)).rejects.toEqual(code('ERR_PEERLINE_TIMEOUT'))
    while (asked < 2) await new Promise((resolve) => setImmediate(resolve))
    vi.advanceTimersByTime(ANSWER_TIMEOUT_MS)
    await outcome
    expect(asker.sessions.map(({ streams }) => streams)).toEqual([0, 0])
  })

  test('given up before a stream is open, leaves none behind', async () => {
    const { introductions, asker } = await among(introduces(() => {}))
    const cancel = new AbortController()
    const exchanged = introductions.exchange(stranger, id(), id(), { signal: cancel.signal })
    cancel.abort()
    await expect(exchanged).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
    // What was opened before it has come, and gone.
    await asker.sessions[0]!.open('/ask/me').then((stream) => stream.closed)
    expect(asker.sessions[0]!.streams).toBe(0)
  })

  test('waits on when an answer is not genuine', async () => {
    const [forged, genuine] = [id(), id()]
    let tellForged = () => {}
    const seen = new Promise<void>((resolve) => {
      tellForged = resolve
    })
    const honest = introduces(async (_, messages) => {
      await seen
      await messages.send({ answer: genuine })
    })
    const { introductions } = await among(answers(forged), honest)
    const looked: Uint8Array[] = []
    const accept = (answer: Uint8Array) => {
      looked.push(new Uint8Array(answer))
      tellForged()
      return looked.length > 1
    }
    expect(new Uint8Array(await exchange(introductions, accept))).toEqual(genuine)
    expect(looked).toEqual([forged, genuine])
  })

  test('looks at one answer of each introducer, and then it counts as not there', async () => {
    const twice = introduces((_, messages) => {
      for (let at = 0; at < 5; at++) void messages.send({ answer: id() }).catch(() => {})
    })
    const { introductions } = await among(twice, twice)
    const accept = vi.fn(() => false)
    await expect(exchange(introductions, accept)).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
    expect(accept).toHaveBeenCalledTimes(2)
  })

  test('ends with what a genuine refusal says', async () => {
    const { introductions } = await among(answers(id()))
    const refuse = (error: unknown) => () => {
      throw error
    }
    const denied = new PeerlineError('ERR_PEERLINE_DENIED', 'no')
    await expect(exchange(introductions, refuse(denied))).rejects.toBe(denied)
    await expect(exchange(introductions, refuse(new Error('oh')))).rejects.toEqual(code('ERR_PEERLINE_REMOTE'))
  })

  test.each<[string, string[], string]>([
    ['all are busy', ['ERR_PEERLINE_BUSY', 'ERR_PEERLINE_BUSY'], 'ERR_PEERLINE_BUSY'],
    ['only some are busy', ['ERR_PEERLINE_BUSY', 'ERR_PEERLINE_OFFLINE'], 'ERR_PEERLINE_OFFLINE'],
    ['one has seen it silent', ['ERR_PEERLINE_TIMEOUT', 'ERR_PEERLINE_OFFLINE'], 'ERR_PEERLINE_TIMEOUT'],
    // What an introducer says is no word of the peer itself.
    ['they refuse', ['ERR_PEERLINE_DENIED', 'ERR_PEERLINE_NO_PATH'], 'ERR_PEERLINE_OFFLINE'],
    ['they make up codes', ['ERR_TOMORROW', 'toString'], 'ERR_PEERLINE_OFFLINE'],
  ])('says so when %s', async (_, codes, expected) => {
    const { introductions } = await among(...codes.map(fails))
    await expect(exchange(introductions)).rejects.toEqual(code(expected))
  })

  const raw = (bytes: Uint8Array) => introduces((stream) => void stream.write(bytes))
  test.each<[string, TestHandler]>([
    ['says nothing and ends', introduces((_, messages) => void messages.end())],
    ['resets with a code of its own', introduces((stream) => stream.reset(4_711))],
    ['is busy before it reads', (stream) => stream.reset(StreamCode.DENIED)],
    ['answers with neither', introduces((_, messages) => void messages.send({ hello: 1 }))],
    ['answers what is no map', introduces((_, messages) => void messages.send(7))],
    ['answers too much', answers(new Uint8Array(MAX_SIGNAL_BYTES + 1))],
    ['announces too much', raw(Uint8Array.of(255, 255, 255, 255))],
    ['sends what is no CBOR', raw(Uint8Array.of(0, 0, 0, 2, 0xff, 0xff))],
    ['stops in the middle', introduces((stream) => void stream.end(Uint8Array.of(0, 0, 0, 9, 1)))],
  ])('counts an introducer as not there that %s', async (_, handler) => {
    const { introductions, asker } = await among(handler)
    await expect(exchange(introductions)).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
    await vi.waitFor(() => expect(asker.sessions[0]!.streams).toBe(0))
    expect(asker.sessions[0]!.state).toBe('open')
  })

  test('goes on without an introducer whose session ends', async () => {
    let end = () => {}
    const { introductions, introducers } = await among(
      introduces(() => end()),
      introduces((_, messages) => {
        end = () => introducers[0]!.sessions[0]!.abort(OVER)
        if (introducers[0]!.asked.length > 0) end()
        void gone.then(() => messages.send({ answer: Uint8Array.of(1) }))
      }),
    )
    const gone = introducers[0]!.sessions[0]!.closed
    expect(new Uint8Array(await exchange(introductions))).toEqual(Uint8Array.of(1))
  })

  test('refuses offers that no medium carries, and more than can wait', async () => {
    const { introductions } = await among((stream) => void stream.next())
    const large = introductions.exchange(stranger, id(), new Uint8Array(MAX_SIGNAL_BYTES + 1), { signal })
    await expect(large).rejects.toEqual(code('ERR_PEERLINE_TOO_LARGE'))
    const cancel = new AbortController()
    vi.spyOn(process, 'emitWarning').mockImplementation(() => {}) // 256 listeners on one signal
    const waiting = Array.from({ length: 256 }, () =>
      introductions.exchange(stranger, id(), id(), { signal: cancel.signal }).catch((error: unknown) => error),
    )
    await expect(exchange(introductions)).rejects.toEqual(code('ERR_PEERLINE_LIMIT'))
    cancel.abort()
    for (const error of await Promise.all(waiting)) expect(error).toEqual(code('ERR_PEERLINE_ABORTED'))
    const soon = introductions.exchange(stranger, id(), id(), { signal: AbortSignal.timeout(50) })
    await expect(soon).rejects.toEqual(code('ERR_PEERLINE_TIMEOUT'))
  })
})

/** Introducers between two real handshakes: what each does with the answers that come back through it. */
describe('an introducer that is not honest', () => {
  type Meddle = (answer: Uint8Array, older: readonly Uint8Array[]) => Uint8Array
  const honest: Meddle = (answer) => answer
  const changes: Meddle = (answer) => answer.map((byte, at) => (at === answer.length - 9 ? byte ^ 1 : byte))
  const truncates: Meddle = (answer) => answer.subarray(0, answer.length - 1)
  const forges: Meddle = (answer) => new Uint8Array(randomBytes(answer.length))
  const replays: Meddle = (answer, older) => older[0] ?? answer

  async function between(...meddlers: readonly Meddle[]) {
    const [alice, bob] = [Identity.generate(), Identity.generate()]
    const done: Promise<void>[] = []
    const { introductions } = await among(
      ...meddlers.map((meddle, at) => {
        const replay = new ReplayCache()
        const older: Uint8Array[] = []
        return introduces(async (_, messages, offer) => {
          // Liars are always faster.
          if (meddle === honest) await Promise.all(done.splice(0))
          const opened = openOffer(bob, offer, { replay })
          const { message } = opened.accept(Uint8Array.of(at))
          const answer = meddle(message, older)
          older.push(message)
          const sent = messages.send({ answer }).then(() => messages.end())
          if (meddle !== honest) done.push(sent)
        })
      }),
    )
    /** Dials as the connector does, and gives what the other side said. */
    return async () => {
      const offer = createOffer(alice, bob.peerId, { body: new Uint8Array(0) })
      let body: Uint8Array | undefined
      const accept = (answer: Uint8Array) => {
        try {
          body = offer.complete(answer).body
          return true
        } catch (error) {
          if (offer.answered) throw error
          return false
        }
      }
      await introductions.exchange(bob.peerId, offer.requestId, offer.message, { signal, accept })
      return body
    }
  }

  test('harms nobody as long as there is an honest one', async () => {
    const dial = await between(changes, truncates, forges, honest)
    for (let at = 0; at < 5; at++) expect(await dial()).toEqual(Uint8Array.of(3))
  })

  test('gets nowhere with older answers', async () => {
    const dial = await between(replays)
    expect(await dial()).toEqual(Uint8Array.of(0))
    await expect(dial()).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
  })

  test('is as good as none when it is alone', async () => {
    const dial = await between(changes)
    await expect(dial()).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
  })
})

describe('being introduced', () => {
  /** A target, and an introducer that sends it what it likes. */
  async function introduced(onOffer: IntroducedHandler, options: { listed?: boolean } = {}) {
    const [target, introducer] = [someone(), someone()]
    target.introducible(onOffer, options)
    const [atIntroducer] = await meet(introducer, target)
    return { target, introducer, session: atIntroducer, atTarget: target.sessions[0]! }
  }

  /** Passes an offer on; resolves with the answer, or with the error that ended the stream. */
  async function pass(session: Session, message: unknown): Promise<unknown> {
    const stream = await session.open(INTRODUCED_PROTOCOL)
    return new Promise((resolve) => {
      const messages = new MessageStream(stream, {
        maxBytes: MAX_INTRODUCTION_MESSAGE_BYTES,
        onMessage: resolve,
        onEnd: resolve,
      })
      messages.send(message).catch(resolve)
    })
  }

  test('is refused by who only dials', async () => {
    const onOffer = vi.fn(silent)
    const { session } = await introduced(onOffer, { listed: false })
    expect(await pass(session, { offer: id() })).toEqual(code('ERR_PEERLINE_NO_PROTOCOL'))
    expect(onOffer).not.toHaveBeenCalled()
  })

  test.each<[number | undefined, number | undefined, number]>([
    [40, 60, 50],
    [40, undefined, 20],
    [undefined, 60, 30],
    [undefined, undefined, 0],
    [1e9, MAX_INTRODUCTION_RTT_MS, MAX_INTRODUCTION_RTT_MS],
  ])('with round trips of %s and %s ms an answer travels for %s ms', async (own, theirs, expected) => {
    const travel: number[] = []
    const { session, atTarget } = await introduced(async (offer, { travelMs }) => {
      travel.push(travelMs)
      return offer
    })
    vi.spyOn(atTarget, 'rttMs', 'get').mockReturnValue(own)
    const offer = id()
    expect(await pass(session, encodeIntroduced({ offer, rttMs: theirs }))).toEqual({ answer: offer })
    expect(travel).toEqual([expected])
    // Nothing is left of it, on either side.
    await vi.waitFor(() => expect(atTarget.streams).toBe(0))
  })

  test.each<[string, unknown]>([
    ['no offer', { answer: id() }],
    ['too large an offer', { offer: new Uint8Array(MAX_SIGNAL_BYTES + 1) }],
    ['a message beyond all limits', { offer: new Uint8Array(MAX_INTRODUCTION_MESSAGE_BYTES) }],
    ['a round trip of days', { offer: id(), rtt: 1e9 }],
    ['a list', [id()]],
  ])('hands on nothing of %s', async (_, message) => {
    const onOffer = vi.fn(silent)
    const { session, atTarget } = await introduced(onOffer)
    expect(await pass(session, message)).toEqual(code('ERR_PEERLINE_REMOTE'))
    expect(onOffer).not.toHaveBeenCalled()
    await vi.waitFor(() => expect(atTarget.streams).toBe(0))
  })

  test('takes one offer of a stream', async () => {
    const onOffer = vi.fn(forever)
    const { session } = await introduced(onOffer)
    const stream = await session.open(INTRODUCED_PROTOCOL)
    const messages = new MessageStream(stream, { maxBytes: 100, onMessage: () => {}, onEnd: () => {} })
    await messages.send({ offer: id() })
    await messages.send({ offer: id() })
    await stream.closed
    expect(onOffer).toHaveBeenCalledTimes(1)
  })

  test('is silence where the handler is silent, fails, or says too much', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const handlers: IntroducedHandler[] = [
      silent,
      () => Promise.reject(new Error('oh')),
      async () => new Uint8Array(MAX_SIGNAL_BYTES + 1),
    ]
    let handled = 0
    const { session, atTarget } = await introduced((...given) => handlers[handled++]!(...given))
    const outcomes = handlers.map(() => pass(session, { offer: id() }))
    const told = vi.fn()
    for (const outcome of outcomes) void outcome.then(told)
    while (handled < handlers.length) await new Promise((resolve) => setImmediate(resolve))
    // What comes after them was answered after them.
    await session.open('/ask/me').then((stream) => stream.closed)
    expect(told).not.toHaveBeenCalled()
    expect(atTarget.streams).toBe(handlers.length)
    vi.advanceTimersByTime(ANSWER_TIMEOUT_MS)
    for (const outcome of outcomes) expect(await outcome).toEqual(code('ERR_PEERLINE_TIMEOUT'))
    expect(atTarget.streams).toBe(0)
  })

  test('ends when the introducer gives up, and its answer then goes nowhere', async () => {
    let answer: (() => void) | undefined
    const { session, atTarget } = await introduced(
      (offer) =>
        new Promise((resolve) => {
          answer = () => resolve(offer)
        }),
    )
    const stream = await session.open(INTRODUCED_PROTOCOL)
    const onMessage = vi.fn()
    const messages = new MessageStream(stream, { maxBytes: 100, onMessage, onEnd: () => {} })
    await messages.send({ offer: id() })
    await vi.waitFor(() => expect(answer).toBeDefined())
    // Also an end in order: whoever is to bring the answer back keeps the stream.
    await messages.end()
    await vi.waitFor(() => expect(atTarget.streams).toBe(0))
    answer!()
    expect(await pass(session, { offer: 7 })).toEqual(code('ERR_PEERLINE_REMOTE'))
    expect(onMessage).not.toHaveBeenCalled()
  })

  test('leaves no timer behind', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const { session, atTarget } = await introduced(async (offer) => offer)
    const before = vi.getTimerCount()
    for (let at = 0; at < 20; at++) expect(await pass(session, { offer: id() })).toHaveProperty('answer')
    while (atTarget.streams > 0) await new Promise((resolve) => setImmediate(resolve))
    // A session has a few of its own.
    expect(vi.getTimerCount() - before).toBeLessThan(10)
  })

  test('is decided on for so many at once, of one introducer and of all', async () => {
    const deciding: (() => void)[] = []
    const onOffer: IntroducedHandler = (offer) => new Promise((resolve) => deciding.push(() => resolve(offer)))
    const [target, ...introducers] = [someone(), someone(), someone(), someone()]
    target!.introducible(onOffer)
    const sessions = await Promise.all(introducers.map(async (introducer) => (await meet(introducer, target!))[0]))
    const flood = (session: Session, count: number) =>
      Array.from({ length: count }, () => pass(session, { offer: id() }))
    const first = flood(sessions[0]!, 40)
    await vi.waitFor(() => expect(deciding.length).toBe(32))
    const others = [flood(sessions[1]!, 32), flood(sessions[2]!, 1)].flat()
    await vi.waitFor(() => expect(deciding.length).toBe(64))
    expect(await others[32]).toEqual(code('ERR_PEERLINE_BUSY'))
    expect(deciding.length).toBe(64)
    for (const done of deciding.splice(0)) done()
    const outcomes = await Promise.all([...first, ...others])
    expect(outcomes.filter((outcome) => outcome instanceof PeerlineError).length).toBe(9)
    // There is room again.
    const next = pass(sessions[0]!, { offer: id() })
    await vi.waitFor(() => expect(deciding.length).toBe(1))
    deciding[0]!()
    expect(await next).toMatchObject({ answer: expect.any(Uint8Array) })
  })

  test('offers that are given up count until they are decided on', async () => {
    const deciding: (() => void)[] = []
    const { session } = await introduced(() => new Promise((resolve) => deciding.push(() => resolve(undefined))))
    for (let at = 0; at < 40; at++) {
      const stream = await session.open(INTRODUCED_PROTOCOL)
      const messages = new MessageStream(stream, { maxBytes: 100, onMessage: () => {}, onEnd: () => {} })
      await messages.send({ offer: id() }).catch(() => {})
      await new Promise((resolve) => setImmediate(resolve))
      stream.reset()
    }
    expect(await pass(session, { offer: id() })).toEqual(code('ERR_PEERLINE_BUSY'))
    expect(deciding.length).toBe(32)
  })

  test('offers are taken in at so many a second, of one introducer and of all', async () => {
    vi.spyOn(performance, 'now').mockReturnValue(5_000)
    const onOffer = vi.fn(async (offer: Uint8Array) => offer)
    const [target, ...introducers] = [someone(), someone(), someone(), someone()]
    target!.introducible(onOffer)
    const sessions = await Promise.all(introducers.map(async (introducer) => (await meet(introducer, target!))[0]))
    const flood = async (session: Session, count: number) => {
      const refused: unknown[] = []
      for (let at = 0; at < count; at++) {
        const outcome = await pass(session, { offer: id() })
        if (outcome instanceof PeerlineError) refused.push(outcome.code)
      }
      return refused
    }
    expect(await flood(sessions[0]!, 202)).toEqual(['ERR_PEERLINE_BUSY', 'ERR_PEERLINE_BUSY'])
    expect(await flood(sessions[1]!, 200)).toEqual([])
    expect(await flood(sessions[2]!, 1)).toEqual(['ERR_PEERLINE_BUSY'])
    expect(onOffer).toHaveBeenCalledTimes(400)
    vi.spyOn(performance, 'now').mockReturnValue(6_000)
    expect(await flood(sessions[0]!, 1)).toEqual([])
  })
})
