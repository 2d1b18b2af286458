import { describe, expect, test, vi } from 'vitest'
import { toHex } from '../bytes/index.ts'
import { encodeBody } from '../connect/candidate.ts'
import { createOffer, openOffer, ReplayCache } from '../handshake/index.ts'
import { Identity, type PeerId, publicKeyOf } from '../identity/index.ts'
import { Kind, readMessage, sealMessage } from '../ledger/envelope.ts'
import type { AppendOptions, Ledger, Receipt, Topics } from '../ledger/ledger.ts'
import type { MemoryLedger, MemoryLedgerOptions } from '../ledger/memory-ledger.compliance.ts'
import { namedTopics } from '../ledger/topics.ts'
import { CIRCUIT_BYTES } from '../path/index.ts'
import type { LedgerSignaling } from './ledger.ts'
import {
  bytes,
  clockOf,
  closeAll,
  code,
  echo,
  LedgerNet,
  pass,
  runTime,
  signal,
  silent,
  until,
} from './ledger-net.compliance.ts'
import { type LedgerState, readLedgerState } from './ledger-state.ts'
import { maxSignalBytes } from './ledger-wire.ts'
import { type Medium, signalingCompliance, type Tamper } from './signaling.compliance.ts'
import { ANSWER_TIMEOUT_MS, type AnswerHow, type OfferHandler } from './signaling.ts'

const stopTime = runTime()

// ---- the contract ----

/** A ledger at which somebody holds, copies and adds messages; nobody can change them. */
class WatchedLedger implements Ledger {
  readonly #memory: MemoryLedger
  readonly #tamper: Tamper
  readonly #stranger = Identity.generate()
  #sequence = 1

  constructor(memory: MemoryLedger, tamper: Tamper) {
    this.#memory = memory
    this.#tamper = tamper
  }

  get name() {
    return this.#memory.name
  }
  get id() {
    return this.#memory.id
  }
  get maxMessageBytes() {
    return this.#memory.maxMessageBytes
  }
  get latencyMs() {
    return this.#memory.latencyMs
  }
  get spreadMs() {
    return this.#memory.spreadMs
  }
  readonly price: Ledger['price'] = (size) => this.#memory.price(size)
  readonly createTopic: Ledger['createTopic'] = (hint, options) => this.#memory.createTopic(hint, options)
  readonly read: Ledger['read'] = (topic, options) => this.#memory.read(topic, options)
  readonly subscribe: Ledger['subscribe'] = (topic, options) => this.#memory.subscribe(topic, options)
  readonly close: Ledger['close'] = () => this.#memory.close()

  append(topic: string, message: Uint8Array, options: AppendOptions): Promise<Receipt> {
    const { kind, payload, sender } = readMessage(message)
    const append = () => this.#memory.append(topic, message, { ...options, signal })
    if (kind !== Kind.OFFER && kind !== Kind.ANSWER) return append()
    const about = kind === Kind.ANSWER ? payload.subarray(0, 16) : new Uint8Array(0)
    return new Promise((resolve, reject) => {
      const onTheWay = {
        bytes: payload.subarray(about.length),
        pass: (other?: Uint8Array) => {
          if (other === undefined) append().then(resolve, reject)
          else this.#forge(topic, kind, Buffer.concat([about, other]), sender)
        },
      }
      if (kind === Kind.OFFER) this.#tamper.offer(onTheWay)
      else this.#tamper.answer(onTheWay)
      if (options.wait === 'sent') resolve({})
    })
  }

  /** Signed by somebody else; and in the name of the sender, with a signature that is none of its. */
  #forge(topic: string, kind: number, payload: Uint8Array, sender: PeerId): void {
    const content = { ledger: this.id, topic, sequence: Date.now() + this.#sequence++, kind, payload, time: Date.now() }
    const forged = sealMessage(this.#stranger, content)
    this.#memory.put(topic, forged)
    const named = new Uint8Array(forged)
    named.set(publicKeyOf(sender), 2)
    this.#memory.put(topic, named)
  }
}

async function medium(net: LedgerNet, onOffer: OfferHandler): Promise<Medium> {
  const callee = await net.callee(onOffer)
  return {
    caller: await net.open(),
    callee: callee.id,
    end: () => net.ledger.close(),
    teardown: closeAll,
  }
}

for (const [name, options] of [
  ['a ledger', {}],
  ['a ledger that takes seconds', { latencyMs: 2_000, spreadMs: 300, clockAheadMs: 90_000 }],
] as const) {
  signalingCompliance(name, (onOffer) => medium(new LedgerNet(options), onOffer), {
    tampered: (onOffer, tamper) =>
      medium(new LedgerNet(options, (memory) => new WatchedLedger(memory, tamper)), onOffer),
  })
}

// ---- what is in the ledger ----

/** An offer with all that a well-connected machine tells: six candidates of full length, a circuit, its NAT. */
function fullOffer(from: Identity, to: PeerId) {
  const v6 = '2001:db8:1234:5678:9abc:def0:1234:5678'
  const body = encodeBody({
    candidates: [
      { kind: 'tcp', host: '192.168.178.123', port: 45_678 },
      { kind: 'tcp-so', host: '203.0.113.117', port: 51_234 },
      { kind: 'udp-srflx', host: '203.0.113.117', port: 51_235 },
      { kind: 'tcp', host: v6, port: 45_678 },
      { kind: 'tcp-so', host: v6, port: 51_236 },
      { kind: 'udp', host: v6, port: 51_237 },
    ],
    circuits: [{ relay: `wss://relay.example.org:4433#${to}`, token: bytes(CIRCUIT_BYTES) }],
    nat: { tcp: 'sequential', udp: 'random', step: -16 },
    rendezvousRttMs: 2_000,
  })
  return createOffer(from, to, { body, lifetimeMs: 300_000, now: Date.now })
}

/** What `from` would answer to such an offer. */
const answering =
  (identity: Identity, replay = new ReplayCache()): OfferHandler =>
  async (message) => {
    try {
      return openOffer(identity, message, { replay }).accept(bytes(400)).message
    } catch {
      return undefined
    }
  }

describe('an offer in a ledger', () => {
  test('of six candidates in both families, with a circuit, fits a message of 1,024 bytes', async () => {
    const net = new LedgerNet({ maxMessageBytes: 1_024 })
    const identity = Identity.generate()
    const { id, topics } = await net.callee(answering(identity), { identity })
    const caller = await net.open()
    const offer = fullOffer(Identity.generate(), id)
    await caller.exchange(id, offer.requestId, offer.message, { signal })
    const [entry] = net.memory.entriesOf(topics.stdin)
    const figures = { offer: offer.message.length, message: entry!.message.length }
    expect(figures).toEqual({ offer: 590, message: 704 })
  })

  test('shows neither who it is from nor to whom, nor any address; and nobody but the addressee can open it', async () => {
    const net = new LedgerNet()
    const [from, other] = [Identity.generate(), Identity.generate()]
    const { identity, id, topics } = await net.callee(silent)
    const offer = fullOffer(from, id)
    const cancel = new AbortController()
    const asking = (await net.open({ identity: from })).exchange(id, offer.requestId, offer.message, {
      signal: cancel.signal,
    })
    await until(() => net.memory.entriesOf(topics.stdin).length === 1)
    cancel.abort()
    await expect(asking).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
    const { message } = net.memory.entriesOf(topics.stdin)[0]!
    const secrets = [from.publicKey, from.staticKey.publicKey, identity.publicKey, offer.requestId]
    for (const secret of [...secrets, Buffer.from('203.0.113.117'), Buffer.from('relay')]) {
      expect(Buffer.from(message).indexOf(secret)).toBe(-1)
    }
    const { payload } = readMessage(message)
    const replay = new ReplayCache()
    for (const curious of [other, from])
      expect(() => openOffer(curious, payload, { replay })).toThrow(code('ERR_PEERLINE_HANDSHAKE'))
    expect(openOffer(identity, payload, { replay }).from).toBe(from.peerId)
  })

  test('has no bytes in common with another to the same peer, nor has its answer', async () => {
    const net = new LedgerNet()
    const identity = Identity.generate()
    const { id, topics } = await net.callee(answering(identity), { identity })
    const from = Identity.generate()
    const caller = await net.open({ identity: from })
    for (const offer of [fullOffer(from, id), fullOffer(from, id)]) {
      await caller.exchange(id, offer.requestId, offer.message, { signal })
    }
    for (const [topic, kind, head] of [
      [topics.stdin, Kind.OFFER, 3],
      [topics.stdout, Kind.ANSWER, 16 + 3],
    ] as const) {
      const sealed = net.memory
        .entriesOf(topic)
        .map(({ message }) => readMessage(message))
        .flatMap(({ kind: its, payload }) => (its === kind ? [Buffer.from(payload.subarray(head))] : []))
      expect(sealed.length).toBe(2)
      // Four bytes are in common by chance once in some ten thousand times; here nothing repeats where a keystream would.
      for (let at = 0; at + 8 <= sealed[0]!.length; at++)
        expect(sealed[1]!.indexOf(sealed[0]!.subarray(at, at + 8))).toBe(-1)
      const same = sealed[0]!.filter((byte, at) => byte === sealed[1]![at]).length
      expect(same).toBeLessThan(sealed[0]!.length / 16)
    }
  })

  test('is signed with a key that stands for nobody: another for each callee, and for each run', async () => {
    const net = new LedgerNet()
    const callees = [await net.callee(), await net.callee()]
    const identity = Identity.generate()
    for (let run = 0; run < 2; run++) {
      const caller = await net.open({ identity })
      for (const { id } of [...callees, ...callees]) await caller.exchange(id, bytes(16), bytes(), { signal })
    }
    const senders = callees.map(({ topics }) =>
      net.memory.entriesOf(topics.stdin).map(({ message }) => readMessage(message).sender),
    )
    for (const [first, second, third, fourth] of senders) {
      expect([second, fourth]).toEqual([first, third])
      expect(third).not.toBe(first)
    }
    const all = new Set(senders.flat())
    expect([all.size, all.has(identity.peerId)]).toEqual([4, false])
  })

  test('costs one message, and as much as the ledger takes for it', async () => {
    const free = await new LedgerNet().open()
    expect(free.cost(Identity.generate().peerId)).toEqual({ messages: 1 })
    const dear = await new LedgerNet({ perByte: 0.001 }).open()
    expect(dear.cost(Identity.generate().peerId)).toEqual({ messages: 1, price: { amount: 0.714, unit: 'USD' } })
  })
})

test.each([3_600_000, -3_600_000])(
  'a ledger whose clock is %d ms ahead of all others carries offers',
  async (clockAheadMs) => {
    const net = new LedgerNet({ clockAheadMs })
    const caller = await net.callee()
    const callee = await net.callee()
    // Its first message tells what time it is there; its second is of that time.
    await until(() => net.memory.entriesOf(callee.topics.stdout).length > 1)
    const offer = bytes()
    expect(await caller.signaling.exchange(callee.id, bytes(16), offer, { signal })).toEqual(offer)
  },
)

describe('both sides', () => {
  /** When each begins, and when the offer was made. */
  async function begin(options: MemoryLedgerOptions, { callerAhead = 0, calleeAhead = 0 } = {}) {
    const net = new LedgerNet(options)
    const fires: { caller?: number; callee?: number } = {}
    const onOffer = async (offer: Uint8Array, how?: AnswerHow) => {
      void Promise.resolve(how!.travelMs!).then((ms) => {
        fires.callee = Date.now() + ms
      })
      expect(how!.maxBytes).toBe(maxSignalBytes(net.ledger))
      expect(how!.patientMs).toBe(ANSWER_TIMEOUT_MS)
      return offer
    }
    const { id } = await net.callee(onOffer, { clock: clockOf(calleeAhead) })
    const caller = await net.open({ clock: clockOf(callerAhead) })
    await pass(5_000)
    const offeredAt = Date.now()
    const accept = (_: Uint8Array, how?: { readonly fireInMs: number }) => {
      fires.caller = Date.now() + how!.fireInMs
      return true
    }
    await caller.exchange(id, bytes(16), bytes(), { signal, accept })
    await until(() => fires.callee !== undefined)
    return { caller: fires.caller! - offeredAt, callee: fires.callee! - offeredAt }
  }

  test('begin at the same moment, at once where the ledger is fast', async () => {
    const { caller, callee } = await begin({})
    expect(Math.abs(caller - callee)).toBeLessThanOrEqual(20)
    expect(caller).toBeLessThanOrEqual(150 + 100)
  })

  test('begin at the same moment, counted from the answer, whatever their own clocks show and however slow the ledger', async () => {
    const options = { latencyMs: 4_000, clockAheadMs: 30_000 }
    const { caller, callee } = await begin(options, { callerAhead: -50_000, calleeAhead: 60_000 })
    expect(Math.abs(caller - callee)).toBeLessThanOrEqual(40)
    // Two messages of 4 s each: a moment that was fixed with the offer would be gone.
    expect(caller).toBeGreaterThanOrEqual(8_000 + 150 - 40)
    expect(caller).toBeLessThanOrEqual(8_000 + 150 + 200)
  })

  test.each([1, 2, 3, 4, 5])(
    'begin at the same moment, though one hears of it seconds after the other (%i)',
    async () => {
      const { caller, callee } = await begin({ latencyMs: 1_000, spreadMs: 3_000 }, { callerAhead: 5_000 })
      expect(Math.abs(caller - callee)).toBeLessThanOrEqual(40)
      // The slowest reader has had the answer by then.
      expect(caller).toBeGreaterThanOrEqual(2_000 + 3_000 + 150 - 40)
    },
  )
})

describe('over restarts', () => {
  /** Ends it without a goodbye. */
  async function crash(net: LedgerNet, signaling: LedgerSignaling): Promise<LedgerState> {
    const state = readLedgerState(JSON.parse(JSON.stringify(signaling.export())))
    net.memory.failNext('ERR_PEERLINE_PAYMENT')
    await signaling.close()
    return state
  }

  test('what came meanwhile is answered, and what was answered is not again', async () => {
    const net = new LedgerNet()
    const heard: string[] = []
    const onOffer: OfferHandler = async (offer) => {
      heard.push(toHex(offer))
      return offer
    }
    const first = await net.callee(onOffer)
    const caller = await net.open()
    const [before, meanwhile] = [bytes(), bytes()]
    await caller.exchange(first.id, bytes(16), before, { signal })
    const state = await crash(net, first.signaling)
    const asking = caller.exchange(first.id, bytes(16), meanwhile, { signal })
    await until(() => net.memory.entriesOf(first.topics.stdin).length === 2)
    const again = await net.callee(onOffer, { identity: first.identity, state })
    expect(again.topics).toEqual(first.topics)
    expect(await asking).toEqual(meanwhile)
    expect(heard).toEqual([toHex(before), toHex(meanwhile)])
  })

  test('messages go on where they were, though the clock has gone back', async () => {
    const net = new LedgerNet()
    const first = await net.callee()
    const state = await crash(net, first.signaling)
    vi.setSystemTime(Date.now() - 60_000)
    const again = await net.callee(echo, { identity: first.identity, state })
    await (await net.open()).exchange(again.id, bytes(16), bytes(), { signal })
    const sequences = net.memory.entriesOf(first.topics.stdout).map(({ message }) => readMessage(message).sequence)
    expect(sequences.length).toBe(3)
    expect(sequences).toEqual([...sequences].sort((one, other) => one - other))
  })

  test('topics that were made are kept, and those of another ledger are not taken for them', async () => {
    const net = new LedgerNet()
    const topics: Topics = { ledger: net.ledger.id, stdin: '0.0.1', stdout: '0.0.2', stderr: '0.0.3' }
    const state = { topics, position: 0, stdout: { sequence: 7 }, stderr: { sequence: 7 } }
    const createTopic = vi.spyOn(net.memory, 'createTopic')
    expect((await net.callee(echo, { state })).topics).toEqual(topics)
    expect(createTopic).not.toHaveBeenCalled()
    const elsewhere = { ...state, position: 9, topics: { ...topics, ledger: 'log:another' } }
    const { id, topics: made } = await net.callee(echo, { state: elsewhere })
    expect(made).toEqual(namedTopics(net.ledger.id, id))
  })

  test('a ledger that has lost what it had is not trusted', async () => {
    const net = new LedgerNet()
    const first = await net.callee()
    await (await net.open()).exchange(first.id, bytes(16), bytes(), { signal })
    const state = await crash(net, first.signaling)
    net.memory.entriesOf(first.topics.stdin).pop()
    const again = net.open({ identity: first.identity, listed: true, state })
    await expect(again).rejects.toEqual(code('ERR_PEERLINE_LEDGER'))
  })
})

describe('closing', () => {
  test('says goodbye, ends what waits, and leaves no timer', async () => {
    const net = new LedgerNet()
    const { id, topics, signaling } = await net.callee(silent)
    const offer = bytes()
    const asking = signaling.exchange(id, bytes(16), offer, { signal }).catch((error: unknown) => error)
    await until(() => net.memory.entriesOf(topics.stdin).length === 1)
    await signaling.close()
    await signaling.close()
    expect(await asking).toEqual(code('ERR_PEERLINE_CLOSED'))
    expect(net.kindsAt(topics.stdout)).toEqual([Kind.HEARTBEAT, Kind.HEARTBEAT])
    await expect(signaling.exchange(id, bytes(16), offer, { signal })).rejects.toEqual(code('ERR_PEERLINE_CLOSED'))
    await stopTime()
    expect(vi.getTimerCount()).toBe(0)
  })

  test('that only dials writes nothing, ever', async () => {
    const net = new LedgerNet()
    const caller = await net.open()
    await pass(60_000)
    await caller.close()
    expect([net.memory.asked, caller.export(), caller.topics]).toEqual([
      { append: 0, read: 0, subscribe: 0 },
      undefined,
      undefined,
    ])
  })

  test('an exchange that is over leaves nothing open at the ledger', async () => {
    const net = new LedgerNet()
    const { id } = await net.callee()
    const caller = await net.open()
    await until(() => net.memory.asked.subscribe === 1) // the callee reads its stdin
    const subscribe = vi.spyOn(net.memory, 'subscribe')
    await caller.exchange(id, bytes(16), bytes(), { signal })
    expect(subscribe).toHaveBeenCalledTimes(2)
    for (const [, options] of subscribe.mock.calls) expect(options.signal.aborted).toBe(true)
  })
})
