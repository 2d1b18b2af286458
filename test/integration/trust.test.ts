/** Whom a peer trusts of those that come to it, with real sessions. */
import { describe, expect, test } from 'vitest'
import {
  type Arrival,
  allOf,
  FileStore,
  Identity,
  Peer,
  type PeerOptions,
  PING_PROTOCOL,
  type Session,
  type Store,
  type Stream,
  secretHandshake,
  signVoucher,
  type TrustOptions,
  vouchedBy,
} from '../../src/index.ts'
import { temporaryFile } from '../../src/temporary.compliance.ts'
import { outcomeOf } from './policy-rows.ts'
import { once, readAll, startPeer, startServer } from './world.ts'

const BODY = new TextEncoder().encode('hello')
const DENIED = 'ERR_PEERLINE_DENIED'
const SECRET = 'thirty-two bytes that nobody can guess'
const SECRET_PROTOCOL = '/peerline/trust/1'
const code = (text: string) => expect.objectContaining({ code: text })

/** A peer that trusts, and counts what reaches its handler. */
async function startOwner(trust: TrustOptions, options: PeerOptions = {}) {
  const owner = await startPeer({ firewall: {}, trust, ...options })
  const seen = { calls: 0 }
  const echo = (body: Uint8Array) => {
    seen.calls++
    return body
  }
  for (const protocol of ['/echo/1', '/probe/1', '/public/1']) owner.handle(protocol, echo)
  return { owner, seen, trust: owner.trust! }
}

const dial = (from: Peer, to: Peer): Promise<Session> => from.connect(to.id, { addresses: to.addresses })
const ask = (from: Peer, to: Peer, protocol = '/echo/1') =>
  outcomeOf(from.request(to.id, protocol, BODY, { addresses: to.addresses }))

/** Nothing is left of a peer that was here. */
function expectNothingOf(peer: Peer, owner: Peer): void {
  expect(owner.trust?.isTrusted(peer.id)).toBe(false)
  for (const group of ['trusted', 'elevated']) expect(owner.firewall.groups.get(group) ?? []).not.toContain(peer.id)
  expect(owner.firewall.list().filter(({ subject }) => subject === peer.id)).toEqual([])
}

/** Resolves when nobody has a session or waits for one any more. */
async function empty(peer: Peer): Promise<void> {
  while (peer.sessions.length > 0) await once(peer, 'sessionEnd')
}

describe('who is let in and not trusted', () => {
  test('may see that the line works, and no more', async () => {
    const { owner, seen } = await startOwner({})
    const a = await startPeer()
    const session = await dial(a, owner)
    expect(await ask(a, owner, PING_PROTOCOL)).toBe('answered')
    expect(await ask(a, owner)).toBe(DENIED)
    expect(await ask(a, owner, '/nothing/1')).toBe('ERR_PEERLINE_NO_PROTOCOL')
    expect([session.state, seen.calls]).toEqual(['open', 0])
  })

  test('may use what the owner says', async () => {
    const { owner } = await startOwner({ defaultCommunication: ['/public/*'] })
    const a = await startPeer()
    expect(await ask(a, owner, '/public/1')).toBe('answered')
    expect(await ask(a, owner)).toBe(DENIED)
    expect(await ask(a, owner, PING_PROTOCOL)).toBe(DENIED)
  })

  test('is not let in where there is nothing for it', async () => {
    const { owner } = await startOwner({ defaultCommunication: false })
    const a = await startPeer()
    expect(await outcomeOf(dial(a, owner))).toBe(DENIED)
    owner.trust!.trust(a.id)
    expect(await ask(a, owner)).toBe('answered')
  })

  // Elsewhere three messages that said ping made a peer trusted.
  test('is not trusted for what it says, however often', async () => {
    const { owner, trust } = await startOwner({ handshake: secretHandshake(SECRET) })
    const a = await startPeer()
    const over = once<{ ok: boolean }>(trust, 'handshake')
    await dial(a, owner)
    expect(await over).toMatchObject({ ok: false })
    for (const _ of [1, 2, 3, 4]) expect(await ask(a, owner, PING_PROTOCOL)).toBe('answered')
    expect(await ask(a, owner)).toBe(DENIED)
    expectNothingOf(a, owner)
  })

  // Elsewhere a packet of default communication could name an address, and whoever was there was put out.
  test('cannot put others out, nor give orders', async () => {
    const { owner } = await startOwner({})
    const [a, b] = [await startPeer(), await startPeer()]
    const session = await dial(b, owner)
    expect(await outcomeOf(a.order(owner.id, { kind: 'disconnect', peer: b.id }, { addresses: owner.addresses }))).toBe(
      DENIED,
    )
    expect(session.state).toBe('open')
  })

  // Elsewhere there was one peer for each address.
  test('is not taken for another from the same address', async () => {
    const { owner } = await startOwner({})
    const [a, b] = [await startPeer(), await startPeer()]
    owner.trust!.trust(a.id)
    expect(await Promise.all([ask(a, owner), ask(b, owner)])).toEqual(['answered', DENIED])
  })

  test('is refused by the owner’s rule, whatever the group may do', async () => {
    const { owner } = await startOwner({}, { firewall: { rules: [] } })
    const a = await startPeer()
    owner.trust!.trust(a.id)
    expect(await ask(a, owner)).toBe('answered')
    owner.firewall.set({ subject: a.id, object: '/echo/1', direction: 'in', action: 'deny' })
    expect(await ask(a, owner)).toBe(DENIED)
  })
})

describe('enhanced exchange', () => {
  test('opens everything for as long as the peer is here, from its first request on', async () => {
    const { owner, trust } = await startOwner({ enhancedExchange: true })
    const a = await startPeer()
    const gone = once(trust, 'distrusted')
    expect(await ask(a, owner)).toBe('answered')
    expect(trust.isTrusted(a.id)).toBe(true)
    await Promise.all(a.sessions.map((session) => session.close()))
    await gone
    expectNothingOf(a, owner)
  })
})

test('who comes by the rendezvous is trusted, or not, like any other', async () => {
  const server = await startServer()
  const rendezvous = [server.url]
  const { owner, trust } = await startOwner({ handshake: secretHandshake(SECRET) }, { rendezvous })
  const friend = await startPeer({ rendezvous, trust: { handshake: secretHandshake(SECRET) } })
  const stranger = await startPeer({ rendezvous })
  await Promise.all([owner, friend, stranger].map((peer) => peer.online()))
  for (const [peer, ok] of [
    [friend, true],
    [stranger, false],
  ] as const) {
    const over = once(trust, 'handshake')
    await peer.connect(owner.id)
    expect(await over).toMatchObject({ peer: peer.id, ok })
    expect(await outcomeOf(peer.request(owner.id, '/echo/1', BODY))).toBe(ok ? 'answered' : DENIED)
  }
})

describe('a handshake with a secret', () => {
  const secret = (more: TrustOptions = {}): TrustOptions => ({ handshake: secretHandshake(SECRET), ...more })

  test('on both sides: who knows it is trusted by whom it comes to, and everything opens', async () => {
    const { owner, trust } = await startOwner(secret())
    const { owner: a } = await startOwner(secret())
    const over = once(trust, 'handshake')
    await dial(a, owner)
    expect(await over).toMatchObject({ peer: a.id, ok: true })
    expect(await ask(a, owner)).toBe('answered')
    // It has not come to the other, which was not asked about.
    expect(await ask(owner, a)).toBe(DENIED)
    await Promise.all(a.sessions.map((session) => session.close()))
    await empty(owner)
    const back = once(a.trust!, 'handshake')
    await dial(owner, a)
    expect(await back).toMatchObject({ peer: owner.id, ok: true })
    expect(await ask(owner, a)).toBe('answered')
  })

  test('need not be waited for: what is asked meanwhile is decided when it is over', async () => {
    const { owner, seen } = await startOwner(secret())
    const [friend, stranger] = [await startPeer({ trust: secret() }), await startPeer()]
    expect(await Promise.all([ask(friend, owner), ask(friend, owner)])).toEqual(['answered', 'answered'])
    expect(await ask(stranger, owner)).toBe(DENIED)
    expect(seen.calls).toBe(2)
  })

  test('fails with another secret: what was lent is taken back, and default communication goes on', async () => {
    const { run, answers } = secretHandshake(SECRET)
    const lend: TrustOptions = {
      elevation: ['/probe/1'],
      handshake: {
        answers,
        run: async (context) => {
          context.elevate()
          await context.request('/ready/1', BODY)
          return run(context)
        },
      },
    }
    const { owner, seen, trust } = await startOwner(lend)
    const a = await startPeer({
      trust: { ...secret(), handshake: secretHandshake('another secret of thirty-two bytes') },
    })
    a.firewall.setDefault('allow')
    a.firewall.set({ subject: owner.id, direction: 'in', action: 'allow' })
    const probed = new Promise<string>((resolve) => {
      a.handle('/ready/1', async (body) => {
        resolve(await ask(a, owner, '/probe/1'))
        return body
      })
    })
    const [demoted, over] = [once(trust, 'demoted'), once(trust, 'handshake')]
    const session = await dial(a, owner)
    expect(await probed).toBe('answered')
    expect(await demoted).toEqual({ peer: a.id, reason: 'over' })
    expect(await over).toMatchObject({ ok: false, error: { code: DENIED } })
    expect(await ask(a, owner, '/probe/1')).toBe(DENIED)
    expect(await ask(a, owner, PING_PROTOCOL)).toBe('answered')
    expect([session.state, seen.calls]).toEqual(['open', 1])
    expectNothingOf(a, owner)
  })

  test('that is never answered is over in time', async () => {
    const { owner, trust } = await startOwner(secret({ handshakeTimeoutMs: 50 }))
    const a = await startPeer()
    a.handle(SECRET_PROTOCOL, () => new Promise<never>(() => {}))
    const over = once(trust, 'handshake')
    await dial(a, owner)
    expect(await over).toMatchObject({ ok: false, error: { code: 'ERR_PEERLINE_TIMEOUT' } })
    expect(await ask(a, owner)).toBe(DENIED)
    expectNothingOf(a, owner)
  })

  test('whose peer leaves in the middle of it leaves nothing', async () => {
    let signal: AbortSignal | undefined
    const { owner, trust } = await startOwner({
      elevation: ['/probe/1'],
      handshake: async (context) => {
        signal = context.signal
        context.elevate()
        await context.request('/hang/1', BODY)
        return true
      },
    })
    const a = await startPeer()
    const asked = new Promise<void>((resolve) => {
      a.handle('/hang/1', () => {
        resolve()
        return new Promise<never>(() => {})
      })
    })
    const [demoted, over] = [once(trust, 'demoted'), once(trust, 'handshake')]
    await dial(a, owner)
    await asked
    expect(owner.firewall.groups.get('elevated')).toEqual([a.id])
    await a.close({ signal: AbortSignal.abort() })
    expect(await over).toMatchObject({ peer: a.id, ok: false, error: { code: 'ERR_PEERLINE_ABORTED' } })
    expect(await demoted).toMatchObject({ reason: 'gone' })
    expect(signal?.aborted).toBe(true)
    expectNothingOf(a, owner)
    await empty(owner)
    expect(owner.connections.total).toBe(0)
  })

  test('runs when the owner closes: it is ended, and nobody is trusted by it', async () => {
    const { owner, trust } = await startOwner(secret())
    const a = await startPeer()
    const asked = new Promise<void>((resolve) => {
      a.handle(SECRET_PROTOCOL, () => {
        resolve()
        return new Promise<never>(() => {})
      })
    })
    const over = once(trust, 'handshake')
    await dial(a, owner)
    await asked
    await owner.close()
    expect(await over).toMatchObject({ ok: false, error: { code: 'ERR_PEERLINE_CLOSED' } })
    expect(owner.firewall.groups.size).toBe(0)
  })

  test('that is replaced decides alone; what it throws is a no', async () => {
    const { owner, trust } = await startOwner({
      handshake: ({ peer }) => {
        if (peer === friend.id) return true
        throw new Error('who are you?')
      },
    })
    const [friend, stranger] = [await startPeer(), await startPeer()]
    for (const [peer, outcome] of [
      [stranger, DENIED],
      [friend, 'answered'],
    ] as const) {
      const over = once(trust, 'handshake', (one: { peer: string }) => one.peer === peer.id)
      await dial(peer, owner)
      await over
      expect(await ask(peer, owner)).toBe(outcome)
    }
  })
})

describe('an elevation', () => {
  test('ends when its time is up, in the middle of the handshake: what it opened is cut', async () => {
    let end!: () => void
    const ended = new Promise<void>((resolve) => {
      end = resolve
    })
    const { owner, trust } = await startOwner({
      elevation: ['/hold/1'],
      handshake: async ({ elevate, request }) => {
        elevate(100)
        await request('/ready/1', BODY)
        await ended
        return false
      },
    })
    owner.handleStream('/hold/1', async (stream: Stream) => void (await readAll(stream).catch(() => {})))
    const a = await startPeer()
    const opened = new Promise<Stream>((resolve, reject) => {
      a.handle('/ready/1', async (body) => {
        await a.open(owner.id, '/hold/1').then(resolve, reject)
        return body
      })
    })
    const demoted = once(trust, 'demoted')
    const session = await dial(a, owner)
    const stream = await opened
    expect(await demoted).toMatchObject({ reason: 'time' })
    await expect(readAll(stream)).rejects.toEqual(code('ERR_PEERLINE_RESET'))
    expect(session.state).toBe('open')
    end()
    expect(await once(trust, 'handshake')).toMatchObject({ ok: false })
  })
})

describe('a voucher', () => {
  const authority = Identity.generate()
  const authorities = { has: (peer: string) => peer === authority.peerId }
  const day = 24 * 3_600_000

  test.each<[string, boolean, (a: Identity) => Uint8Array | undefined]>([
    ['of an authority is enough', true, ({ peerId }) => signVoucher(authority, { peer: peerId, lifeMs: day })],
    [
      'for another peer is none',
      false,
      () => signVoucher(authority, { peer: Identity.generate().peerId, lifeMs: day }),
    ],
    ['of who is no authority is none', false, (a) => signVoucher(a, { peer: a.peerId, lifeMs: day })],
    [
      'that has expired is none',
      false,
      ({ peerId }) => signVoucher(authority, { peer: peerId, lifeMs: 1, now: Date.now() - day }),
    ],
    ['that is not shown is none', false, () => undefined],
  ])('%s', async (_, ok, make) => {
    const { owner, trust } = await startOwner({ handshake: vouchedBy(authorities) })
    const identity = Identity.generate()
    const voucher = make(identity)
    const a = await startPeer({
      identity,
      trust: { handshake: vouchedBy(authorities, voucher === undefined ? {} : { voucher }) },
    })
    const over = once(trust, 'handshake')
    await dial(a, owner)
    expect(await over).toMatchObject({ peer: a.id, ok })
    expect(await ask(a, owner)).toBe(ok ? 'answered' : DENIED)
  })

  test('and a secret: who has but one of them is not trusted', async () => {
    const both = (identity: Identity, secret: string) => {
      const voucher = signVoucher(authority, { peer: identity.peerId, lifeMs: day })
      return { handshake: allOf(secretHandshake(secret), vouchedBy(authorities, { voucher })) }
    }
    const { owner, trust } = await startOwner({ handshake: allOf(secretHandshake(SECRET), vouchedBy(authorities)) })
    for (const [secret, ok] of [
      ['another secret of thirty-two bytes', false],
      [SECRET, true],
    ] as const) {
      const identity = Identity.generate()
      const a = await startPeer({ identity, trust: both(identity, secret) })
      const over = once(trust, 'handshake')
      await dial(a, owner)
      expect(await over).toMatchObject({ ok })
    }
  })
})

describe.each(['event', 'queue', 'both'] as const)('placement by %s', (placement) => {
  const place = (more: TrustOptions = {}) => startOwner({ placement, ...more })

  /** The next that waits to be let in. */
  async function next({ trust }: { trust: NonNullable<Peer['trust']> }): Promise<Arrival> {
    if (placement === 'event') return once<Arrival>(trust, 'arrival')
    const told = placement === 'both' ? once<Arrival>(trust, 'arrival') : undefined
    const { value } = await trust.arrivals[Symbol.asyncIterator]().next()
    if (told !== undefined) expect(await told).toBe(value)
    return value as Arrival
  }

  // Elsewhere the peer was added right after it was queued or told of.
  test('lets nothing of a peer reach anything before the owner accepts it', async () => {
    const at = await place({ defaultCommunication: ['/public/1'] })
    const { owner, seen } = at
    const a = await startPeer()
    let sessions = 0
    owner.addEventListener('session', () => sessions++)
    const arriving = next(at)
    const asking = Promise.all([ask(a, owner, '/public/1'), ask(a, owner)])
    const arrival = await arriving
    expect(arrival).toMatchObject({ peer: a.id, waits: true, questions: [{ object: 'connection' }] })
    expect([seen.calls, sessions, owner.sessions]).toEqual([0, 0, []])
    expect(owner.connections.establishedIn).toBe(0)
    expect(arrival.accept()).toBe(true)
    expect(await asking).toEqual(['answered', DENIED])
    expect(seen.calls).toBe(1)
    // It was accepted this time, and is not trusted.
    expectNothingOf(a, owner)
  })

  test('lets in and trusts, when the owner says so', async () => {
    const at = await place()
    const a = await startPeer()
    const arriving = next(at)
    const asking = ask(a, at.owner)
    expect((await arriving).accept({ trust: true })).toBe(true)
    expect(await asking).toBe('answered')
    expect(at.trust.isTrusted(a.id)).toBe(true)
  })

  test('refuses, and remembers it when the owner says so', async () => {
    const at = await place()
    const { owner, seen } = at
    const a = await startPeer()
    for (const remember of [false, true]) {
      const arriving = next(at)
      const asking = ask(a, owner)
      expect((await arriving).refuse({ remember })).toBe(true)
      expect(await asking).toBe(DENIED)
    }
    let asked = 0
    owner.firewall.addEventListener('question', () => asked++)
    expect(await ask(a, owner)).toBe(DENIED)
    expect([asked, seen.calls, owner.sessions]).toEqual([0, 0, []])
  })

  test('takes silence for a no, that is not remembered; who accepts then is too late', async () => {
    const at = await place({ decideMs: 50 })
    const { owner, seen } = at
    const a = await startPeer()
    for (const _ of [1, 2]) {
      const arriving = next(at)
      const asking = ask(a, owner)
      const arrival = await arriving
      expect(await asking).toBe(DENIED)
      expect([arrival.waits, arrival.signal.reason]).toEqual([false, code('ERR_PEERLINE_TIMEOUT')])
      expect(arrival.accept({ trust: true, remember: true })).toBe(false)
      expectNothingOf(a, owner)
    }
    expect([seen.calls, owner.sessions]).toEqual([0, []])
  })

  // Elsewhere who was blocked was put out by a routine that nobody had started.
  test('refuses who is banned while it waits', async () => {
    const at = await place()
    const { owner } = at
    const a = await startPeer()
    const arriving = next(at)
    const asking = ask(a, owner)
    const arrival = await arriving
    owner.bans.ban(a.id)
    arrival.accept({ trust: true })
    expect(await asking).toBe(DENIED)
    expect(owner.sessions).toEqual([])
  })

  test('refuses who waits when the peer closes', async () => {
    const at = await place()
    const a = await startPeer()
    const arriving = next(at)
    const asking = ask(a, at.owner)
    const arrival = await arriving
    await at.owner.close()
    expect(await asking).not.toBe('answered')
    expect([arrival.waits, arrival.accept()]).toEqual([false, false])
  })
})

describe('placement', () => {
  test('by a queue that is full refuses who comes then', async () => {
    const { owner, trust } = await startOwner({ placement: 'queue', queueCapacity: 1 })
    const peers = await Promise.all([startPeer(), startPeer(), startPeer()])
    const refused: string[] = []
    const two = new Promise<void>((resolve) => {
      for (const peer of peers) {
        void ask(peer, owner, PING_PROTOCOL).then((outcome) => {
          if (outcome !== 'answered' && refused.push(outcome) === 2) resolve()
        })
      }
    })
    // One waits for a place, and two were refused.
    await two
    expect(refused).toEqual([DENIED, DENIED])
    const accepted = once<{ session: Session }>(owner, 'session')
    const { value } = await trust.arrivals[Symbol.asyncIterator]().next()
    expect(value?.accept()).toBe(true)
    expect((await accepted).session.peer).toBe(value?.peer)
  })

  test('asks for who is here and not for each of its connections', async () => {
    const { owner, trust } = await startOwner({ placement: 'event' })
    const a = await startPeer()
    let arrivals = 0
    trust.addEventListener('arrival', ({ detail }) => {
      arrivals++
      detail.accept()
    })
    await dial(a, owner)
    expect(await ask(a, owner, PING_PROTOCOL)).toBe('answered')
    expect(arrivals).toBe(1)
    await Promise.all(a.sessions.map((session) => session.close()))
    await empty(owner)
    await dial(a, owner)
    expect(arrivals).toBe(2)
  })

  test('runs no handshake before the peer is accepted', async () => {
    let runs = 0
    const { owner, trust } = await startOwner({ placement: 'event', handshake: () => ++runs > 0 })
    const a = await startPeer()
    const arriving = once<Arrival>(trust, 'arrival')
    const dialling = dial(a, owner)
    const arrival = await arriving
    expect(runs).toBe(0)
    const over = once(trust, 'handshake')
    arrival.accept()
    await Promise.all([dialling, over])
    expect(await ask(a, owner)).toBe('answered')
  })
})

describe('who is trusted no longer', () => {
  /** A stream that is open to a peer, whose handler waits. */
  async function holding(trust: TrustOptions) {
    const at = await startOwner(trust)
    const a = await startPeer()
    at.trust.trust(a.id)
    const begun = new Promise<AbortSignal>((resolve) => {
      at.owner.handle('/hang/1', (_, { signal }) => {
        resolve(signal)
        return new Promise<never>(() => {})
      })
    })
    const session = await dial(a, at.owner)
    const asking = a.request(at.owner.id, '/hang/1', BODY).catch((error) => error)
    return { ...at, a, session, asking, signal: await begun }
  }

  test('is cut off at once from what it does, and keeps what all may do', async () => {
    const { owner, trust, a, session, asking, signal } = await holding({})
    trust.distrust(a.id)
    expect(await asking).toEqual(code('ERR_PEERLINE_RESET'))
    expect(signal.aborted).toBe(true)
    expect(await ask(a, owner)).toBe(DENIED)
    expect(await ask(a, owner, PING_PROTOCOL)).toBe('answered')
    expect(session.state).toBe('open')
    expectNothingOf(a, owner)
  })

  test('is put out at once where others are not let in', async () => {
    const { owner, trust, a, session, asking } = await holding({ defaultCommunication: false })
    const ended = once(owner, 'sessionEnd')
    trust.distrust(a.id)
    expect(await ended).toMatchObject({ error: { code: DENIED } })
    expect(await asking).toEqual(code(DENIED))
    expect(session.state).not.toBe('open')
    expect(await outcomeOf(dial(a, owner))).toBe(DENIED)
  })

  test('is put out at once when it is banned, trusted or not', async () => {
    const { owner, a, asking } = await holding({})
    const ended = once(owner, 'sessionEnd')
    owner.bans.ban(a.id)
    expect(await ended).toMatchObject({ error: { code: DENIED } })
    expect(await asking).toEqual(code(DENIED))
    expect(await outcomeOf(dial(a, owner))).toBe(DENIED)
  })
})

describe('after a restart', () => {
  test('who was trusted is, without another handshake', async () => {
    const file = await temporaryFile('state.json')
    let runs = 0
    const trust = { handshake: () => ++runs > 0 }
    const { owner, trust: before } = await startOwner(trust, { store: new FileStore(file) })
    const a = await startPeer()
    const over = once(before, 'handshake')
    await dial(a, owner)
    await over
    await owner.close()
    const { owner: again } = await startOwner(trust, { identity: owner.identity, store: new FileStore(file) })
    expect(await ask(a, again)).toBe('answered')
    expect(runs).toBe(1)
    again.trust!.distrust(a.id)
    await again.close()
    const { owner: third } = await startOwner({}, { identity: owner.identity, store: new FileStore(file) })
    expect(await ask(a, third)).toBe(DENIED)
  })

  test.each<[string, TrustOptions, 'elevated' | 'trusted']>([
    [
      'elevated',
      {
        elevation: ['/echo/1'],
        handshake: ({ elevate }) => {
          elevate()
          return new Promise<never>(() => {})
        },
      },
      'elevated',
    ],
    ['trusted while it was here', { enhancedExchange: true }, 'trusted'],
  ])('who was %s is not, though the process ended without a word', async (_, options, event) => {
    /** What a disk holds: only what was saved. */
    let disk: Uint8Array | undefined
    let saved = () => {}
    const store = (): Store => ({
      load: async () => disk,
      save: async (bytes) => {
        disk = bytes
        saved()
      },
    })
    const { owner, trust } = await startOwner(options, { store: store() })
    const a = await startPeer()
    const raised = once(trust, event)
    const kept = new Promise<void>((resolve) => {
      saved = () => {
        if (Buffer.from(disk!).toString().includes('"elevated"')) resolve()
      }
    })
    await dial(a, owner)
    await raised
    expect(await ask(a, owner)).toBe('answered')
    await kept
    const crashed = disk
    await a.close()
    await owner.close()
    disk = crashed
    const { owner: again } = await startOwner({ elevation: ['/echo/1'] }, { identity: owner.identity, store: store() })
    const back = await startPeer({ identity: a.identity })
    expectNothingOf(back, again)
    expect(await ask(back, again)).toBe(DENIED)
  })
})

test('who asks the owner is the placement: what would ask beside it is refused', async () => {
  for (const firewall of [{ ask: () => true }, { approve: () => true }]) {
    await expect(Peer.create({ listen: ['127.0.0.1:0'], trust: {}, firewall })).rejects.toEqual(
      code('ERR_PEERLINE_INVALID'),
    )
  }
})
