import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { hostileJson } from '../discovery/hostile-json.compliance.ts'
import { isPeerlineError } from '../errors.ts'
import { Identity, type PeerId, toDidKey } from '../identity/index.ts'
import { Bans, MAX_BANS } from './bans.ts'

const ALICE = Identity.generate().peerId
const BOB = Identity.generate().peerId
const invalid = expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' })
const limit = expect.objectContaining({ code: 'ERR_PEERLINE_LIMIT' })

const START = 1_000_000

function clocked() {
  let at = START
  const bans = new Bans({ now: () => at })
  const lines: string[] = []
  bans.addEventListener('ban', ({ detail: { ban } }) => lines.push(`ban ${ban.target}`))
  bans.addEventListener('unban', ({ detail: { ban, reason } }) => lines.push(`unban ${ban.target} ${reason}`))
  return {
    bans,
    lines,
    advance: (ms: number) => {
      at += ms
    },
  }
}

/** The number of an IPv4 address. */
const ipv4 = (n: number): string => [24, 16, 8, 0].map((shift) => (n >>> shift) & 0xff).join('.')

describe('a ban of a peer', () => {
  test('shuts it out in every form of its id, and no other', () => {
    const { bans } = clocked()
    bans.ban(toDidKey(ALICE), { why: 'spam' })
    expect([bans.isBanned(ALICE), bans.isBanned(BOB)]).toEqual([true, false])
    expect(bans.banOf(ALICE)).toEqual({ target: ALICE, kind: 'peer', since: START, why: 'spam' })
    expect(bans.unban(toDidKey(ALICE))).toBe(true)
    expect([bans.isBanned(ALICE), bans.unban(ALICE)]).toEqual([false, false])
  })

  test('is over at its time, whether or not anybody looks after it', () => {
    const { bans, lines, advance } = clocked()
    bans.ban(ALICE, { until: START + 100 })
    bans.ban(BOB, { until: START + 200 })
    advance(99)
    expect(bans.isBanned(ALICE)).toBe(true)
    advance(1)
    expect([bans.isBanned(ALICE), bans.isBanned(BOB)]).toEqual([false, true])
    expect(bans.list().map(({ target }) => target)).toEqual([BOB])
    expect(bans.toJSON()).toEqual([{ target: BOB, since: START, until: START + 200 }])
    bans.expire()
    expect([bans.size, bans.unban(ALICE)]).toEqual([1, false])
    advance(100)
    expect(bans.unban(BOB)).toBe(false) // it was over
    expect(lines).toEqual([`ban ${ALICE}`, `ban ${BOB}`, `unban ${ALICE} expired`, `unban ${BOB} expired`])
  })

  test('is replaced by another, also by a shorter one', () => {
    const { bans, lines, advance } = clocked()
    bans.ban(ALICE)
    bans.ban(ALICE, { until: START + 5 })
    expect([bans.size, lines]).toEqual([1, [`ban ${ALICE}`, `ban ${ALICE}`]])
    advance(5)
    expect(bans.isBanned(ALICE)).toBe(false)
  })
})

describe('a ban of addresses', () => {
  test.each<[string, string, readonly string[], readonly string[]]>([
    [
      '192.0.2.7',
      '192.0.2.7/32',
      ['192.0.2.7', '::ffff:192.0.2.7', '64:ff9b::192.0.2.7'],
      ['192.0.2.6', '::192.0.2.7'],
    ],
    ['192.0.2.200/24', '192.0.2.0/24', ['192.0.2.0', '192.0.2.255'], ['192.0.1.255', '192.0.3.0']],
    ['10.128.0.0/9', '10.128.0.0/9', ['10.128.0.1', '10.255.255.255'], ['10.127.255.255', '11.128.0.0']],
    ['0.0.0.0/0', '0.0.0.0/0', ['1.2.3.4', '::ffff:1.2.3.4'], ['::1', '2001:db8::1']],
    ['::ffff:10.0.0.0/104', '10.0.0.0/8', ['10.9.9.9', '::ffff:10.9.9.9'], ['11.0.0.0', '::a00:1']],
    ['2001:DB8::1', '2001:db8::1/128', ['2001:db8::1', '2001:db8::1%eth0'], ['2001:db8::2']],
    ['2001:db8:0:ff::/56', '2001:db8::/56', ['2001:db8:0:1::9', '2001:db8:0:ff::'], ['2001:db8:0:100::']],
    ['::/0', '::/0', ['::1', '2001:db8::1', '64:ff9b::1.2.3.4'], ['1.2.3.4', '::ffff:1.2.3.4']],
    ['64:ff9b::/96', '64:ff9b::/96', ['64:ff9b::1.2.3.4'], ['1.2.3.4']],
  ])('of %s is one of %s', (text, target, inside, outside) => {
    const { bans } = clocked()
    expect(bans.ban(text)).toEqual({ target, kind: 'address', since: START })
    for (const host of inside) expect([host, bans.isBannedAddress(host)]).toEqual([host, true])
    for (const host of outside) expect([host, bans.isBannedAddress(host)]).toEqual([host, false])
    expect(bans.unban(target)).toBe(true)
    for (const host of inside) expect(bans.isBannedAddress(host)).toBe(false)
  })

  test('of a narrower prefix is told first, and one does not lift the other', () => {
    const { bans, advance } = clocked()
    bans.ban('10.1.0.0/16', { until: START + 10 })
    bans.ban('10.0.0.0/8')
    expect(bans.banOfAddress('10.1.2.3')?.target).toBe('10.1.0.0/16')
    advance(10)
    expect(bans.banOfAddress('10.1.2.3')?.target).toBe('10.0.0.0/8')
    bans.unban('10.1.0.0/16')
    expect(bans.isBannedAddress('10.1.2.3')).toBe(true)
    expect(bans.unban('10.1.2.3')).toBe(false)
  })

  test('holds for exactly the addresses that share its bits', () => {
    const any = fc.integer({ min: 0, max: 0xffffffff })
    const prefixes = fc.array(fc.tuple(any, fc.integer({ min: 0, max: 32 })), { maxLength: 12 })
    // addresses near a prefix: one of its bits is another
    const near = fc.tuple(fc.nat(), fc.nat(31))
    fc.assert(
      fc.property(prefixes, any, near, (list, random, [pick, bit]) => {
        const { bans } = clocked()
        for (const [n, bits] of list) bans.ban(`${ipv4(n)}/${bits}`)
        const chosen = list[pick % Math.max(1, list.length)]
        for (const address of [random, ...(chosen === undefined ? [] : [chosen[0], chosen[0] ^ (1 << bit)])]) {
          const shared = list.some(([n, bits]) => bits === 0 || (n ^ address) >>> (32 - bits) === 0)
          expect(bans.isBannedAddress(ipv4(address >>> 0))).toBe(shared)
        }
      }),
      { numRuns: 500 },
    )
  })

  test.each([
    '',
    'nobody',
    'example.com',
    '192.0.2.0/33',
    '2001:db8::/129',
    '192.0.2.0/',
    '192.0.2.0/-1',
    '1.2.3/8',
    'fe80::1%eth0',
    '192.0.2.1:80',
    '192.0.2.0/24/24',
    'did:key:x',
    'y'.repeat(52),
    'x'.repeat(9_999),
  ])('cannot be of %j', (text) => {
    const { bans } = clocked()
    expect(() => bans.ban(text)).toThrow(invalid)
    expect(() => bans.unban(text)).toThrow(invalid)
    expect(bans.size).toBe(0)
  })

  test.each([
    { until: START },
    { until: Number.NaN },
    { until: START + 0.5 },
    { until: 9e15 },
    { why: 'two\nlines' },
    { why: 'x'.repeat(201) },
  ])('cannot have %o', (options) => {
    const { bans } = clocked()
    expect(() => bans.ban(ALICE, options)).toThrow(invalid)
    expect(bans.isBanned(ALICE)).toBe(false)
  })

  test('of what is no address is none', () => {
    const { bans } = clocked()
    bans.ban('0.0.0.0/0')
    bans.ban('::/0')
    for (const text of ['', 'example.com', '1.2.3', 'wss://relay.example'])
      expect(bans.isBannedAddress(text)).toBe(false)
  })
})

describe('a full list of bans', () => {
  test('refuses another and drops none, but makes room of what is over', () => {
    const { bans, lines, advance } = clocked()
    bans.ban('192.0.2.1', { until: START + 10 })
    for (let n = 1; n < MAX_BANS; n++) bans.ban(ipv4(0x0a000000 + n))
    expect(() => bans.ban(ALICE)).toThrow(limit)
    expect([bans.size, bans.isBannedAddress('192.0.2.1'), bans.isBannedAddress('10.0.0.1')]).toEqual([
      MAX_BANS,
      true,
      true,
    ])
    bans.ban('10.0.0.1', { why: 'still' }) // the same one again
    advance(10)
    bans.ban(ALICE)
    expect(lines.slice(-2)).toEqual(['unban 192.0.2.1/32 expired', `ban ${ALICE}`])
    expect(bans.size).toBe(MAX_BANS)
  })
})

describe('saved bans', () => {
  const target = fc.oneof(
    fc.constantFrom<string>(ALICE, BOB),
    fc.tuple(fc.ipV4(), fc.integer({ min: 0, max: 32 })).map(([host, bits]) => `${host}/${bits}`),
    fc.tuple(fc.ipV6(), fc.integer({ min: 0, max: 128 })).map(([host, bits]) => `${host}/${bits}`),
  )
  const options = fc.record(
    { until: fc.integer({ min: START + 1, max: START + 100 }), why: fc.constantFrom('', 'spam', 'ünï') },
    { requiredKeys: [] },
  )
  const saved = fc.array(fc.tuple(target, options), { maxLength: 20 }).map((list) => {
    const { bans } = clocked()
    for (const [what, how] of list) bans.ban(what, how)
    return bans
  })

  test('are the same when they are loaded', () => {
    fc.assert(
      fc.property(saved, (bans) => {
        const { bans: copy, lines } = clocked()
        copy.fromJSON(JSON.parse(JSON.stringify(bans)))
        expect(copy.list()).toStrictEqual(bans.list())
        expect(lines).toEqual(bans.list().map((ban) => `ban ${ban.target}`))
        // and what looks for them finds them
        for (const { kind, target: of } of bans.list()) {
          expect(kind === 'peer' ? copy.isBanned(of as PeerId) : copy.isBannedAddress(of.split('/')[0]!)).toBe(true)
          expect(copy.unban(of)).toBe(true)
        }
        expect(copy.size).toBe(0)
      }),
      { numRuns: 200 },
    )
  })

  test('that somebody had a hand in are refused as a whole, or are right', () => {
    let refused = 0
    fc.assert(
      fc.property(
        saved.chain((bans) => hostileJson(JSON.parse(JSON.stringify(bans)))),
        (json) => {
          const { bans } = clocked()
          bans.ban('198.51.100.7')
          try {
            bans.fromJSON(json)
          } catch (error) {
            refused++
            expect(isPeerlineError(error) && error.code).toBe('ERR_PEERLINE_INVALID')
            expect(bans.list().map((ban) => ban.target)).toEqual(['198.51.100.7/32'])
            return
          }
          const { bans: copy } = clocked()
          copy.fromJSON(JSON.parse(JSON.stringify(bans)))
          expect(copy.list()).toEqual(bans.list())
        },
      ),
      { numRuns: 500 },
    )
    expect(refused).toBeGreaterThan(100)
  })

  test('replace what was there, and what is over meanwhile is left out', () => {
    const { bans, lines } = clocked()
    bans.ban('192.0.2.0/24')
    bans.ban(BOB)
    lines.length = 0
    bans.fromJSON([
      { target: ALICE, since: 1, until: START },
      { target: BOB, since: 1 },
    ])
    expect(bans.list()).toEqual([{ target: BOB, kind: 'peer', since: 1 }])
    expect([bans.isBanned(ALICE), bans.isBannedAddress('192.0.2.1')]).toEqual([false, false])
    expect(lines).toEqual(['unban 192.0.2.0/24 lifted', `ban ${BOB}`])
  })

  test.each([
    ['more than may be', Array.from({ length: MAX_BANS + 1 }, () => ({ target: ALICE, since: 1 }))],
    [
      'one twice',
      [
        { target: ALICE, since: 1 },
        { target: ALICE, since: 2 },
      ],
    ],
    ['one in another form', [{ target: '192.0.2.1/24', since: 1 }]],
    ['one that ends before it begins', [{ target: ALICE, since: 5, until: 5 }]],
    ['no list', { target: ALICE, since: 1 }],
  ])('are refused with %s', (_, json) => {
    const { bans } = clocked()
    expect(() => bans.fromJSON(json)).toThrow(invalid)
  })
})
