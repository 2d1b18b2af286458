import { createHash, randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Identity, openRecord, type PeerId, signRecord } from '../identity/index.ts'
import { Dht, type DhtEvents, type DhtOptions } from './dht.ts'
import { DHT_SALT, signDhtRecord, signedPart, targetOf } from './dht-item.ts'
import {
  anotherHost,
  bencode,
  compactNode,
  plainNode,
  plainNodes,
  type Question,
  ScriptedNode,
} from './private-dht.compliance.ts'

const HOUR_MS = 3_600_000
const coded = (code: string) => expect.objectContaining({ code })
const RENDEZVOUS = ['ws://192.0.2.1:4400#somebody']

const open: { close(): Promise<unknown> }[] = []
const opened = async <T extends { close(): Promise<unknown> }>(promise: Promise<T>): Promise<T> => {
  const one = await promise
  open.push(one)
  return one
}
afterEach(async () => {
  vi.useRealTimers()
  await Promise.all(open.splice(0).map((one) => one.close()))
})

const dht = (options: DhtOptions) => opened(Dht.open({ host: anotherHost(), ...options }))
const record = (identity: Identity, sequence: number, expiresAt = Date.now() + HOUR_MS) =>
  signRecord(identity, { sequence, expiresAt, rendezvous: RENDEZVOUS })

/** An item as a node answers it, with any part replaced. */
function item(
  identity: Identity,
  value: Uint8Array,
  { seq = openRecord(value).sequence, ...other }: { seq?: number; sig?: Uint8Array } = {},
) {
  return { k: identity.publicKey, seq, sig: identity.sign(signedPart(seq, value)), v: value, ...other }
}

/** A node that says `fields` to whoever gets anything, near to the record of a peer, or somewhere. */
const lying = (fields: (question: Question) => Record<string, number | Uint8Array>, near?: PeerId) => {
  const id = near === undefined ? randomBytes(20) : Buffer.concat([targetOf(near).subarray(0, 16), randomBytes(4)])
  return opened(
    ScriptedNode.open((question) =>
      question.method === 'get' ? { id, token: 'abcd', ...fields(question) } : { id, token: 'abcd', nodes: '' },
    ),
  )
}

/** The next event of this name. */
const event = <K extends keyof DhtEvents>(of: Dht, name: K) =>
  new Promise<DhtEvents[K]>((resolve) => of.addEventListener(name, ({ detail }) => resolve(detail), { once: true }))

test('nothing is left of a node that was closed', async () => {
  const turn = () => new Promise((resolve) => setImmediate(resolve))
  const resources = async () => {
    for (let i = 0; i < 3; i++) await turn() // what was closed is gone a little later
    return process
      .getActiveResourcesInfo()
      .filter((name) => /UDP|Timeout/.test(name))
      .sort()
  }
  const before = await resources()
  const identity = Identity.generate()
  const storing = await Dht.open({ bootstrap: [], host: anotherHost() })
  const silent = await ScriptedNode.open(() => undefined)
  const node = await Dht.open({ bootstrap: [storing.address, silent.at], host: anotherHost(), identity })
  await node.publish(record(identity, 1))
  const asked = silent.questions.length
  const joining = await Promise.all([0, 1, 2].map(() => Dht.open({ bootstrap: [silent.at], host: anotherHost() })))
  await vi.waitFor(() => expect(silent.questions.length).toBeGreaterThanOrEqual(asked + 3))
  const finding = node.find(Identity.generate().peerId)
  const publishing = node.publish(record(identity, 2))
  const outcomes = Promise.allSettled([finding, publishing])
  await Promise.all([node.close(), storing.close(), ...joining.map((one) => one.close()), silent.close()])
  for (const outcome of await outcomes) expect(outcome).toMatchObject({ reason: { code: 'ERR_PEERLINE_CLOSED' } })
  expect((await resources()).length).toBeLessThanOrEqual(before.length)
})

describe('in a DHT of 20 nodes', () => {
  let bootstrap: string[]

  beforeEach(async () => {
    const nodes = await plainNodes(20)
    open.push(...nodes)
    bootstrap = [nodes[0]!.at, nodes[7]!.at]
  })

  test('a record is published, and found from another node by the peer id alone', async () => {
    const identity = Identity.generate()
    const bytes = record(identity, 7)
    const publisher = await dht({ bootstrap, identity })
    const published = event(publisher, 'published')
    const count = await publisher.publish(bytes)
    expect(count).toBeGreaterThanOrEqual(8)
    expect(await published).toEqual({ sequence: 7, nodes: count })
    const finder = await dht({ bootstrap })
    expect(await finder.find(identity.peerId)).toEqual(openRecord(bytes))
    expect(finder.nodes).toBeGreaterThan(2)
  })

  test('the newer one wins, and an older one is not published over it', async () => {
    const identity = Identity.generate()
    const publisher = await dht({ bootstrap, identity })
    await publisher.publish(record(identity, 10))
    await publisher.publish(record(identity, 11))
    const finder = await dht({ bootstrap })
    expect(await finder.find(identity.peerId)).toMatchObject({ sequence: 11 })
    await expect(publisher.publish(record(identity, 9))).rejects.toEqual(coded('ERR_PEERLINE_INVALID'))
    // The same once more is no failure, though nodes refuse what they have.
    expect(await publisher.publish(record(identity, 11))).toBeGreaterThanOrEqual(8)
  })

  test('one that is over is not found', async () => {
    const identity = Identity.generate()
    const publisher = await dht({ bootstrap, identity })
    const finder = await dht({ bootstrap })
    const soon = Date.now() + 60_000
    await publisher.publish(record(identity, 1, soon))
    expect(await finder.find(identity.peerId)).toMatchObject({ expiresAt: soon })
    vi.useFakeTimers({ toFake: ['Date'], now: soon })
    expect(await finder.find(identity.peerId)).toBeUndefined()
    expect(await (await dht({ bootstrap })).find(identity.peerId)).toBeUndefined()
    await expect(publisher.publish(record(identity, 2, soon))).rejects.toEqual(coded('ERR_PEERLINE_EXPIRED'))
  })

  test('what nobody has published is undefined, well within the time', async () => {
    const finder = await dht({ bootstrap })
    const began = performance.now()
    expect(await finder.find(Identity.generate().peerId, { timeoutMs: 10_000 })).toBeUndefined()
    expect(performance.now() - began).toBeLessThan(5_000)
  })

  test('nodes that lie are passed over', async () => {
    const identity = Identity.generate()
    const mallory = Identity.generate()
    const value = record(identity, 5)
    await (await dht({ bootstrap, identity })).publish(value)
    const newer = record(identity, 6)
    const lies: (() => ReturnType<typeof item>)[] = [
      () => item(identity, newer, { sig: randomBytes(64) }),
      () => item(mallory, record(mallory, 9)),
      () => item(mallory, newer),
      // His own signature under the key that was asked for.
      () => ({ ...item(mallory, newer), k: identity.publicKey }),
      // A record that is signed under a sequence of another.
      () => item(identity, value, { seq: 99 }),
      () => item(identity, signRecord(identity, { sequence: 98, expiresAt: 1 }), { seq: 98 }),
    ]
    const liars = await Promise.all(lies.map((lie) => lying(lie, identity.peerId)))
    const places = liars.map(({ at }) => at)
    const finder = await dht({ bootstrap: [bootstrap[0]!, ...places] })
    expect(await finder.find(identity.peerId)).toMatchObject({ sequence: 5 })
    for (const liar of liars) expect(liar.questions.map(({ method }) => method)).toContain('get')
    expect(await (await dht({ bootstrap: places })).find(identity.peerId)).toBeUndefined()
  })
})

test('a search that is given up rejects at once, and asks nobody any more', async () => {
  const id = randomBytes(20)
  const farId = randomBytes(20)
  const far = await opened(ScriptedNode.open(() => ({ id: farId, token: 'a', nodes: '' })))
  const nodes = compactNode(farId, far.at)
  let slow = true
  const near = await opened(
    ScriptedNode.open(({ method }) => {
      if (method !== 'get') return { id, token: 'a', nodes: '' }
      return slow ? undefined : { id, token: 'a', nodes }
    }),
  )
  const gets = ({ questions }: ScriptedNode) => questions.filter(({ method }) => method === 'get')
  const finder = await dht({ bootstrap: [near.at] })
  const giveUp = new AbortController()
  const finding = finder.find(Identity.generate().peerId, { signal: giveUp.signal })
  await vi.waitFor(() => expect(gets(near)).toHaveLength(1))
  giveUp.abort()
  await expect(finding).rejects.toEqual(coded('ERR_PEERLINE_ABORTED'))
  near.answer(gets(near)[0]!, { id, token: 'a', nodes })
  slow = false
  const other = Identity.generate().peerId
  await finder.find(other)
  expect(gets(far).map(({ args }) => args.get('target'))).toEqual([targetOf(other)])
  const { signal } = giveUp
  await expect(finder.find(other, { signal })).rejects.toEqual(coded('ERR_PEERLINE_ABORTED'))
  slow = true
  await expect(finder.find(other, { signal: AbortSignal.timeout(50) })).rejects.toEqual(coded('ERR_PEERLINE_TIMEOUT'))
})

test('a record outlives the nodes that hold it, when it is published again', async () => {
  const first = await plainNodes(10)
  const identity = Identity.generate()
  let sequence = 0
  const publisher = await dht({ bootstrap: [first[0]!.at], identity, republishMs: 300 })
  await publisher.publish(() => record(identity, ++sequence))
  const second = await Promise.all((await plainNodes(10, [first[0]!.at])).map((node) => opened(Promise.resolve(node))))
  const before = sequence
  await vi.waitFor(() => expect(sequence).toBeGreaterThan(before + 1), { timeout: 10_000 })
  await Promise.all(first.map((node) => node.close()))
  const finder = await dht({ bootstrap: second.slice(0, 3).map(({ at }) => at) })
  expect(await finder.find(identity.peerId)).toMatchObject({ rendezvous: RENDEZVOUS })
  // And while half of them are dead, but still known to the others.
  const { nodes } = await event(publisher, 'published')
  expect(nodes).toBeGreaterThanOrEqual(5)
}, 30_000)

test('a record is put also at nodes that those which hold it do not name', async () => {
  const identity = Identity.generate()
  const value = record(identity, 1)
  const farId = randomBytes(20)
  const far = await opened(ScriptedNode.open(() => ({ id: farId, token: 'far', nodes: '' })))
  const id = randomBytes(20)
  const holder = await opened(
    ScriptedNode.open(({ method, args }) => {
      if (method === 'get') return { id, token: 'near', ...item(identity, value) }
      const about = Buffer.from((args.get('info_hash') ?? '') as Uint8Array)
      return { id, token: 'near', nodes: about.equals(targetOf(identity.peerId)) ? compactNode(farId, far.at) : '' }
    }),
  )
  const publisher = await dht({ bootstrap: [holder.at], identity })
  expect(await publisher.publish(value)).toBe(2)
  expect(far.questions.find(({ method }) => method === 'put')?.args.get('v')).toEqual(Buffer.from(value))
})

test('an older record is no answer once a newer one was seen', async () => {
  const identity = Identity.generate()
  let sequence = 2
  const node = await lying(() => item(identity, record(identity, sequence)))
  const finder = await dht({ bootstrap: [node.at] })
  expect(await finder.find(identity.peerId)).toMatchObject({ sequence: 2 })
  sequence = 1
  expect(await finder.find(identity.peerId)).toMatchObject({ sequence: 2 })
  sequence = 3
  expect(await finder.find(identity.peerId)).toMatchObject({ sequence: 3 })
})

test.each([
  { fast: 9, slow: 4 },
  { fast: 4, slow: 9 },
])('the newest of several answers wins, whoever is first: $fast, then $slow', async ({ fast, slow }) => {
  const identity = Identity.generate()
  const first = await lying(() => item(identity, record(identity, fast)))
  const id = randomBytes(20)
  const second: ScriptedNode = await opened(
    ScriptedNode.open((question) => {
      const what = question.method === 'get' ? item(identity, record(identity, slow)) : { nodes: '' }
      setTimeout(() => second.answer(question, { id, token: 'a', ...what }), 100)
      return undefined
    }),
  )
  const node = await dht({ bootstrap: [first.at, second.at], identity })
  expect(await node.find(identity.peerId)).toMatchObject({ sequence: 9 })
  await expect(node.publish(record(identity, 5))).rejects.toEqual(coded('ERR_PEERLINE_INVALID'))
})

describe('where nobody answers', () => {
  test('nothing is found, in time, and nothing published', async () => {
    const silent = await opened(ScriptedNode.open(() => undefined))
    const identity = Identity.generate()
    const node = await dht({ bootstrap: [silent.at], identity })
    const began = performance.now()
    expect(await node.find(identity.peerId, { timeoutMs: 200 })).toBeUndefined()
    expect(performance.now() - began).toBeLessThan(1_000)
    await expect(node.publish(record(identity, 1))).rejects.toEqual(coded('ERR_PEERLINE_UNREACHABLE'))
  })

  test('the first node of a DHT asks nobody, and finds what comes to it', async () => {
    const first = await dht({ bootstrap: [] })
    const identity = Identity.generate()
    expect(await first.find(identity.peerId)).toBeUndefined()
    const publisher = await dht({ bootstrap: [first.address], identity })
    expect(await publisher.publish(record(identity, 1))).toBe(1)
    expect(await first.find(identity.peerId)).toMatchObject({ sequence: 1 })
    expect(await (await dht({ bootstrap: [first.address] })).find(identity.peerId)).toMatchObject({ sequence: 1 })
  })

  test('a node whose network was away joins again', async () => {
    let answering = false
    const id = randomBytes(20)
    const identity = Identity.generate()
    const node = await opened(
      ScriptedNode.open(() => (answering ? { id, token: 'a', ...item(identity, record(identity, 1)) } : undefined)),
    )
    const finder = await dht({ bootstrap: [node.at] })
    expect(await finder.find(identity.peerId, { timeoutMs: 50 })).toBeUndefined()
    answering = true
    await vi.waitFor(async () => expect(await finder.find(identity.peerId)).toMatchObject({ sequence: 1 }), {
      timeout: 10_000,
    })
  })
})

describe('hostile nodes', () => {
  test('cannot stop a node, or take it from others, with any datagram', async () => {
    const identity = Identity.generate()
    const node = await dht({ bootstrap: [] })
    const [host = '', port] = node.address.split(':')
    const hostile = createSocket('udp4')
    const id = randomBytes(20)
    const query = (q: string, a: Parameters<typeof bencode>[0]) => bencode({ t: 'aa', y: 'q', q, a })
    // The library by itself throws on each of these.
    const killers = [
      query('get', { id, target: 5 }),
      query('find_node', { id, target: 'short' }),
      query('get_peers', { id, info_hash: ['x'] }),
      query('put', { id, token: 7, v: 'x' }),
      query('put', { id, token: 'abcd', v: 'x', sig: 'y' }),
      query('put', { id, token: 'abcd', v: 'x', k: 4, seq: 'z', sig: { a: 'b' } }),
      query('announce_peer', { id, info_hash: randomBytes(20), token: { a: 1 }, port: 5 }),
      bencode({ t: 'aa', y: { toString: 'x' }, q: 'ping' }),
      bencode({ t: 'aa', y: 'q', q: { toString: 1 }, a: { id } }),
      Buffer.from('d1:ad9:__proto__d1:a1:bee1:q4:ping1:t2:aa1:y1:qe'),
      Buffer.from('l'.repeat(2_000)),
      Buffer.alloc(2_000),
    ]
    const send = (bytes: Uint8Array) =>
      new Promise<void>((resolve) => hostile.send(bytes, Number(port), host, () => resolve()))
    for (let i = 0; i < 20; i++) {
      await Promise.all(killers.map(send))
      await vi.waitFor(() => expect(node.dropped).toBe((i + 1) * killers.length))
    }
    hostile.close()
    const publisher = await dht({ bootstrap: [node.address], identity })
    await publisher.publish(record(identity, 1))
    expect(await (await dht({ bootstrap: [node.address] })).find(identity.peerId)).toMatchObject({ sequence: 1 })
  })
})

describe('what may be published', () => {
  const identity = Identity.generate()
  const content = { sequence: 1, expiresAt: Date.now() + HOUR_MS, rendezvous: RENDEZVOUS, addresses: ['192.0.2.7:44'] }

  test.each([
    ['a record of another', () => record(Identity.generate(), 1), 'ERR_PEERLINE_INVALID'],
    ['a record with addresses', () => signRecord(identity, content), 'ERR_PEERLINE_INVALID'],
    ['one that is over', () => record(identity, 1, 1), 'ERR_PEERLINE_EXPIRED'],
    [
      'one that is too large',
      () => signRecord(identity, { ...content, addresses: [], relays: Array(8).fill('r'.repeat(200)) }),
      'ERR_PEERLINE_TOO_LARGE',
    ],
    ['no record', () => new Uint8Array(10), 'ERR_PEERLINE_RECORD'],
  ])('not %s', async (_, make, code) => {
    const node = await dht({ bootstrap: [], identity })
    await expect(node.publish(make())).rejects.toEqual(coded(code))
  })

  test('addresses only where that was wanted', async () => {
    const storing = await plainNode([])
    open.push(storing)
    const node = await dht({ bootstrap: [storing.at], identity, addresses: true })
    await node.publish(signDhtRecord(identity, content, { addresses: true }))
    const finder = await dht({ bootstrap: [storing.at] })
    expect(await finder.find(identity.peerId)).toMatchObject({ addresses: content.addresses })
  })

  test('nothing by nobody', async () => {
    const node = await dht({ bootstrap: [] })
    await expect(node.publish(record(identity, 1))).rejects.toEqual(coded('ERR_PEERLINE_INVALID'))
  })
})

describe('a node', () => {
  test('searches for 16 at once, and shares a search for the same', async () => {
    const silent = await opened(
      ScriptedNode.open(({ method }) => (method === 'get' ? undefined : { id: randomBytes(20) })),
    )
    const node = await dht({ bootstrap: [silent.at] })
    const peers = Array.from({ length: 16 }, () => Identity.generate().peerId)
    const finding = peers.map((peer) => node.find(peer, { timeoutMs: 1_500 }))
    const again = node.find(peers[3]!, { timeoutMs: 1_500 })
    await vi.waitFor(() => expect(silent.questions.filter(({ method }) => method === 'get').length).toBeGreaterThan(15))
    await expect(node.find(Identity.generate().peerId)).rejects.toEqual(coded('ERR_PEERLINE_LIMIT'))
    expect(await Promise.all([...finding, again])).toEqual(Array(17).fill(undefined))
  })

  test('takes nothing any more when it is closed, and ends what runs', async () => {
    const silent = await opened(ScriptedNode.open(() => undefined))
    const node = await Dht.open({ bootstrap: [silent.at], host: anotherHost() })
    const finding = node.find(Identity.generate().peerId)
    finding.catch(() => {})
    await node.close()
    await node.close()
    await expect(finding).rejects.toEqual(coded('ERR_PEERLINE_CLOSED'))
    await expect(node.find(Identity.generate().peerId)).rejects.toEqual(coded('ERR_PEERLINE_CLOSED'))
  })

  test('says what is wrong with its options', async () => {
    const taken = await dht({ bootstrap: [] })
    const [host = '', port] = taken.address.split(':')
    await expect(Dht.open({ bootstrap: [], host, port: Number(port) })).rejects.toEqual(
      coded('ERR_PEERLINE_ADDRESS_IN_USE'),
    )
    for (const options of [
      { bootstrap: ['192.0.2.1'] },
      { bootstrap: [':6881'] },
      { bootstrap: Array(9).fill('127.0.0.1:1') },
      { bootstrap: [], host: '192.0.2.99' },
      { bootstrap: [], host: 'localhost' },
      { bootstrap: [], port: 65_536 },
    ]) {
      await expect(Dht.open(options)).rejects.toEqual(coded('ERR_PEERLINE_INVALID'))
    }
  })

  test('names its package when that is missing', async () => {
    vi.resetModules()
    vi.doMock('bittorrent-dht', () => {
      throw new Error('Cannot find package')
    })
    const { Dht: Without } = await import('./dht.ts')
    await expect(Without.open({ bootstrap: [] })).rejects.toMatchObject({
      code: 'ERR_PEERLINE_UNSUPPORTED',
      recover: expect.stringContaining('npm install bittorrent-dht'),
    })
    vi.doUnmock('bittorrent-dht')
    vi.resetModules()
  })
})

test('the name of a record is that of BEP 44', () => {
  const identity = Identity.generate()
  const hash = createHash('sha1').update(identity.publicKey).update(DHT_SALT).digest()
  expect(Buffer.from(targetOf(identity.peerId))).toEqual(hash)
})
