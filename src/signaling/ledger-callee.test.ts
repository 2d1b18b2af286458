import { setMaxListeners } from 'node:events'
import { describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { Identity, type PeerId } from '../identity/index.ts'
import { Kind, sealMessage } from '../ledger/envelope.ts'
import { encodeHeartbeat, SUSPECT_AFTER_MS } from '../ledger/heartbeat.ts'
import type { Topics } from '../ledger/ledger.ts'
import { namedTopics } from '../ledger/topics.ts'
import { encodeTrouble } from '../ledger/trouble.ts'
import { bytes, code, LedgerNet, pass, runTime, signal, silent, until } from './ledger-net.compliance.ts'
import { encodeAnswer, tagOf } from './ledger-wire.ts'

runTime()

describe('dialling', () => {
  test('waits as long as the ledger is slow, and no longer than an offer lives', async () => {
    const patience = async (latencyMs: number) => (await new LedgerNet({ latencyMs }).open()).patienceMs
    expect(await Promise.all([0, 5_000, 100_000].map(patience))).toEqual([30_000, 50_000, 300_000])
  })

  test('carries what a message of the ledger has room for, and no more than any medium', async () => {
    const limit = async (maxMessageBytes: number) => (await new LedgerNet({ maxMessageBytes }).open()).maxSignalBytes
    expect(await Promise.all([1_024, 100_000].map(limit))).toEqual([894, 16_384])
  })

  /** What comes of dialling, and how many messages were written. */
  async function dial(net: LedgerNet, to: PeerId, offer = bytes()) {
    const caller = await net.open()
    const before = net.memory.asked.append
    const outcome = await caller.exchange(to, bytes(16), offer, { signal }).catch((error: unknown) => error)
    return { outcome, written: net.memory.asked.append - before, state: caller.liveness.of(to) }
  }

  test('writes nothing to a peer that has said goodbye', async () => {
    const net = new LedgerNet()
    const { id, signaling } = await net.callee()
    await signaling.close()
    expect(await dial(net, id)).toEqual({ outcome: code('ERR_PEERLINE_OFFLINE'), written: 0, state: 'offline' })
  })

  test('writes nothing to a peer that is overdue, be it that its last heartbeat is hours old', async () => {
    const net = new LedgerNet()
    const identity = Identity.generate()
    const topics = namedTopics(net.ledger.id, identity.peerId)
    net.known.set(identity.peerId, topics)
    net.put(identity, topics.stdout, Kind.HEARTBEAT, encodeHeartbeat({ dueMs: 10_000 }))
    vi.setSystemTime(Date.now() + 10_000 + SUSPECT_AFTER_MS)
    expect(await dial(net, identity.peerId)).toMatchObject({ written: 1, state: 'suspect' })
    vi.setSystemTime(Date.now() + 3 * 3_600_000)
    expect(await dial(net, identity.peerId)).toEqual({
      outcome: code('ERR_PEERLINE_OFFLINE'),
      written: 0,
      state: 'dead',
    })
    // One that has said so is alive all the same.
    net.put(identity, topics.stdout, Kind.HEARTBEAT, encodeHeartbeat({ dueMs: 86_400_000 }), {
      sequence: Date.now() * 2,
    })
    vi.setSystemTime(Date.now() + 10 * 3_600_000)
    expect(await dial(net, identity.peerId)).toMatchObject({ written: 1, state: 'alive' })
  })

  test('writes nothing to a peer whose topics are not known, are of another ledger, or have been silent', async () => {
    const net = new LedgerNet()
    const { peerId } = Identity.generate()
    const offline = { outcome: code('ERR_PEERLINE_OFFLINE'), written: 0, state: 'unknown' }
    expect(await dial(net, peerId)).toEqual(offline)
    net.known.set(peerId, namedTopics(net.ledger.id, peerId))
    expect(await dial(net, peerId)).toEqual(offline)
    const { id, topics } = await net.callee()
    net.known.set(id, { ...topics, ledger: 'log:another' })
    expect(await dial(net, id)).toEqual(offline)
  })

  test('is not put off by who fills the topics of a peer: then it writes, and sees', async () => {
    const junk = (net: LedgerNet, topics: Topics) => {
      for (let at = 0; at < 5_001; at++) net.memory.put(topics.stdout, bytes(8))
    }
    const forged = (net: LedgerNet, topics: Topics, identity: Identity) => {
      const content = {
        ledger: net.ledger.id,
        topic: topics.stdin,
        sequence: 1,
        kind: Kind.HEARTBEAT,
        payload: bytes(),
      }
      const elsewhere = sealMessage(identity, { ...content, time: Date.now() })
      for (let at = 0; at < 501; at++) net.memory.put(topics.stdout, elsewhere)
    }
    for (const fill of [junk, forged]) {
      const net = new LedgerNet()
      const identity = Identity.generate()
      const topics = namedTopics(net.ledger.id, identity.peerId)
      net.known.set(identity.peerId, topics)
      fill(net, topics, identity)
      const outcome = { outcome: code('ERR_PEERLINE_TIMEOUT'), written: 1, state: 'unknown' }
      expect(await dial(net, identity.peerId)).toEqual(outcome)
    }
  })

  test('reads a page to see that a peer is alive, not its whole life', async () => {
    const net = new LedgerNet()
    const { id, identity, topics } = await net.callee()
    for (let at = 0; at < 300; at++) {
      const entry = net.put(identity, topics.stdout, 99, bytes(8), { sequence: at })
      Object.assign(entry, { at: Date.now() - 2 * 3_600_000 })
    }
    net.put(identity, topics.stdout, Kind.HEARTBEAT, encodeHeartbeat({ dueMs: 60_000 }))
    const { read } = net.memory.asked
    expect((await dial(net, id)).state).toBe('alive')
    expect(net.memory.asked.read - read).toBe(1)
  })

  test('a copy of a heartbeat does not bring back who has said goodbye', async () => {
    const net = new LedgerNet()
    const { id, signaling, topics } = await net.callee()
    await signaling.close()
    net.memory.put(topics.stdout, net.memory.entriesOf(topics.stdout)[0]!.message)
    expect((await dial(net, id)).state).toBe('offline')
    // Nor when the goodbye is too long ago to be looked at.
    vi.setSystemTime(Date.now() + 2 * 3_600_000)
    net.memory.put(topics.stdout, net.memory.entriesOf(topics.stdout)[0]!.message)
    expect((await dial(net, id)).outcome).toEqual(code('ERR_PEERLINE_OFFLINE'))
  })

  test('says what the ledger says when that cannot be read or written', async () => {
    const net = new LedgerNet()
    const { id } = await net.callee()
    net.memory.failNext('ERR_PEERLINE_PAYMENT')
    expect((await dial(net, id)).outcome).toEqual(code('ERR_PEERLINE_PAYMENT'))
    net.memory.unreachable = true
    expect((await dial(net, id)).outcome).toEqual(code('ERR_PEERLINE_UNREACHABLE'))
  })

  test('does not read pages for ever', async () => {
    const net = new LedgerNet()
    const { id } = await net.callee()
    vi.spyOn(net.memory, 'read').mockResolvedValue({ entries: [], next: 1 })
    expect((await dial(net, id)).outcome).toEqual(code('ERR_PEERLINE_LEDGER'))
  })

  test('says what is wrong when topics cannot be looked up', async () => {
    const caller = await new LedgerNet().open({
      topicsOf: () => Promise.reject(new PeerlineError('ERR_PEERLINE_LEDGER', 'no')),
    })
    const failed = caller.exchange(Identity.generate().peerId, bytes(16), bytes(), { signal })
    await expect(failed).rejects.toEqual(code('ERR_PEERLINE_LEDGER'))
  })

  test('looks no further when nobody waits any more', async () => {
    const net = new LedgerNet()
    const { id } = await net.callee()
    const caller = await net.open()
    const read = vi.spyOn(net.memory, 'read').mockImplementation(() => new Promise(() => {}))
    const cancel = new AbortController()
    const asking = caller.exchange(id, bytes(16), bytes(), { signal: cancel.signal }).catch((error) => error.code)
    await until(() => read.mock.calls.length === 1)
    cancel.abort()
    expect(await asking).toBe('ERR_PEERLINE_ABORTED')
    expect(read.mock.calls[0]![1].signal.aborted).toBe(true)
  })

  test('holds so many offers that wait', async () => {
    const net = new LedgerNet()
    const callees = [await net.callee(silent), await net.callee(silent)]
    const caller = await net.open()
    const cancel = new AbortController()
    setMaxListeners(0, cancel.signal)
    const all = Array.from({ length: 257 }, (_, at) =>
      caller.exchange(callees[at % 2]!.id, bytes(16), bytes(), { signal: cancel.signal }).catch((error) => error.code),
    )
    expect(await all[256]).toBe('ERR_PEERLINE_LIMIT')
    cancel.abort()
    expect(new Set(await Promise.all(all.slice(0, 256)))).toEqual(new Set(['ERR_PEERLINE_ABORTED']))
  })
})

describe('waiting for the answer', () => {
  /** An exchange that waits, with a callee that says nothing by itself. */
  async function waiting() {
    const net = new LedgerNet()
    const { id, identity, topics, signaling } = await net.callee(silent)
    const caller = await net.open()
    const offer = bytes()
    const accept = vi.fn((answer: Uint8Array) => answer[0] === 1)
    const outcome = caller.exchange(id, bytes(16), offer, { signal, accept }).catch((error: unknown) => error)
    await until(() => net.memory.entriesOf(topics.stdin).length === 1)
    return { net, id, identity, topics, signaling, caller, offer, accept, outcome }
  }

  test('goes on when the peer answers others, or what is none', async () => {
    const { net, identity, topics, offer, accept, outcome } = await waiting()
    const say = (payload: Uint8Array) =>
      net.put(identity, topics.stdout, Kind.ANSWER, payload, { sequence: Date.now() * 2 + sequence++ })
    let sequence = 0
    for (const payload of [bytes(0), bytes(15), encodeAnswer(bytes(16), Uint8Array.of(1))]) say(payload)
    say(encodeAnswer(tagOf(offer), Uint8Array.of(66)))
    say(encodeAnswer(tagOf(offer), Uint8Array.of(1, 2)))
    expect(await outcome).toEqual(Uint8Array.of(1, 2))
    expect(accept.mock.calls.map(([answer]) => answer)).toEqual([Uint8Array.of(66), Uint8Array.of(1, 2)])
  })

  test('looks at few answers to one offer, though the peer has signed each', async () => {
    const { net, identity, topics, offer, accept, outcome } = await waiting()
    for (let at = 0; at < 30; at++) {
      net.put(identity, topics.stdout, Kind.ANSWER, encodeAnswer(tagOf(offer), Uint8Array.of(66)), {
        sequence: Date.now() * 2 + at,
      })
    }
    expect(await outcome).toEqual(code('ERR_PEERLINE_TIMEOUT'))
    expect(accept).toHaveBeenCalledTimes(16)
  })

  test('ends with what the peer says on stderr of this offer, and of no other', async () => {
    const { net, topics, signaling, offer, outcome } = await waiting()
    const busy = { code: 'ERR_PEERLINE_BUSY', action: 'stop-sending', text: 'too much' } as const
    net.put(Identity.generate(), topics.stderr, Kind.TROUBLE, encodeTrouble({ ...busy, about: tagOf(offer) }))
    signaling.report(busy)
    signaling.report({ ...busy, about: bytes(16) })
    signaling.report({ code: 'ERR_PEERLINE_VERSION', action: 'upgrade', about: tagOf(offer) })
    expect(await outcome).toEqual(code('ERR_PEERLINE_VERSION'))
  })

  test('ends when the peer says goodbye', async () => {
    const { signaling, outcome } = await waiting()
    await signaling.close()
    expect(await outcome).toEqual(code('ERR_PEERLINE_OFFLINE'))
  })

  test('ends when the ledger contradicts itself', async () => {
    const { net, identity, topics, outcome } = await waiting()
    const read = net.put(identity, topics.stdout, 99, bytes())
    await pass(100)
    Object.assign(read, { message: bytes() })
    net.memory.disconnect()
    expect(await outcome).toEqual(code('ERR_PEERLINE_LEDGER'))
  })

  test('goes on when the ledger was away for a moment', async () => {
    const { net, identity, topics, offer, outcome } = await waiting()
    net.memory.disconnect()
    await pass(100)
    net.put(identity, topics.stdout, Kind.ANSWER, encodeAnswer(tagOf(offer), Uint8Array.of(1)), {
      sequence: Date.now() * 2,
    })
    expect(await outcome).toEqual(Uint8Array.of(1))
  })
})
