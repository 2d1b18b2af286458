import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { hostileJson } from '../discovery/hostile-json.compliance.ts'
import { isPeerlineError } from '../errors.ts'
import { Identity, type PeerId } from '../identity/index.ts'
import { Firewall } from './firewall.ts'
import { Invitations, MAX_ALL_USES, MAX_INVITATIONS, MAX_USES, type MintOptions } from './invitations.ts'

const [ALICE, BOB, CAROL] = Array.from({ length: 3 }, () => Identity.generate().peerId) as [PeerId, PeerId, PeerId]
const START = 1_700_000_000_000
const DAY = 86_400_000
const fails = (code: string, message = '') =>
  expect.objectContaining({ code: `ERR_PEERLINE_${code}`, message: expect.stringContaining(message) })

function world() {
  const clock = { now: START }
  const now = () => clock.now
  const firewall = new Firewall({ now, rules: [] })
  const invitations = new Invitations({ firewall, now })
  const lets = (peer: PeerId, object = 'connection') =>
    firewall.decide({ peer, direction: 'in', object }).action === 'allow'
  return { clock, now, firewall, invitations, lets }
}

describe('an invitation', () => {
  test('lets in whoever brings it, for whatever there is, once', () => {
    const { invitations, lets, firewall } = world()
    const { capability, invitation } = invitations.mint()
    expect(capability).toHaveLength(16)
    expect(invitation).toEqual({
      id: createHash('sha256').update(capability).digest('hex').slice(0, 16),
      state: 'open',
      since: START,
      expiresAt: START + DAY,
      uses: 1,
      peers: [],
      grant: {},
    })
    expect([lets(ALICE), lets(ALICE, '/chat/1')]).toEqual([false, false])
    expect(invitations.redeem(capability, ALICE)).toMatchObject({ state: 'used up', uses: 0, peers: [ALICE] })
    expect([lets(ALICE), lets(ALICE, '/chat/1'), lets(BOB)]).toEqual([true, true, false])
    expect(() => invitations.redeem(capability, BOB)).toThrow(fails('DENIED', 'used before'))
    expect(lets(BOB)).toBe(false)
    expect(firewall.kept().rules).toEqual([{ subject: ALICE, object: 'anything', direction: 'in', action: 'allow' }])
  })

  test('of several uses counts each peer once, however often it comes', () => {
    const { invitations } = world()
    const { capability } = invitations.mint({ uses: 2 })
    const uses = [ALICE, ALICE, BOB, ALICE, BOB].map((peer) => invitations.redeem(capability, peer).uses)
    expect(uses).toEqual([1, 1, 0, 0, 0])
    expect(() => invitations.redeem(capability, CAROL)).toThrow(fails('DENIED', 'used before'))
  })

  test('gives what it is for and the connection, and no more', () => {
    const { invitations, lets } = world()
    const { capability } = invitations.mint({ objects: ['/chat/*', '/files/1'] })
    invitations.redeem(capability, ALICE)
    const asked = ['connection', '/chat/7', '/files/1', '/files/2'].map((object) => lets(ALICE, object))
    expect(asked).toEqual([true, true, true, false])
  })

  test('has a peer join a group, whose rules say the rest', () => {
    const { invitations, firewall, lets } = world()
    firewall.set({ subject: 'group:friends', object: 'connection', action: 'allow' })
    invitations.redeem(invitations.mint({ group: 'friends' }).capability, ALICE)
    expect([firewall.groups.get('friends'), lets(ALICE), lets(ALICE, '/chat/1')]).toEqual([[ALICE], true, false])
    invitations.redeem(invitations.mint({ group: 'friends', objects: ['/chat/1'] }).capability, BOB)
    expect(lets(BOB, '/chat/1')).toBe(true)
  })

  test('gives a time, which begins when it is redeemed and does not begin anew', () => {
    const { invitations, firewall, lets, clock } = world()
    const { capability } = invitations.mint({ forMs: 1_000 })
    clock.now += 500
    invitations.redeem(capability, ALICE)
    clock.now += 999
    expect(lets(ALICE)).toBe(true)
    clock.now += 1
    expect(lets(ALICE)).toBe(false)
    expect(invitations.redeem(capability, ALICE).peers).toEqual([ALICE])
    expect(lets(ALICE)).toBe(false)
    firewall.close()
  })

  test('does not give back what was taken from the peer since', () => {
    const { invitations, firewall, lets } = world()
    const { capability } = invitations.mint()
    invitations.redeem(capability, ALICE)
    firewall.remove(`${ALICE} anything in`)
    invitations.redeem(capability, ALICE)
    expect(lets(ALICE)).toBe(false)
  })

  test.each(['name', 'group'])('does not open what a rule denies the peer by its %s, and then costs no use', (by) => {
    const { invitations, firewall, lets } = world()
    const { capability, invitation } = invitations.mint()
    firewall.addToGroup('blocked', ALICE)
    firewall.set({ subject: by === 'name' ? ALICE : 'group:blocked', object: 'connection', action: 'deny' })
    expect(() => invitations.redeem(capability, ALICE)).toThrow(fails('DENIED', 'does not let you in'))
    expect([lets(ALICE), invitations.get(invitation.id)!.uses, firewall.list().length]).toEqual([false, 1, 2])
  })

  test('opens what is shut to everyone, for the one who brings it', () => {
    const { invitations, firewall, lets } = world()
    firewall.set({ subject: 'everyone', direction: 'in', action: 'deny' })
    invitations.redeem(invitations.mint().capability, ALICE)
    expect([lets(ALICE), lets(BOB)]).toEqual([true, false])
  })

  test('leaves rules that name the peer as they are, but for those that let it in for shorter', () => {
    const { invitations, firewall, lets } = world()
    const rule = { subject: ALICE, direction: 'in', action: 'allow' } as const
    firewall.set({ ...rule, expiresAt: START + 10 })
    firewall.set({ ...rule, object: '/a/1', uses: 1 })
    firewall.set({ ...rule, object: '/b/1', action: 'deny' })
    firewall.set({ ...rule, object: '/c/1', direction: 'both', action: 'deny' })
    firewall.set({ ...rule, object: '/d/1', expiresAt: START + DAY })
    const objects = ['anything', '/a/1', '/b/1', '/c/1', '/d/1']
    let told: readonly string[] = []
    invitations.addEventListener('redeem', ({ detail: { rules } }) => {
      told = rules.map(({ id }) => id)
    })
    invitations.redeem(invitations.mint({ objects, forMs: 1_000 }).capability, ALICE)
    expect(told).toEqual([`${ALICE} anything in`])
    const kept = new Map(firewall.list().map(({ object, uses, expiresAt }) => [object, uses ?? expiresAt]))
    expect(kept.get('anything')).toBe(START + 1_000)
    expect([kept.get('/a/1'), kept.get('/d/1')]).toEqual([1, START + DAY])
    expect([lets(ALICE, '/b/1'), lets(ALICE, '/c/1'), lets(ALICE, '/x/1')]).toEqual([false, false, true])
    firewall.close()
  })

  test('makes good a yes that was remembered and no longer counts', async () => {
    const { now } = world()
    const firewall = new Firewall({ now, ask: async () => true })
    await firewall.admit({ peer: ALICE, direction: 'in', object: 'connection' })
    firewall.set({ subject: 'everyone', direction: 'in', action: 'deny' })
    const question = { peer: ALICE, direction: 'in', object: 'connection' } as const
    expect(firewall.decide(question).action).toBe('deny')
    const invitations = new Invitations({ firewall, now })
    invitations.redeem(invitations.mint().capability, ALICE)
    expect(firewall.decide(question).action).toBe('allow')
    firewall.close()
  })

  test('is over at its time, and is told so for a week', () => {
    const { invitations, clock, lets } = world()
    const { capability, invitation } = invitations.mint({ expiresAt: START + 10, uses: 2 })
    invitations.redeem(capability, BOB)
    clock.now = START + 9
    invitations.redeem(capability, ALICE)
    clock.now = START + 10
    for (const peer of [ALICE, CAROL]) expect(() => invitations.redeem(capability, peer)).toThrow(fails('EXPIRED'))
    expect([lets(ALICE), lets(CAROL)]).toEqual([true, false])
    expect([invitations.get(invitation.id)?.state, invitations.revoke(invitation.id)]).toEqual(['expired', false])
    clock.now = START + 9 + 7 * DAY
    expect(invitations.toJSON()).toHaveLength(1)
    clock.now++
    expect(invitations.toJSON()).toEqual([])
    expect(() => invitations.redeem(capability, CAROL)).toThrow(fails('DENIED', 'not known'))
  })

  test('that was taken back lets nobody in any more, and leaves those who are in', () => {
    const { invitations, lets } = world()
    const { capability, invitation } = invitations.mint({ uses: 5 })
    invitations.redeem(capability, ALICE)
    expect([invitations.revoke('0'.repeat(16)), invitations.revoke(invitation.id)]).toEqual([false, true])
    for (const peer of [ALICE, BOB])
      expect(() => invitations.redeem(capability, peer)).toThrow(fails('DENIED', 'taken'))
    expect([lets(ALICE), lets(BOB), invitations.revoke(invitation.id)]).toEqual([true, false, false])
    expect(invitations.list().map(({ state }) => state)).toEqual(['revoked'])
  })

  test('is not had for any other secret', () => {
    const { invitations, lets } = world()
    const { capability } = invitations.mint()
    const others = [new Uint8Array(), capability.slice(1), new Uint8Array(16), new Uint8Array([...capability, 0])]
    for (let at = 0; at < 16; at++) others.push(capability.map((byte, index) => (index === at ? byte ^ 1 : byte)))
    others.push(new Uint8Array(createHash('sha256').update(capability).digest()), new Uint8Array(1_000_000))
    for (const other of others) expect(() => invitations.redeem(other, ALICE)).toThrow(fails('DENIED', 'not known'))
    expect(lets(ALICE)).toBe(false)
  })
})

describe('what goes wrong half way', () => {
  test('leaves no rule and counts no use', () => {
    const { invitations, firewall } = world()
    const { capability, invitation } = invitations.mint({ objects: ['/a/1', '/b/1'], group: 'late' })
    for (let at = 0; at < 1_000; at++) firewall.addToGroup(`g${at}`, BOB) // as many groups as there may be
    const before = firewall.toJSON()
    expect(() => invitations.redeem(capability, ALICE)).toThrow(fails('LIMIT'))
    expect(firewall.toJSON()).toEqual(before)
    expect(invitations.get(invitation.id)).toEqual(invitation)
    firewall.removeFromGroup('g0', BOB)
    expect(invitations.redeem(capability, ALICE).uses).toBe(0)
  })

  test('nobody who asks again while the rules are made is counted twice', () => {
    const { invitations, firewall } = world()
    const { capability } = invitations.mint({ uses: 3, objects: ['/a/1', '/b/1'] })
    firewall.addEventListener('change', () => invitations.redeem(capability, ALICE))
    expect(invitations.redeem(capability, ALICE).uses).toBe(2)
  })
})

describe('minting', () => {
  test.each<[string, MintOptions]>([
    ['no uses', { uses: 0 }],
    ['half a use', { uses: 1.5 }],
    ['too many uses', { uses: MAX_USES + 1 }],
    ['a time that is past', { expiresAt: START }],
    ['a time that is none', { expiresAt: Number.NaN }],
    ['no objects', { objects: [] }],
    ['too many objects', { objects: Array.from({ length: 17 }, (_, at) => `/x/${at}`) }],
    ['an object that is none', { objects: ['/a*b'] }],
    ['a group that is none', { group: 'a b' }],
    ['rules without time', { forMs: 0 }],
    ['a group for a time', { group: 'friends', forMs: 1_000 }],
  ])('is refused with %s', (_name, options) => {
    const { invitations } = world()
    expect(() => invitations.mint(options)).toThrow(fails('INVALID'))
    expect(invitations.size).toBe(0)
  })

  test('is bounded, and what has ended gives way', () => {
    const { invitations, clock } = world()
    invitations.mint({ expiresAt: START + 1 })
    const { id } = invitations.mint().invitation
    for (let at = 2; at < MAX_INVITATIONS; at++) invitations.mint()
    clock.now++
    invitations.mint()
    expect(() => invitations.mint()).toThrow(fails('LIMIT', '1000 invitations'))
    invitations.revoke(id)
    invitations.mint()
    expect([invitations.size, invitations.get(id)]).toEqual([MAX_INVITATIONS, undefined])
  })

  test('is bounded in the uses of all together', () => {
    const { invitations } = world()
    for (let at = 0; at < MAX_ALL_USES / MAX_USES; at++) invitations.mint({ uses: MAX_USES })
    expect(() => invitations.mint()).toThrow(fails('LIMIT', '10000 uses'))
  })
})

describe('what is kept', () => {
  test('lets nobody in by itself, and goes on where it was', () => {
    const one = world()
    const open = one.invitations.mint({ uses: 3, objects: ['/a/1'], forMs: 5_000 })
    const revoked = one.invitations.mint({ group: 'friends' })
    one.invitations.redeem(open.capability, ALICE)
    one.invitations.revoke(revoked.invitation.id)
    const text = JSON.stringify(one.invitations)
    for (const { capability } of [open, revoked]) {
      for (const form of ['hex', 'base64', 'base64url'] as const) {
        expect(text).not.toContain(Buffer.from(capability).toString(form).replace(/=+$/, ''))
      }
    }
    const two = world()
    two.invitations.mint()
    two.invitations.fromJSON(JSON.parse(text))
    expect(two.invitations.list()).toEqual(one.invitations.list())
    expect(JSON.parse(JSON.stringify(two.invitations))).toEqual(JSON.parse(text))
    expect(two.invitations.redeem(open.capability, ALICE).uses).toBe(2)
    expect(two.invitations.redeem(open.capability, BOB).uses).toBe(1)
    expect(() => two.invitations.redeem(revoked.capability, BOB)).toThrow(fails('DENIED', 'taken back'))
  })

  test('tells of every change, so that it may be saved', () => {
    const { invitations } = world()
    const lines: string[] = []
    for (const type of ['mint', 'redeem', 'revoke', 'load'] as const) {
      invitations.addEventListener(type, () => lines.push(type))
    }
    const { capability, invitation } = invitations.mint({ uses: 2 })
    invitations.redeem(capability, ALICE)
    invitations.redeem(capability, ALICE)
    invitations.revoke(invitation.id)
    invitations.revoke(invitation.id)
    invitations.fromJSON([])
    expect(lines).toEqual(['mint', 'redeem', 'revoke', 'load'])
  })

  test('is taken whole or not at all, and nothing of it counts unchecked', () => {
    const valid = () => {
      const { invitations } = world()
      const { capability } = invitations.mint({ uses: 3, objects: ['/a/1', '/b/*'], forMs: 9 })
      invitations.redeem(capability, ALICE)
      invitations.revoke(invitations.mint({ group: 'friends' }).invitation.id)
      return JSON.parse(JSON.stringify(invitations)) as unknown
    }
    let refused = 0
    fc.assert(
      fc.property(hostileJson(valid()), (json) => {
        const { invitations } = world()
        const { invitation } = invitations.mint()
        try {
          invitations.fromJSON(json)
        } catch (error) {
          refused++
          expect(isPeerlineError(error) && error.code).toBe('ERR_PEERLINE_INVALID')
          expect(invitations.list()).toEqual([invitation])
          return
        }
        const { invitations: copy } = world()
        copy.fromJSON(JSON.parse(JSON.stringify(invitations)))
        expect(copy.list()).toEqual(invitations.list())
        for (const { uses, peers } of invitations.list()) expect(uses + peers.length).toBeLessThanOrEqual(MAX_USES)
      }),
      { numRuns: 500 },
    )
    expect(refused).toBeGreaterThan(100)
    const { invitations } = world()
    const [first] = valid() as Record<string, unknown>[]
    expect(() => invitations.fromJSON([first, first])).toThrow(fails('INVALID', 'two invitations'))
    for (const wrong of [{ digest: 'ab' }, { digest: 'x'.repeat(64) }, { uses: MAX_USES }, { expiresAt: START }]) {
      expect(() => invitations.fromJSON([{ ...first, ...wrong }])).toThrow(fails('INVALID'))
    }
    const full = Array.from({ length: 11 }, (_, at) => ({
      ...first,
      peers: [],
      uses: MAX_USES,
      digest: `${at}`.padStart(2, '0').padEnd(64, '0'),
    }))
    expect(() => invitations.fromJSON(full)).toThrow(fails('INVALID', 'more than 10000 uses'))
  })
})

test('whatever happens, no more peers come in than were invited, and all of them do who were', () => {
  const step = fc.oneof(
    fc.record({
      do: fc.constant('mint' as const),
      uses: fc.integer({ min: 1, max: 3 }),
      life: fc.integer({ min: 1, max: 30 }),
    }),
    fc.record({ do: fc.constant('redeem' as const), which: fc.nat(5), who: fc.nat(5) }),
    fc.record({ do: fc.constant('revoke' as const), which: fc.nat(5) }),
    fc.record({ do: fc.constant('restart' as const) }),
    fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: 10 }) }),
  )
  const peers = Array.from({ length: 6 }, (_, at) => Identity.fromSeed(new Uint8Array(32).fill(at + 1)).peerId)
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const { clock, firewall, now, lets, ...rest } = world()
      let { invitations } = rest
      const model: { secret: Uint8Array; id: string; left: number; until: number; in: Set<PeerId>; gone: boolean }[] =
        []
      const inside = new Set<PeerId>()
      for (const one of steps) {
        const of = 'which' in one ? model[one.which] : undefined
        if (one.do === 'mint') {
          const until = clock.now + one.life
          const { capability: secret, invitation } = invitations.mint({ uses: one.uses, expiresAt: until })
          model.push({ secret, id: invitation.id, left: one.uses, until, in: new Set(), gone: false })
        } else if (one.do === 'wait') clock.now += one.ms
        else if (one.do === 'restart') {
          const saved = JSON.parse(JSON.stringify(invitations)) as unknown
          invitations = new Invitations({ firewall, now })
          invitations.fromJSON(saved)
        } else if (one.do === 'revoke' && of !== undefined) {
          const open = !of.gone && of.left > 0 && clock.now < of.until
          expect(invitations.revoke(of.id)).toBe(open)
          if (open) of.gone = true
        } else if (one.do === 'redeem' && of !== undefined) {
          const peer = peers[one.who]!
          const may = !of.gone && clock.now < of.until && (of.in.has(peer) || of.left > 0)
          let came = true
          try {
            invitations.redeem(of.secret, peer)
          } catch (error) {
            if (!isPeerlineError(error)) throw error
            came = false
          }
          expect(came).toBe(may)
          if (came && !of.in.has(peer)) {
            of.in.add(peer)
            of.left--
          }
          if (came) inside.add(peer)
        }
        expect(peers.filter((peer) => lets(peer))).toEqual(peers.filter((peer) => inside.has(peer)))
      }
    }),
  )
})
