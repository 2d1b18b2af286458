import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isPeerlineError } from '../errors.ts'
import { Identity, openRecord, type PeerId, signRecord, toDidKey } from '../identity/index.ts'
import { hostileJson } from './hostile-json.compliance.ts'
import { type DialSettings, MAX_TAGS } from './known-peer.ts'
import { KnownPeers, MAX_PEERS } from './known-peers.ts'

const PEERS = Array.from({ length: 6 }, () => Identity.generate().peerId)
const [ALICE, BOB] = PEERS as [PeerId, PeerId]
const invalid = expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' })
const limit = expect.objectContaining({ code: 'ERR_PEERLINE_LIMIT' })

/** A name that stands for a peer where nobody reads it as one. */
const nth = (n: number): PeerId => `peer ${n}` as PeerId
const clocked = (): KnownPeers => {
  let now = 1_000
  return new KnownPeers({ now: () => now++ })
}

/** What the book tells, as text. */
function told(book: KnownPeers): string[] {
  const lines: string[] = []
  book.addEventListener('add', ({ detail }) => lines.push(`add ${detail.peer}`))
  book.addEventListener('remove', ({ detail }) => lines.push(`remove ${detail.peer} ${detail.reason}`))
  book.addEventListener('change', ({ detail }) => lines.push(`change ${detail.peer} ${detail.what}`))
  book.addEventListener('load', ({ detail }) => lines.push(`load ${detail.peers}`))
  return lines
}

describe('the address book', () => {
  test('never learns the port that an inbound connection came from', () => {
    const book = clocked()
    book.learn(ALICE, ['192.0.2.1:4400'], 'told')
    book.connected(ALICE, { direction: 'in', address: '192.0.2.1:51234' })
    book.connected(BOB, { direction: 'in', address: '192.0.2.2:51235' })
    expect(book.addressesOf(ALICE)).toEqual(['192.0.2.1:4400'])
    expect(book.get(ALICE)?.addresses[0]).toEqual({ address: '192.0.2.1:4400', source: 'told', failures: 0 })
    expect(book.get(BOB)).toEqual({ id: BOB, tags: [], addresses: [], lastMet: 1_001 })
  })

  test('dials what worked first, and what failed last', () => {
    const book = clocked()
    book.give(ALICE, '192.0.2.1:4400')
    book.learn(ALICE, ['192.0.2.2:4400', '192.0.2.3:4400'], 'told')
    book.failed(ALICE, '192.0.2.1:4400')
    book.connected(ALICE, { direction: 'out', address: '192.0.2.3:4400' })
    book.connected(ALICE, { direction: 'out', address: '[::ffff:192.0.2.9]:4400' })
    book.connected(ALICE, { direction: 'out' }) // by a relay
    expect(book.addressesOf(ALICE)).toEqual(['192.0.2.9:4400', '192.0.2.3:4400', '192.0.2.2:4400', '192.0.2.1:4400'])
    expect(book.get(ALICE)?.addresses[0]?.source).toBe('dialled')
    expect(book.addressesOf(BOB)).toEqual([])
  })

  test('passes over what others tell that is no address', () => {
    const book = clocked()
    const nonsense = [
      '',
      'x',
      'home.example:1',
      '0.0.0.0:1',
      '[fe80::1%eth0]:1',
      '192.0.2.1:0',
      '\0:1',
      'a'.repeat(9_999),
    ]
    expect(book.learn(ALICE, nonsense, 'told')).toBe(0)
    expect(book.has(ALICE)).toBe(false)
    expect(book.learn(ALICE, [...nonsense, '192.0.2.1:1'], 'told')).toBe(1)
    // A zone is ours to say: what comes from the local network has the one that it came by.
    expect(book.learn(ALICE, nonsense, 'lan')).toBe(1)
    expect(book.learn(ALICE, ['home.example:1'], 'record')).toBe(1)
    const flood = Array.from({ length: 1_000 }, (_, n) => `192.0.2.7:${n + 1}`)
    expect(book.learn(BOB, flood, 'told')).toBe(16)
    expect(book.addressesOf(BOB)).toEqual(flood.slice(0, 16))
  })

  test('takes a peer id in each of its forms from the user, and nothing else', () => {
    const book = clocked()
    book.give(toDidKey(ALICE), '192.0.2.1:4400')
    expect(book.addressesOf(ALICE)).toEqual(['192.0.2.1:4400'])
    expect(() => book.give('somebody')).toThrow(invalid)
    expect(() => book.give(BOB, '192.0.2.1')).toThrow(invalid)
    expect(book.has(BOB)).toBe(false)
  })

  test('has names, notes and tags', () => {
    const book = clocked()
    book.describe(ALICE, { name: 'Älice', note: 'the one\nin the attic' })
    book.tag(ALICE, 'friend')
    book.tag(ALICE, 'club')
    expect(book.get(ALICE)).toMatchObject({ name: 'Älice', note: 'the one\nin the attic', tags: ['club', 'friend'] })
    expect([book.untag(ALICE, 'friend'), book.untag(BOB, 'friend')]).toEqual([true, false])
    book.describe(ALICE, { note: '' })
    expect(book.get(ALICE)).toEqual({ id: ALICE, name: 'Älice', tags: ['club'], addresses: [] })
  })

  test.each(['', ' x', 'x'.repeat(65), 'two\nlines', 'turned \u202eround', 'in\u200bvisible', '\ud800'])(
    'has no peer and no tag called %j',
    (text) => {
      const book = clocked()
      if (text !== '') expect(() => book.describe(ALICE, { name: text })).toThrow(invalid)
      expect(() => book.tag(ALICE, text)).toThrow(invalid)
      expect(book.size).toBe(0)
    },
  )

  test('says how a peer is dialled, and takes it back', () => {
    const book = clocked()
    const relay = { url: 'ws://192.0.2.1:4400#x', exclusive: true }
    book.prefer(ALICE, { via: 'direct', relay })
    expect(book.settingsOf(ALICE)).toEqual({ via: 'direct', relay })
    expect(book.settingsOf(BOB)).toEqual({})
    const next = clocked()
    next.load(JSON.parse(JSON.stringify(book.export())))
    expect(next.settingsOf(ALICE)).toEqual({ via: 'direct', relay })
    next.prefer(ALICE, {})
    expect(next.get(ALICE)).toEqual({ id: ALICE, tags: [], addresses: [] })
    for (const wrong of [{ via: 'pigeon' }, { relay: { url: '' } }, { relay: { url: 'x'.repeat(401) } }]) {
      expect(() => book.prefer(ALICE, wrong as DialSettings)).toThrow(invalid)
      expect(() => book.load([{ id: ALICE, tags: [], addresses: [], dial: wrong }])).toThrow(invalid)
    }
  })

  test('gives a peer at most 32 tags', () => {
    const book = clocked()
    for (let n = 0; n < MAX_TAGS; n++) book.tag(ALICE, `tag-${n}`)
    book.tag(ALICE, 'tag-0')
    expect(() => book.tag(ALICE, 'one-more')).toThrow(limit)
    expect(book.get(ALICE)?.tags).toHaveLength(MAX_TAGS)
  })

  test('knows from a record where its peer is, and where to ask for it', () => {
    const book = clocked()
    const lines = told(book)
    const identity = Identity.generate()
    const { peerId } = identity
    const rendezvous = [`ws://192.0.2.9:4400#${ALICE}`]
    const topics = ['hedera:testnet/in=0.0.1', 'hedera:testnet/out=0.0.2']
    const told1 = { addresses: ['peer.example:4400'], rendezvous, topics: [...topics, 'no topic', topics[0]!] }
    const recordOf = (content: object, sequence: number) =>
      openRecord(signRecord(identity, { ...content, sequence, expiresAt: Date.now() + 60_000 }))
    const first = recordOf(told1, 1)
    book.learnRecord(first)
    book.learnRecord(first)
    expect(book.addressesOf(peerId)).toEqual(['peer.example:4400'])
    expect(book.get(peerId)).toMatchObject({ rendezvous, topics })
    expect([book.rendezvousOf(peerId), book.topicsOf(peerId)]).toEqual([rendezvous, topics])
    expect(lines).toEqual(
      ['add', 'change addresses', 'change rendezvous', 'change topics'].map((line) => {
        const [what, of] = line.split(' ')
        return [what, peerId, of].join(' ').trim()
      }),
    )
    // What a later one does not tell, stays; what it tells, takes the place of that.
    book.learnRecord(recordOf({ topics: Array.from({ length: 20 }, (_, n) => `l/in=${n}`) }, 2))
    expect(book.get(peerId)).toMatchObject({ rendezvous })
    expect(book.topicsOf(peerId)).toEqual(Array.from({ length: 12 }, (_, n) => `l/in=${n}`))
    expect(book.topicsOf(BOB)).toEqual([])
  })

  test('is not told by an old record what a newer one has told otherwise', () => {
    const identity = Identity.generate()
    const { peerId } = identity
    const book = clocked()
    const learn = (sequence: number, rendezvous: string, address: string) => {
      const content = { sequence, expiresAt: Date.now() + 60_000, rendezvous: [rendezvous], addresses: [address] }
      book.learnRecord(openRecord(signRecord(identity, content)))
    }
    learn(2, 'ws://new:1', '192.0.2.2:1')
    learn(1, 'ws://old:1', '192.0.2.1:1')
    expect(book.rendezvousOf(peerId)).toEqual(['ws://new:1'])
    expect(book.addressesOf(peerId)).toEqual(['192.0.2.2:1'])
    learn(3, 'ws://newest:1', '192.0.2.3:1')
    expect(book.rendezvousOf(peerId)).toEqual(['ws://newest:1'])
  })

  test('knows whether somebody was met who may be where that was', () => {
    const book = clocked()
    book.learn(BOB, ['192.0.2.1:1'], 'told')
    book.connected(ALICE, { direction: 'in' })
    expect(book.hasMet(PEERS[2]!)).toBe(false)
    book.connected(BOB, { direction: 'in' })
    expect([book.hasMet(PEERS[2]!), book.hasMet(BOB)]).toEqual([true, false])
    book.connected(PEERS[3]!, { direction: 'out', address: '192.0.2.1:2' })
    expect(book.met(PEERS[2]!)).toEqual([PEERS[3], BOB])
    expect(book.met(PEERS[3]!)).toEqual([BOB])
  })

  test('tells what changes, and nothing when nothing does', () => {
    const book = clocked()
    const lines = told(book)
    book.give(ALICE, '192.0.2.1:1')
    book.give(ALICE, '192.0.2.1:1')
    book.learn(ALICE, ['192.0.2.1:1'], 'told')
    book.failed(ALICE, '192.0.2.1:1')
    book.failed(ALICE, '192.0.2.1:2')
    book.failed(BOB, '192.0.2.1:1')
    book.connected(ALICE, { direction: 'in' })
    book.tag(ALICE, 'x')
    book.tag(ALICE, 'x')
    book.forget(ALICE, '192.0.2.1:1')
    book.forget(ALICE, '192.0.2.1:1')
    book.forget(ALICE)
    book.forget(ALICE)
    expect(lines.map((line) => line.replace(ALICE, 'ALICE'))).toEqual([
      'add ALICE',
      'change ALICE addresses',
      'change ALICE addresses',
      'change ALICE met',
      'change ALICE tags',
      'change ALICE addresses',
      'remove ALICE forgotten',
    ])
  })
})

describe('a full address book', () => {
  /** `count` peers that were heard of. */
  function filled(count: number): KnownPeers {
    const book = clocked()
    for (let n = 0; n < count; n++) book.learn(nth(n), ['192.0.2.1:1'], 'lan')
    return book
  }

  test('drops who was touched longest ago, of those nobody has met', () => {
    const book = filled(MAX_PEERS)
    book.connected(nth(0), { direction: 'in' })
    book.learn(nth(1), ['192.0.2.1:2'], 'lan')
    const lines = told(book)
    book.learn(nth(-1), ['192.0.2.1:1'], 'lan')
    expect(lines).toEqual(['remove peer 2 full', 'add peer -1', 'change peer -1 addresses'])
    expect(book.size).toBe(MAX_PEERS)
  })

  test('keeps whom we met while strangers call out names', () => {
    const book = filled(MAX_PEERS)
    for (let n = 0; n < 10; n++) book.connected(nth(n), { direction: 'out', address: '192.0.2.1:1' })
    for (let n = 0; n < 2 * MAX_PEERS; n++) book.learn(nth(-1 - n), ['192.0.2.1:1'], 'lan')
    expect(Array.from({ length: 10 }, (_, n) => book.has(nth(n)))).not.toContain(false)
    expect(book.size).toBe(MAX_PEERS)
  })

  test('drops whom we met longest ago when it knows no others', () => {
    const book = clocked()
    for (let n = 0; n < MAX_PEERS; n++) book.connected(nth(n), { direction: 'in' })
    book.connected(nth(-1), { direction: 'in' })
    expect([book.has(nth(0)), book.has(nth(1)), book.has(nth(-1))]).toEqual([false, true, true])
  })

  test('never drops whom the user has marked', () => {
    const book = clocked()
    book.load(PEERS.map((id) => ({ id, tags: [], addresses: [] })))
    book.tag(PEERS[0]!, 'x')
    book.describe(PEERS[1]!, { note: 'y' })
    book.describe(PEERS[2]!, { name: 'x' })
    book.describe(PEERS[3]!, { note: 'x' })
    book.give(PEERS[4]!, '192.0.2.1:1')
    for (let n = 0; n < MAX_PEERS; n++) book.learn(nth(n), ['192.0.2.1:1'], 'lan')
    expect(PEERS.map((peer) => book.has(peer))).toEqual([true, true, true, true, true, false])
    book.untag(PEERS[0]!, 'x')
    for (let n = 0; n < MAX_PEERS; n++) book.learn(nth(-n), ['192.0.2.1:1'], 'lan')
    expect(book.has(PEERS[0]!)).toBe(false)
  })
})

/** A book after some of everything has happened to it. */
const books = fc
  .array(
    fc.record({
      what: fc.constantFrom(
        'told',
        'lan',
        'urls',
        'topics',
        'given',
        'in',
        'out',
        'failed',
        'tag',
        'name',
        'note',
        'dial',
        'forget',
      ),
      peer: fc.constantFrom(...PEERS),
      n: fc.integer({ min: 1, max: 20 }),
      text: fc.constantFrom('a', 'B', 'ünï', 'z z'),
    }),
    { maxLength: 80 },
  )
  .map((steps) => {
    const book = clocked()
    for (const { what, peer, n, text } of steps) {
      const address = `192.0.2.${n}:4400`
      if (what === 'told' || what === 'lan') book.learn(peer, [address], what)
      else if (what === 'urls') book.learnRendezvous(peer, [`ws://${address}#${peer}`])
      else if (what === 'topics') book.learnTopics(peer, [`log:1/in=${n}`, `log:1/out=${n}`])
      else if (what === 'given') {
        if (book.get(peer)?.addresses.length !== 16) book.give(peer, address)
      } else if (what === 'in' || what === 'out') book.connected(peer, { direction: what, address })
      else if (what === 'failed') book.failed(peer, address)
      else if (what === 'tag') book.tag(peer, text)
      else if (what === 'dial') book.prefer(peer, n % 2 === 0 ? { via: 'relay' } : {})
      else if (what === 'forget') book.forget(peer)
      else book.describe(peer, { [what]: text })
    }
    return book
  })

describe('an exported address book', () => {
  test('is the same when it is loaded, order and all', () => {
    fc.assert(
      fc.property(books, (book) => {
        const json = JSON.stringify(book.export())
        const copy = clocked()
        copy.give(ALICE) // what was there before is not there any more
        copy.load(JSON.parse(json))
        expect(copy.export()).toStrictEqual(JSON.parse(json))
        expect(copy.export()).toStrictEqual(book.export())
      }),
      { numRuns: 200 },
    )
  })

  test('that somebody had a hand in is refused as a whole, or is right', () => {
    const hostile = books.chain((book) => hostileJson(JSON.parse(JSON.stringify(book.export()))))
    let refused = 0
    fc.assert(
      fc.property(hostile, (json) => {
        const book = clocked()
        book.tag(ALICE, 'kept')
        const before = book.export()
        try {
          book.load(json)
        } catch (error) {
          refused++
          expect(isPeerlineError(error) && error.code).toBe('ERR_PEERLINE_INVALID')
          expect(book.export()).toEqual(before)
          return
        }
        const copy = clocked()
        copy.load(JSON.parse(JSON.stringify(book.export())))
        expect(copy.export()).toEqual(book.export())
      }),
      { numRuns: 500 },
    )
    expect(refused).toBeGreaterThan(100)
  })

  const entry = { id: ALICE, tags: [], addresses: [] }
  const known = { address: '192.0.2.1:1', source: 'told', failures: 0 }
  test.each([
    ['more peers than may be', Array.from({ length: MAX_PEERS + 1 }, () => entry)],
    ['a peer twice', [entry, entry]],
    ['a peer in another form', [{ ...entry, id: toDidKey(ALICE) }]],
    ['no peer', [{ ...entry, id: 'x'.repeat(52) }]],
    ['an address twice', [{ ...entry, addresses: [known, known] }]],
    ['an address in another form', [{ ...entry, addresses: [{ ...known, address: '[::FFFF:192.0.2.1]:1' }] }]],
    [
      '17 addresses',
      [{ ...entry, addresses: Array.from({ length: 17 }, (_, n) => ({ ...known, address: `a:${n + 1}` })) }],
    ],
    [
      'addresses out of order',
      [
        {
          ...entry,
          addresses: [
            { ...known, failures: 1, lastFailure: 1 },
            { ...known, address: '192.0.2.2:1' },
          ],
        },
      ],
    ],
    ['a failure that never was', [{ ...entry, addresses: [{ ...known, failures: 1 }] }]],
    ['tags out of order', [{ ...entry, tags: ['b', 'a'] }]],
    ['a tag twice', [{ ...entry, tags: ['a', 'a'] }]],
    ['33 tags', [{ ...entry, tags: Array.from({ length: 33 }, (_, n) => `${n + 100}`) }]],
    ['a rendezvous twice', [{ ...entry, rendezvous: ['ws://a:1#b', 'ws://a:1#b'] }]],
    ['a rendezvous that is none', [{ ...entry, rendezvous: ['a:1'] }]],
    ['a topic twice', [{ ...entry, topics: ['l/in=1', 'l/in=1'] }]],
    ['a topic of nothing', [{ ...entry, topics: ['l/in'] }]],
    ['a topic that is too long', [{ ...entry, topics: [`l/in=${'1'.repeat(128)}`] }]],
    ['13 topics', [{ ...entry, topics: Array.from({ length: 13 }, (_, n) => `l/in=${n}`) }]],
    ['no list', { 0: entry }],
    ['a prototype for an entry', JSON.parse(`[{ "__proto__": ${JSON.stringify(entry)} }]`)],
  ])('is refused with %s', (_, json) => {
    expect(() => clocked().load(json)).toThrow(invalid)
  })
})
