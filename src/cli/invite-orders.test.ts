import { describe, expect, test } from 'vitest'
import { fields, fromHex } from '../bytes/index.ts'
import { Identity, signRecord } from '../identity/index.ts'
import { readTicket } from '../identity/ticket.ts'
import { Firewall } from '../policy/firewall.ts'
import { Invitations } from '../policy/invitations.ts'
import type { Json } from './control-lines.ts'
import { invite, listInvitations, revoke } from './invite-orders.ts'
import { ticketsOf } from './ticket-peer.ts'

const identity = Identity.generate()
const GUEST = Identity.generate().peerId
const UNTIL = Date.now() + 3_600_000
const ADDRESSES = Array.from({ length: 9 }, (_, at) => `192.0.2.${at}:4400`)

function desk() {
  const invitations = new Invitations({ firewall: new Firewall({ rules: [] }) })
  const said = { sequence: 1, addresses: ADDRESSES, rendezvous: ['ws://a.example', 'ws://b.example'] }
  const record = (expiresAt: number) => signRecord(identity, { ...said, expiresAt })
  const listed = async () => {
    const all: Json[] = []
    for await (const one of listInvitations({ invitations })) all.push(one)
    return all
  }
  return { invitations, record, listed }
}

const order = (more: object = {}) => fields({ uses: 1, until: UNTIL, capability: true, ...more }, 'order')

describe('an order to invite', () => {
  test('comes to tickets that let somebody in, with the record and without', () => {
    const { invitations, record } = desk()
    const done = invite({ invitations, record }, order({ objects: ['/chat/1'], uses: 2 }))
    const { text, small } = ticketsOf(done, fromHex(String(done.record)))
    expect(small.length).toBeLessThan(text.length / 2)
    const [whole, hints] = [readTicket(text), readTicket(small)]
    expect(whole).toMatchObject({ peer: identity.peerId, addresses: ADDRESSES, objects: ['/chat/1'], expiresAt: UNTIL })
    expect(hints).toMatchObject({ peer: identity.peerId, addresses: ADDRESSES.slice(0, 4), objects: ['/chat/1'] })
    expect(hints.rendezvous).toEqual(['ws://a.example'])
    expect(invitations.redeem(whole.capability!, GUEST).uses).toBe(1)
    expect(invitations.redeem(hints.capability!, GUEST).uses).toBe(1)
  })

  test('may come to one that lets nobody in', () => {
    const { invitations, record } = desk()
    const done = invite({ invitations, record }, order({ capability: false }))
    expect(readTicket(ticketsOf(done, record(UNTIL)).text).capability).toBeUndefined()
    expect([done.record !== null, invitations.size]).toEqual([true, 0])
  })

  test('is carried out where no peer runs, which knows no addresses', () => {
    const { invitations } = desk()
    expect(invite({ invitations }, order({ group: 'friends' }))).toMatchObject({
      record: null,
      group: 'friends',
      objects: null,
    })
  })

  test.each([
    [{ uses: 0 }, 'INVALID'],
    [{ uses: '1' }, 'PROTOCOL'],
    [{ until: 5 }, 'INVALID'],
    [{ capability: 1 }, 'PROTOCOL'],
    [{ objects: [1] }, 'PROTOCOL'],
    [{ objects: Array.from({ length: 33 }, () => '/a/1') }, 'PROTOCOL'],
    [{ group: 'a b' }, 'INVALID'],
  ])('is refused with %j', (wrong, code) => {
    const { invitations } = desk()
    expect(() => invite({ invitations }, order(wrong))).toThrow(
      expect.objectContaining({ code: `ERR_PEERLINE_${code}` }),
    )
    expect(invitations.size).toBe(0)
  })

  test('shows in the list, until it is taken back', async () => {
    const { invitations, listed } = desk()
    const { id } = invite({ invitations }, order())
    expect(await listed()).toEqual([
      { id, state: 'open', since: expect.any(Number), until: UNTIL, uses: 1, peers: [], objects: null, group: null },
    ])
    expect(JSON.stringify(await listed())).not.toContain('capability')
    const taken = [revoke({ invitations }, fields({ id }, 'order')), revoke({ invitations }, fields({ id }, 'order'))]
    expect(taken).toEqual([{ was: true }, { was: false }])
    expect((await listed())[0]?.state).toBe('revoked')
  })
})
