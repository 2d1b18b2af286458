import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { Identity, type PeerId, publicKeyOf } from '../identity/index.ts'
import { MessageStream, type Session, type Stream, StreamCode } from '../session/index.ts'
import {
  ANSWER_TIMEOUT_MS,
  INTRODUCE_PROTOCOL,
  INTRODUCED_PROTOCOL,
  MAX_INTRODUCTION_MESSAGE_BYTES,
  MAX_SIGNAL_BYTES,
} from '../signaling/index.ts'
import { Acquaintance, meet, OVER, part, type TestHandler } from './acquaintances.compliance.ts'
import { ASKED_PER_PEER, type IntroducerOptions } from './introducer.ts'

const id = () => new Uint8Array(randomBytes(16))
const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })
const OFFLINE = { failed: 'ERR_PEERLINE_OFFLINE' }
const stranger = Identity.generate().peerId

const all: Acquaintance[] = []
function someone(): Acquaintance {
  const peer = new Acquaintance()
  all.push(peer)
  return peer
}

afterEach(async () => {
  vi.useRealTimers()
  vi.restoreAllMocks()
  await part(...all.splice(0))
})

/** An introducer between an asker and a target, each with its session there. */
async function between(options: Partial<IntroducerOptions> = {}, taken?: TestHandler) {
  const [asker, middle, target] = [someone(), someone(), someone()]
  const introducer = middle.introducer(options)
  const [[session], [, targetSession]] = await Promise.all([meet(asker, middle), meet(middle, target)])
  if (taken !== undefined) target.handlers.set(INTRODUCED_PROTOCOL, taken)
  return { asker, middle, target, introducer, session, targetSession }
}

/** One stream to the introducer: what it said, and what ended it. */
class Asking {
  readonly said: unknown[] = []
  readonly ended: Promise<unknown>
  readonly stream: Stream
  readonly #messages: MessageStream

  private constructor(stream: Stream) {
    this.stream = stream
    let tell: (error: unknown) => void = () => {}
    this.ended = new Promise((resolve) => {
      tell = resolve
    })
    this.#messages = new MessageStream(stream, {
      maxBytes: MAX_INTRODUCTION_MESSAGE_BYTES,
      onMessage: (message) => this.said.push(message),
      onEnd: tell,
    })
  }

  static async of(session: Session): Promise<Asking> {
    return new Asking(await session.open(INTRODUCE_PROTOCOL))
  }

  /** Sends a message; that the introducer reads no more is seen by its end. */
  send(...messages: unknown[]): this {
    for (const message of messages) this.#messages.send(message).catch(() => {})
    return this
  }

  request(to: PeerId, offer: Uint8Array): this {
    return this.send({ to: publicKeyOf(to) }, { offer })
  }
}

/** Asks; resolves with the reply, or with the error in its place. */
async function ask(session: Session, to: PeerId, offer: Uint8Array = id()): Promise<unknown> {
  const asking = (await Asking.of(session)).request(to, offer)
  const error = await asking.ended
  return asking.said.length === 0 ? error : asking.said[0]
}

/** A target's side of a stream: its messages, and what to do at the first. */
function target(onOffer: (messages: MessageStream, introduced: { offer: Uint8Array; rtt?: number }) => void) {
  const ended: unknown[] = []
  const taken: TestHandler = (stream) => {
    const messages: MessageStream = new MessageStream(stream, {
      maxBytes: MAX_INTRODUCTION_MESSAGE_BYTES,
      onMessage: (message) => onOffer(messages, message as { offer: Uint8Array }),
      onEnd: (error) => ended.push(error),
    })
  }
  return { ended, taken }
}

const echo = target((messages, { offer }) => void messages.send({ answer: offer })).taken

describe('an introducer', () => {
  test('passes on what it cannot read, and who asks does not show', async () => {
    const seen: unknown[] = []
    const { taken } = target((messages, introduced) => {
      seen.push(introduced)
      void messages.send({ answer: introduced.offer.toReversed() })
    })
    const { session, target: callee, middle, introducer, targetSession } = await between({}, taken)
    vi.spyOn(middle.sessions[0]!, 'rttMs', 'get').mockReturnValue(41.7)
    const offer = new Uint8Array(randomBytes(MAX_SIGNAL_BYTES))
    expect(await ask(session, callee.id, offer)).toEqual({ answer: offer.toReversed() })
    expect(seen).toEqual([{ offer, rtt: 42 }])
    // Nothing is left of it, anywhere.
    await vi.waitFor(() => expect([session.streams, targetSession.streams, introducer.open]).toEqual([0, 0, 0]))
    expect(middle.sessions.map(({ streams }) => streams)).toEqual([0, 0])
  })

  test('leaves out a round trip that is not known', async () => {
    const { taken } = target(
      (messages, introduced) => void messages.send({ answer: Buffer.from(JSON.stringify(introduced.rtt ?? 'none')) }),
    )
    const { session, target: callee, middle } = await between({}, taken)
    vi.spyOn(middle.sessions[0]!, 'rttMs', 'get').mockReturnValue(undefined)
    expect(await ask(session, callee.id)).toEqual({ answer: new Uint8Array(Buffer.from('"none"')) })
  })

  test('tells nothing of a peer that does not want to be introduced', async () => {
    const { session, target: callee, asker } = await between()
    const took = async (to: PeerId) => {
      const began = performance.now()
      expect(await ask(session, to)).toEqual(OFFLINE)
      return performance.now() - began
    }
    // Not connected, not wanting, not wanting and known for it, and the asker itself.
    for (const ms of [await took(stranger), await took(callee.id), await took(callee.id), await took(asker.id)]) {
      expect(ms).toBeGreaterThanOrEqual(499)
      expect(ms).toBeLessThan(1_500)
    }
    expect(callee.asked).toEqual([INTRODUCED_PROTOCOL])
    expect(asker.asked).toEqual([])
  })

  test('asks again in a new session of a peer that did not want', async () => {
    const { session, target: callee, middle } = await between()
    expect(await ask(session, callee.id)).toEqual(OFFLINE)
    callee.handlers.set(INTRODUCED_PROTOCOL, echo)
    await meet(callee, middle)
    expect(await ask(session, callee.id)).toHaveProperty('answer')
  })

  test('passes nothing on in a session that is not open', async () => {
    const { session, target: callee, middle } = await between({}, echo)
    vi.spyOn(middle.sessions[1]!, 'state', 'get').mockReturnValue('closing')
    expect(await ask(session, callee.id)).toEqual(OFFLINE)
    vi.restoreAllMocks()
    middle.sessions[1]!.abort(OVER)
    expect(await ask(session, callee.id)).toEqual(OFFLINE)
    expect(callee.asked).toEqual([])
  })

  test('asks its owner before it looks for the target', async () => {
    const sessionWith = vi.fn(() => undefined)
    const asked: PeerId[][] = []
    const allow = (from: PeerId, to: PeerId) => {
      asked.push([from, to])
      return false
    }
    const { session, target: callee, asker } = await between({ allow, sessionWith }, echo)
    expect(await ask(session, callee.id)).toEqual({ failed: 'ERR_PEERLINE_DENIED' })
    expect(asked).toEqual([[asker.id, callee.id]])
    expect(sessionWith).not.toHaveBeenCalled()
    expect(callee.asked).toEqual([])
  })

  test('takes nothing but a clear yes for leave', async () => {
    const answers = [undefined, 1, Promise.resolve(true)]
    const allow = () => {
      if (answers.length === 0) throw new Error('the owner made a mistake')
      return answers.shift() as unknown as boolean
    }
    const { session, target: callee, introducer } = await between({ allow }, echo)
    for (let at = 0; at < 3; at++) expect(await ask(session, callee.id)).toEqual({ failed: 'ERR_PEERLINE_DENIED' })
    expect(await ask(session, callee.id)).toEqual(code('ERR_PEERLINE_REMOTE'))
    expect([callee.asked, introducer.open]).toEqual([[], 0])
  })

  test('says that the target is busy', async () => {
    const { session, target: callee } = await between({}, (stream) => stream.reset(StreamCode.BUSY))
    expect(await ask(session, callee.id)).toEqual({ failed: 'ERR_PEERLINE_BUSY' })
  })

  test.each<[string, TestHandler]>([
    ['ends without an answer', target((messages) => void messages.end()).taken],
    ['resets', target((messages) => messages.reset()).taken],
    ['refuses it', (stream) => stream.reset(StreamCode.DENIED)],
    [
      'answers too much',
      target((messages) => void messages.send({ answer: new Uint8Array(MAX_SIGNAL_BYTES + 1) })).taken,
    ],
    ['answers something else', target((messages) => void messages.send({ offer: id() })).taken],
    ['announces too much', (stream) => void stream.write(Uint8Array.of(255, 255, 255, 255))],
    ['sends what is no CBOR', (stream) => void stream.write(Uint8Array.of(0, 0, 0, 1, 0xff))],
  ])('counts a target as not there that %s', async (_, taken) => {
    const { session, target: callee, introducer, targetSession } = await between({}, taken)
    expect(await ask(session, callee.id)).toEqual(OFFLINE)
    await vi.waitFor(() => expect([session.streams, targetSession.streams, introducer.open]).toEqual([0, 0, 0]))
    expect(targetSession.state).toBe('open')
  })

  test('gives up the target when the asker gives up, in whatever way', async () => {
    let offers = 0
    const { ended, taken } = target(() => offers++)
    const { session, target: callee, introducer, targetSession } = await between({}, taken)
    const ways = [
      (asking: Asking) => asking.stream.reset(),
      (asking: Asking) => asking.stream.end(),
      () => session.abort(OVER),
    ]
    for (const [at, giveUp] of ways.entries()) {
      const asking = (await Asking.of(session)).request(callee.id, id())
      await vi.waitFor(() => expect(offers).toBe(at + 1))
      expect(introducer.open).toBe(1)
      void giveUp(asking)
      await vi.waitFor(() => expect(ended.length).toBe(at + 1))
      expect(ended[at]).toEqual(code('ERR_PEERLINE_RESET'))
      expect(targetSession.streams + introducer.open).toBe(0)
    }
  })

  test('opens nothing to the target that an asker has given up already', async () => {
    const { ended, taken } = target(() => {})
    const { session, target: callee, introducer, targetSession } = await between({}, taken)
    // All of it in one record: the request is read, and given up before the target's stream is open.
    const asking = (await Asking.of(session)).request(callee.id, id())
    asking.stream.reset()
    callee.handlers.set(INTRODUCED_PROTOCOL, echo)
    expect(await ask(session, callee.id)).toHaveProperty('answer')
    await vi.waitFor(() => expect([targetSession.streams, introducer.open]).toEqual([0, 0]))
    expect(ended).toEqual([])
  })

  test('tells the asker when the target goes away', async () => {
    const { taken } = target(() => targetSessionEnds())
    const { session, target: callee, targetSession, introducer } = await between({}, taken)
    const targetSessionEnds = () => targetSession.abort(OVER)
    expect(await ask(session, callee.id)).toEqual(OFFLINE)
    await vi.waitFor(() => expect(introducer.open).toBe(0))
  })

  test('waits for the target, or for the asker to say what it wants, no longer than an offer may', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    let offered = false
    const { ended, taken } = target(() => {
      offered = true
    })
    const { session, target: callee, introducer } = await between({}, taken)
    const asking = (await Asking.of(session)).request(callee.id, id())
    const [mute, half] = [await Asking.of(session), await Asking.of(session)]
    half.send({ to: publicKeyOf(callee.id) })
    while (!offered || introducer.open < 3) await new Promise((resolve) => setImmediate(resolve))
    vi.advanceTimersByTime(ANSWER_TIMEOUT_MS - 1)
    expect(introducer.open).toBe(3)
    vi.advanceTimersByTime(2)
    for (const each of [asking, mute, half]) expect(await each.ended).toEqual(code('ERR_PEERLINE_TIMEOUT'))
    while (ended.length === 0) await new Promise((resolve) => setImmediate(resolve))
    expect([introducer.open, session.streams]).toEqual([0, 0])
  })

  test('leaves no timer behind', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const { session, target: callee, introducer } = await between({}, echo)
    const before = vi.getTimerCount()
    for (let at = 0; at < 20; at++) {
      expect(await ask(session, callee.id)).toHaveProperty('answer')
      const given = (await Asking.of(session)).request(stranger, id())
      while (introducer.open === 0) await new Promise((resolve) => setImmediate(resolve))
      given.stream.reset()
      while (introducer.open > 0) await new Promise((resolve) => setImmediate(resolve))
    }
    // A session has a few of its own.
    expect(vi.getTimerCount() - before).toBeLessThan(10)
  })
})

describe('a flood', () => {
  test('of one asker is refused before anything is read', async () => {
    const { session, target: callee, introducer } = await between({ rate: { rate: 0, burst: 2 } }, echo)
    for (let at = 0; at < 2; at++) expect(await ask(session, callee.id)).toHaveProperty('answer')
    // Not a word was sent.
    expect(await (await Asking.of(session)).ended).toEqual(code('ERR_PEERLINE_BUSY'))
    expect(introducer.open).toBe(0)
  })

  test('of one asker leaves others their share', async () => {
    const { session, target: callee, middle } = await between({ rate: { rate: 0, burst: 1 } }, echo)
    const other = someone()
    const [otherSession] = await meet(other, middle)
    expect(await ask(session, callee.id)).toHaveProperty('answer')
    expect(await ask(session, callee.id)).toEqual(code('ERR_PEERLINE_BUSY'))
    expect(await ask(otherSession, callee.id)).toHaveProperty('answer')
  })

  test('of new sessions of one asker counts as one', async () => {
    const { session, target: callee, middle, asker } = await between({ rate: { rate: 0, burst: 1 } }, echo)
    expect(await ask(session, callee.id)).toHaveProperty('answer')
    const [another] = await meet(asker, middle)
    expect(await ask(another, callee.id)).toEqual(code('ERR_PEERLINE_BUSY'))
  })

  test('of a thousand names learns of a hundred', async () => {
    vi.spyOn(performance, 'now').mockReturnValue(performance.now())
    const sessionWith = vi.fn((_peer: PeerId): undefined => undefined)
    const { session, introducer } = await between({ sessionWith })
    const names = Array.from({ length: 1_000 }, () => Identity.generate().peerId)
    const said: unknown[] = []
    for (let at = 0; at < names.length; at += 50) {
      said.push(...(await Promise.all(names.slice(at, at + 50).map((to) => ask(session, to)))))
    }
    const busy = said.filter((one) => (one as { code?: string }).code === 'ERR_PEERLINE_BUSY')
    expect(busy.length).toBe(1_000 - ASKED_PER_PEER.burst)
    expect(sessionWith).toHaveBeenCalledTimes(ASKED_PER_PEER.burst)
    expect(introducer.open).toBe(0)
  })

  test('for one target is held back, whoever asks', async () => {
    vi.spyOn(performance, 'now').mockReturnValue(performance.now())
    const { target: callee, middle } = await between({}, echo)
    const other = someone()
    other.handlers.set(INTRODUCED_PROTOCOL, echo)
    await meet(other, middle)
    const sessions: Session[] = []
    for (let at = 0; at < 3; at++) sessions.push((await meet(someone(), middle))[0])
    const said: unknown[] = []
    for (const session of sessions) for (let at = 0; at < 90; at++) said.push(await ask(session, callee.id))
    expect(said.filter((one) => Object.hasOwn(one as object, 'answer')).length).toBe(200)
    expect(said.slice(200)).toEqual(Array.from({ length: 70 }, () => ({ failed: 'ERR_PEERLINE_BUSY' })))
    expect(await ask(sessions[2]!, other.id)).toHaveProperty('answer')
  })

  test('of open introductions is bounded, for one asker', async () => {
    const { session, target: callee, introducer, middle } = await between({}, target(() => {}).taken)
    const open = await Promise.all(
      Array.from({ length: 64 }, async () => (await Asking.of(session)).request(callee.id, id())),
    )
    await vi.waitFor(() => expect(introducer.open).toBe(64))
    expect(await ask(session, callee.id)).toEqual(code('ERR_PEERLINE_BUSY'))
    const [another] = await meet(someone(), middle)
    const asking = (await Asking.of(another)).request(callee.id, id())
    await vi.waitFor(() => expect(introducer.open).toBe(65))
    open[0]!.stream.reset()
    await vi.waitFor(() => expect(introducer.open).toBe(64))
    expect((await Asking.of(session)).request(callee.id, id()).said).toEqual([])
    await vi.waitFor(() => expect(introducer.open).toBe(65))
    expect(asking.said).toEqual([])
  })
})

test('introductions under way are bounded, whoever asks', async () => {
  const middle = someone()
  const introducer = middle.introducer()
  const open: Asking[] = []
  for (let asker = 0; asker < 16; asker++) {
    const [session] = await meet(someone(), middle)
    open.push(...(await Promise.all(Array.from({ length: 64 }, () => Asking.of(session)))))
  }
  await vi.waitFor(() => expect(introducer.open).toBe(1_024))
  const [session] = await meet(someone(), middle)
  expect(await ask(session, stranger)).toEqual(code('ERR_PEERLINE_BUSY'))
  open[0]!.stream.reset()
  await vi.waitFor(() => expect(introducer.open).toBe(1_023))
  expect(await ask(session, stranger)).toEqual(OFFLINE)
})

describe('an asker that breaks the protocol', () => {
  test.each<[string, unknown[]]>([
    ['names nobody', [{ offer: id() }]],
    ['names half a peer', [{ to: new Uint8Array(16) }]],
    ['offers nothing', [{ to: publicKeyOf(stranger) }, { to: publicKeyOf(stranger) }]],
    ['offers too much', [{ to: publicKeyOf(stranger) }, { offer: new Uint8Array(MAX_SIGNAL_BYTES + 1) }]],
    [
      'sends more than a message may be',
      [{ to: publicKeyOf(stranger), x: new Uint8Array(MAX_INTRODUCTION_MESSAGE_BYTES) }],
    ],
    ['offers twice', [{ to: publicKeyOf(stranger) }, { offer: id() }, { offer: id() }]],
  ])('is given up when it %s', async (_, messages) => {
    const { session, introducer } = await between()
    const asking = (await Asking.of(session)).send(...messages)
    expect(await asking.ended).toEqual(code('ERR_PEERLINE_REMOTE'))
    expect([asking.said, introducer.open, session.state]).toEqual([[], 0, 'open'])
  })

  test('a second offer never reaches the target', async () => {
    const offers: unknown[] = []
    const { taken } = target((_, introduced) => offers.push(introduced))
    const { session, target: callee } = await between({}, taken)
    const asking = (await Asking.of(session)).request(callee.id, id())
    await vi.waitFor(() => expect(offers.length).toBe(1))
    asking.send({ offer: id() })
    expect(await asking.ended).toEqual(code('ERR_PEERLINE_REMOTE'))
    expect(offers.length).toBe(1)
  })

  test('whatever it sends: the introducer answers the next one', async () => {
    const { session, target: callee, introducer } = await between({ rate: { rate: 0, burst: 10_000 } }, echo)
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ maxLength: 80 }), { maxLength: 4 }),
        fc.boolean(),
        async (chunks, named) => {
          const stream = await session.open(INTRODUCE_PROTOCOL)
          stream.pipeTo({ data: () => {}, end: () => {}, error: () => {} })
          const messages = new MessageStream(stream, { maxBytes: 100, onMessage: () => {}, onEnd: () => {} })
          if (named) await messages.send({ to: publicKeyOf(callee.id) }).catch(() => {})
          for (const chunk of chunks) await stream.write(chunk).catch(() => {})
          await stream.end().catch(() => {})
          await stream.closed
        },
      ),
      { numRuns: 60 },
    )
    await vi.waitFor(() => expect(introducer.open).toBe(0))
    expect(await ask(session, callee.id)).toHaveProperty('answer')
  }, 30_000)
})
