import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Identity, signRecord } from '../identity/index.ts'
import { ConsensusClock } from './clock.ts'
import { Kind, sealMessage } from './envelope.ts'
import { MemoryLedger } from './memory-ledger.compliance.ts'
import { Registry, type RegistryOptions } from './registry.ts'
import { namedTopics, topicEntries, topicsOf } from './topics.ts'

const TOPIC = 'registry'
const DAY = 86_400_000
const T0 = Date.UTC(2026, 0, 1)
const signal = new AbortController().signal
const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })

let ledger: MemoryLedger
const open: Registry[] = []

beforeEach(() => {
  vi.useFakeTimers({ now: T0 })
  ledger = new MemoryLedger()
})
afterEach(async () => {
  for (const registry of open.splice(0)) await registry.close()
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

function join(identity?: Identity, options: Partial<RegistryOptions> = {}): Registry {
  const clock = new ConsensusClock({ now: Date.now, wall: Date.now })
  const registry = new Registry({
    ledger,
    topic: TOPIC,
    clock,
    ...(identity === undefined ? {} : { identity }),
    ...options,
  })
  open.push(registry)
  return registry
}

/** What the ledger does not do by itself: time passes. */
async function within<T>(work: Promise<T>): Promise<T> {
  let over = false
  const done = () => {
    over = true
  }
  work.then(done, done)
  while (!over) await vi.advanceTimersByTimeAsync(10)
  return work
}

const contentOf = ({ peerId }: Identity) => ({ topics: topicEntries(namedTopics(ledger.id, peerId)) })
const find = (registry: Registry, { peerId }: Identity) => within(registry.find(peerId, { signal }))

/** Puts a record there as its peer would, or as somebody else. */
function put(
  identity: Identity,
  sequence: number,
  { by = identity, expiresAt = Date.now() + DAY, addresses = [] as string[] } = {},
) {
  const payload = signRecord(identity, { sequence, expiresAt, addresses })
  const message = { ledger: ledger.id, topic: TOPIC, sequence: Date.now() + sequence, kind: Kind.RECORD, payload }
  ledger.put(TOPIC, sealMessage(by, message))
}

describe('a registry', () => {
  test('says what the topics of a peer are, those published before and after it was opened', async () => {
    const [early, late] = [Identity.generate(), Identity.generate()]
    await within(join(early).publish(contentOf(early), { signal }))
    const reader = join()
    const topics = async ({ peerId }: Identity) => {
      const record = await within(reader.find(peerId, { signal }))
      return record && topicsOf(record, ledger.id)
    }
    expect(await topics(early)).toEqual(namedTopics(ledger.id, early.peerId))
    expect(await topics(late)).toBeUndefined()
    await within(join(late).publish(contentOf(late), { signal }))
    expect(await topics(late)).toEqual(namedTopics(ledger.id, late.peerId))
  })

  test('knows hundreds, more than a page of the ledger has', async () => {
    const peers = Array.from({ length: 250 }, () => Identity.generate())
    for (const peer of peers) put(peer, 1)
    const registry = join()
    expect((await find(registry, peers[0]!))?.peerId).toBe(peers[0]!.peerId)
    expect((await find(registry, peers[249]!))?.peerId).toBe(peers[249]!.peerId)
    expect(registry.size).toBe(250)
  })

  test('goes by the highest sequence, and by what the peer itself has put there', async () => {
    const [peer, other] = [Identity.generate(), Identity.generate()]
    for (const sequence of [3, 5, 4]) put(peer, sequence, { addresses: [`192.0.2.${sequence}:1`] })
    put(peer, 9, { by: other, addresses: ['192.0.2.9:1'] })
    expect(await find(join(), peer)).toMatchObject({ sequence: 5, addresses: ['192.0.2.5:1'] })
  })

  test('passes over records that are none, and works on', async () => {
    const peer = Identity.generate()
    const place = { ledger: ledger.id, topic: TOPIC }
    ledger.put(TOPIC, new Uint8Array(200))
    ledger.put(TOPIC, sealMessage(peer, { ...place, sequence: 1, kind: Kind.RECORD, payload: new Uint8Array(50) }))
    ledger.put(TOPIC, sealMessage(peer, { ...place, sequence: 2, kind: 99, payload: new Uint8Array(50) }))
    const registry = join()
    expect(await find(registry, peer)).toBeUndefined()
    ledger.put(TOPIC, sealMessage(peer, { ...place, sequence: 3, kind: Kind.RECORD, payload: new Uint8Array(50) }))
    put(peer, 4)
    await vi.advanceTimersByTimeAsync(1)
    expect(await find(registry, peer)).toMatchObject({ sequence: 4 })
  })

  test('forgets what has expired', async () => {
    const peer = Identity.generate()
    put(peer, 1)
    const registry = join()
    expect(await find(registry, peer)).toBeDefined()
    await vi.advanceTimersByTimeAsync(DAY + 60_000) // and as far as the clocks may have drifted apart
    expect(await find(registry, peer)).toBeUndefined()
    put(peer, 2, { expiresAt: Date.now() - 60_000 })
    await vi.advanceTimersByTimeAsync(1)
    expect(await find(registry, peer)).toBeUndefined()
  })

  test('flooded with peers that are none keeps those that were asked for', async () => {
    const [wanted, other] = [Identity.generate(), Identity.generate()]
    put(wanted, 1)
    put(other, 1)
    const registry = join(undefined, { maxOthers: 5 })
    expect(await find(registry, wanted)).toBeDefined()
    for (let at = 0; at < 20; at++) put(Identity.generate(), 1)
    put(wanted, 2)
    await vi.advanceTimersByTimeAsync(1)
    expect(await find(registry, wanted)).toMatchObject({ sequence: 2 })
    expect(await find(registry, other)).toBeUndefined()
    expect(registry.size).toBe(7)
  })

  test('comes back when the ledger was away, and tells of it', async () => {
    const peer = Identity.generate()
    put(peer, 1)
    ledger.unreachable = true
    const onError = vi.fn()
    const registry = join(undefined, { onError })
    const finding = registry.find(peer.peerId, { signal })
    await vi.advanceTimersByTimeAsync(2_000)
    expect(onError).toHaveBeenCalledWith(code('ERR_PEERLINE_UNREACHABLE'))
    ledger.unreachable = false
    expect(await within(finding)).toMatchObject({ sequence: 1 })
  })

  test('is not waited for any longer than the signal says, nor when it is closed', async () => {
    ledger.unreachable = true
    const registry = join()
    const cancel = new AbortController()
    const peer = Identity.generate().peerId
    const given = expect(registry.find(peer, { signal: cancel.signal })).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
    cancel.abort()
    await given
    const closed = expect(registry.find(peer, { signal })).rejects.toEqual(code('ERR_PEERLINE_CLOSED'))
    await registry.close()
    await closed
  })

  test('whose ledger contradicts itself says so from then on', async () => {
    const peer = Identity.generate()
    put(peer, 1)
    put(peer, 2)
    const registry = join()
    expect(await find(registry, peer)).toBeDefined()
    put(peer, 3)
    await vi.advanceTimersByTimeAsync(1)
    ledger.entriesOf(TOPIC)[2] = { ...ledger.entriesOf(TOPIC)[2]!, message: new Uint8Array(9) }
    ledger.disconnect()
    await vi.advanceTimersByTimeAsync(5_000)
    await expect(find(registry, peer)).rejects.toEqual(code('ERR_PEERLINE_LEDGER'))
  })
})

test('a ledger whose pages never end is not read for ever', async () => {
  const read = vi.spyOn(ledger, 'read').mockResolvedValue({ entries: [], next: 1 })
  await expect(find(join(), Identity.generate())).rejects.toEqual(code('ERR_PEERLINE_LEDGER'))
  expect(read).toHaveBeenCalledTimes(1)
})

describe('publishing', () => {
  test('writes when the content has changed, and not when it stands already, be it from an earlier run', async () => {
    const me = Identity.generate()
    const first = join(me)
    await within(first.publish(contentOf(me), { signal }))
    await within(first.publish(contentOf(me), { signal }))
    expect(ledger.asked.append).toBe(1)
    await first.close()
    const again = join(me)
    await within(again.publish(contentOf(me), { signal }))
    expect(ledger.asked.append).toBe(1)
    await within(again.publish({ ...contentOf(me), addresses: ['192.0.2.1:1'] }, { signal }))
    expect(ledger.asked.append).toBe(2)
    expect(await find(join(), me)).toMatchObject({ addresses: ['192.0.2.1:1'] })
  })

  test('is done again before the record expires', async () => {
    const me = Identity.generate()
    const registry = join(me)
    await within(registry.publish(contentOf(me), { signal }))
    for (let day = 0; day < 40; day++) {
      await vi.advanceTimersByTimeAsync(DAY)
      expect((await find(registry, me))?.expiresAt).toBeGreaterThan(Date.now() + 14 * DAY)
    }
    expect(ledger.asked.append).toBe(3)
  })

  test('is not done again because others have filled the topic', async () => {
    const me = Identity.generate()
    const registry = join(me, { maxOthers: 5 })
    await within(registry.publish(contentOf(me), { signal }))
    for (let at = 0; at < 6; at++) put(Identity.generate(), 1, { expiresAt: Date.now() + 20 * DAY })
    await vi.advanceTimersByTimeAsync(DAY)
    expect(ledger.asked.append).toBe(1)
  })

  test('that fails later is told of, and tried again', async () => {
    const me = Identity.generate()
    const onError = vi.fn()
    const registry = join(me, { onError })
    await within(registry.publish(contentOf(me), { signal }))
    ledger.failNext('ERR_PEERLINE_PAYMENT')
    await vi.advanceTimersByTimeAsync(16 * DAY)
    expect(onError).toHaveBeenCalledTimes(1)
    expect(onError).toHaveBeenCalledWith(code('ERR_PEERLINE_PAYMENT'))
    expect((await find(registry, me))?.expiresAt).toBeGreaterThan(Date.now() + 28 * DAY)
  })

  test('fails typed where there is no identity, and where the record does not fit', async () => {
    const me = Identity.generate()
    await expect(within(join().publish({}, { signal }))).rejects.toEqual(code('ERR_PEERLINE_INVALID'))
    const addresses = Array.from({ length: 16 }, () => 'x'.repeat(100))
    await expect(within(join(me).publish({ addresses }, { signal }))).rejects.toEqual(code('ERR_PEERLINE_TOO_LARGE'))
  })
})
