import { createSocket } from 'node:dgram'
import { getEventListeners, once } from 'node:events'
import { networkInterfaces } from 'node:os'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { encodeCbor } from '../bytes/index.ts'
import type { LocalAddress, SocketAddress } from '../network/address.ts'
import { networkOf } from '../network/address-quorum.ts'
import { freePort } from '../network/free-port.compliance.ts'
import { UdpSocket } from '../network/udp-socket.ts'
import { MessageStream, type Stream, StreamCode } from '../session/index.ts'
import { ASKER, type ObserverOptions, Observers, type TestObserver } from './observers.compliance.ts'
import { type AskQuorumOptions, askQuorum, type QuorumReport } from './seen-quorum.ts'

const LIE = '127.6.6.6'
const HAS_IPV6 = Object.values(networkInterfaces()).some((list) => list?.some(({ address }) => address === '::1'))
const LOCAL: LocalAddress[] = [
  { host: '192.168.1.10', family: 4, scope: 'private', interfaceName: 'eth0', prefixBits: 24 },
]
/** ms for one that must not wait for the time to be up: beyond what a test is given. */
const LONG_MS = 600_000
/** ms for a test in which somebody keeps silent. */
const SHORT_MS = 400

let observers = new Observers()
let udp: UdpSocket
const unhandled = vi.fn()

beforeAll(() => void process.on('unhandledRejection', unhandled))
afterEach(async () => {
  vi.restoreAllMocks()
  await observers.close()
  observers = new Observers()
})
afterAll(() => {
  process.off('unhandledRejection', unhandled)
  expect(unhandled).not.toHaveBeenCalled()
})

/** Says this, and then ends the stream or not. */
const says =
  (ends: boolean, ...messages: unknown[]) =>
  (stream: Stream) => {
    const own = new MessageStream(stream, { maxBytes: 16, onMessage: () => {}, onEnd: () => {} })
    for (const message of messages) own.send(message).catch(() => {})
    if (ends) own.end().catch(() => {})
  }

const lying =
  (host = LIE) =>
  (from: SocketAddress): SocketAddress => ({ ...from, host })
/** Answers never. */
const silent = () => {}

/** Observers in networks of their own. */
const add = (...options: Partial<ObserverOptions>[]) =>
  Promise.all(options.map((one, at) => observers.add({ host: `127.0.${at + 1}.1`, ...one })))

const times = (count: number, options: Partial<ObserverOptions> = {}) => Array.from({ length: count }, () => options)

async function ask(of: readonly TestObserver[], options: Partial<AskQuorumOptions> = {}): Promise<QuorumReport> {
  udp = await observers.udp(ASKER)
  return askQuorum({
    sessions: of.map(({ session }) => session),
    signal: new AbortController().signal,
    local: LOCAL,
    udp,
    tcpPort: await freePort(ASKER),
    anyScope: true,
    networkOf: (host) => networkOf(host, { 4: 24, 6: 48 }),
    ...options,
  })
}

/** Asks, and expects nothing to be left behind. */
async function asked(of: readonly TestObserver[], options: Partial<AskQuorumOptions> = {}) {
  const { signal } = new AbortController()
  const report = await ask(of, { signal, ...options })
  expect(getEventListeners(signal, 'abort')).toEqual([])
  expect(of.map(({ session }) => session.streams)).toEqual(of.map(() => 0))
  return report
}

const supporters = ({ v4 }: QuorumReport) => (v4.kind === 'agreed' ? [...v4.supporters].sort() : v4.kind)
const outliers = ({ v4 }: QuorumReport) =>
  v4.kind === 'agreed' ? [...new Set(v4.outliers.map(({ observer }) => observer))].sort() : v4.kind
const ids = (of: readonly TestObserver[]) => of.map(({ peer }) => peer).sort()

describe('five peers', () => {
  test('agree: the address, and how UDP and TCP are mapped, well before the time is up', async () => {
    const all = await add(...times(5))
    const began = performance.now()
    const report = await asked(all, { timeoutMs: LONG_MS })
    expect(performance.now() - began).toBeLessThan(10_000)
    expect(report.v4).toMatchObject({ kind: 'agreed', address: ASKER, outliers: [] })
    const { v4 } = report
    if (v4.kind !== 'agreed') return
    expect(v4.networks.length).toBeGreaterThanOrEqual(3)
    for (const view of [v4.udp, v4.tcp]) expect(view).toMatchObject({ state: 'ok', mapping: 'endpoint-independent' })
    expect(v4.udp.mapped).toEqual([{ host: ASKER, port: udp.port, family: 4 }])
    expect(v4.tcp.portPreserving).toBe(true)
    expect(report.v6).toMatchObject({ kind: 'too-few', missing: { observers: 3, networks: 2 } })
    expect(report.observers.every(({ outcome }) => outcome === 'told')).toBe(true)
  })

  test('of whom one is not reached where it says: nobody waits for that', async () => {
    const places = (['udp', 'tcp'] as const).map((kind) => ({ kind, host: '127.0.5.1', port: 9 }))
    const { v4 } = await asked(await add(...times(4), { places }), { timeoutMs: LONG_MS })
    expect(v4).toMatchObject({
      kind: 'agreed',
      udp: { mapping: 'endpoint-independent', mapped: [{ port: udp.port }] },
      tcp: { mapping: 'endpoint-independent', mapped: [{}] },
    })
  })

  test('of whom one or two lie: outvoted, and named', async () => {
    for (const liars of [1, 2]) {
      const all = await add(...times(5 - liars), ...times(liars, { lie: lying() }))
      const report = await asked(all)
      expect(report.v4).toMatchObject({ kind: 'agreed', address: ASKER })
      expect(outliers(report)).toEqual(ids(all.slice(5 - liars)))
      if (report.v4.kind === 'agreed') expect(report.v4.udp.mapping).toBe('endpoint-independent')
      await observers.close()
    }
  })

  test('of whom two lie about the port alone: outvoted there', async () => {
    const wrong = (from: SocketAddress) => ({ ...from, port: from.port === 6_666 ? 6_667 : 6_666 })
    const { v4 } = await asked(await add(...times(3), ...times(2, { lie: wrong })))
    expect(v4).toMatchObject({
      kind: 'agreed',
      address: ASKER,
      udp: { mapping: 'endpoint-independent', mapped: [{ port: udp.port }] },
      tcp: { mapping: 'endpoint-independent' },
    })
  })

  test('of whom three lie, each in its own way: they disagree', async () => {
    const liars = ['127.6.6.6', '127.7.7.7', '127.8.8.8'].map((host) => ({ lie: lying(host) }))
    const { v4 } = await asked(await add({}, {}, ...liars))
    expect(v4).toMatchObject({ kind: 'disagreement', said: [{ address: ASKER }, {}, {}, {}] })
  })

  test('of whom half a network more lies alike: the limit, which is documented', async () => {
    const all = await add(...times(2), ...times(3, { lie: lying() }))
    const report = await asked(all)
    expect([report.v4, outliers(report)]).toMatchObject([{ kind: 'agreed', address: LIE }, ids(all.slice(0, 2))])
  })

  test('of whom two keep silent: agreed when the time is up; three, and it is too few', async () => {
    const all = await add(...times(3), ...times(2, { serve: silent }))
    const report = await asked(all, { timeoutMs: SHORT_MS })
    expect(supporters(report)).toEqual(ids(all.slice(0, 3)))
    expect(report.observers.filter(({ outcome }) => outcome === 'silent').length).toBe(2)
    await observers.close()
    const few = await add(...times(3), ...times(3, { serve: silent }))
    const { v4 } = await asked(few, { timeoutMs: SHORT_MS })
    expect(v4).toMatchObject({ kind: 'too-few', missing: { observers: 0, networks: 1 } })
  })

  test('of whom one keeps silent: nobody waits for that', async () => {
    const all = await add(...times(4), { serve: silent })
    expect(supporters(await asked(all, { timeoutMs: LONG_MS }))).toEqual(ids(all.slice(0, 4)))
  })

  test('that are in our own network are not asked: they see us from inside', async () => {
    const all = await add(...times(3))
    const report = await ask(all, { anyScope: false })
    expect([report.observers, report.v4]).toMatchObject([[], { kind: 'too-few' }])
  })
})

describe('nobody wins', () => {
  test('by being early: liars answer at once, the honest, who are more, later', async () => {
    const late = (_: Stream, honest: () => void) => void setTimeout(honest, 150)
    const all = await add(...times(3, { lie: lying() }), ...times(4, { serve: late }))
    const report = await asked(all)
    expect(report.v4).toMatchObject({ kind: 'agreed', address: ASKER })
    expect(outliers(report)).toEqual(ids(all.slice(0, 3)))
  })

  test('by answering when others, in networks that nobody knows, do not', async () => {
    const liars = times(3, { lie: lying() })
    const all = await add(...liars, ...times(3, { serve: silent, relayed: true }))
    expect((await asked(all, { timeoutMs: SHORT_MS })).v4).toMatchObject({ kind: 'too-few', said: [{ address: LIE }] })
  })

  test.runIf(HAS_IPV6)('of IPv4 by answering when others, to whom we speak over IPv6, do not', async () => {
    const all = await add(...times(3, { lie: lying() }), ...times(3, { host: '::1', serve: silent }))
    expect((await asked(all, { timeoutMs: SHORT_MS })).v4).toMatchObject({ kind: 'too-few', said: [{ address: LIE }] })
  })

  test('by being many in one network', async () => {
    const liars = [1, 2, 3, 4].map((at) => ({ host: `127.0.9.${at}`, lie: lying() }))
    expect((await asked(await add(...times(3), ...liars))).v4).toMatchObject({ kind: 'agreed', address: ASKER })
  })

  test('by saying two things', async () => {
    let first = true
    const both = (from: SocketAddress) => {
      first = !first
      return first ? from : { ...from, host: LIE }
    }
    const all = await add(...times(3), { lie: both })
    const report = await asked(all)
    expect([report.v4, supporters(report)]).toMatchObject([{ kind: 'agreed', address: ASKER }, ids(all.slice(0, 3))])
  })

  test('by sending a token again that was caught on the way, from elsewhere', async () => {
    const thief = createSocket('udp4').bind(0, '127.0.0.66')
    await once(thief, 'listening')
    const all = await add(...times(4))
    const [first] = all
    udp = await observers.udp(ASKER)
    // What goes to the first of them is caught, and only what the thief sends arrives; elsewhere both do.
    const caught: Pick<UdpSocket, 'port' | 'families' | 'send'> = {
      port: udp.port,
      families: [4],
      send: (datagram, to) => {
        thief.send(datagram, to.port, to.host)
        if (to.host !== '127.0.1.1') udp.send(datagram, to)
      },
    }
    const report = await ask(all, { udp: caught, timeoutMs: SHORT_MS })
    await new Promise<void>((resolve) => thief.close(() => resolve()))
    // Each has two answers for us, and none a voice: what it takes is to be on the way to all of them.
    expect(report.v4).toMatchObject({ kind: 'disagreement', said: [] })
    expect(report.observers.find(({ peer }) => peer === first!.peer)?.seen.map(({ mapped }) => mapped.host)).toContain(
      '127.0.0.66',
    )
    expect((await ask(all, { timeoutMs: SHORT_MS })).v4).toMatchObject({ kind: 'agreed', address: ASKER })
  })
})

describe('who is asked', () => {
  test('who does not know its own address does not count, nor who cannot be asked', async () => {
    const refuse = (code: number) => (stream: Stream) => stream.reset(code)
    const all = await add(
      ...times(3),
      ...times(2, { places: [], lie: lying() }),
      { serve: refuse(StreamCode.NO_PROTOCOL) },
      { serve: refuse(StreamCode.DENIED) },
      { serve: refuse(StreamCode.BUSY) },
    )
    const report = await asked(all)
    expect([supporters(report), outliers(report)]).toEqual([ids(all.slice(0, 3)), []])
    expect(report.observers.map(({ outcome, error }) => error?.code ?? outcome).sort()).toEqual([
      'ERR_PEERLINE_BUSY',
      'ERR_PEERLINE_DENIED',
      'ERR_PEERLINE_NO_PROTOCOL',
      'declined',
      'declined',
      'told',
      'told',
      'told',
    ])
  })

  test('nine at most, one of each network before the second of any, in the order given', async () => {
    const near = [1, 2, 3, 4, 5, 6].map((at) => ({ host: `127.0.1.${at}` }))
    const far = [2, 3, 4, 5, 6].map((at) => ({ host: `127.0.${at}.1` }))
    const all = await add(...near, ...far)
    const { observers: told } = await asked(all)
    const order = [0, 6, 7, 8, 9, 10, 1, 2, 3].map((at) => all[at]!.peer)
    expect(told.map(({ peer }) => peer)).toEqual(order)
  })

  test('those that came to us, to fill up to five: however many they are', async () => {
    const came = [5, 6, 7, 8, 9].map((at) => ({ host: `127.0.${at}.1`, inbound: true, lie: lying() }))
    const all = await add(...came, ...[1, 2, 3].map((at) => ({ host: `127.0.${at}.1` })))
    const report = await asked(all)
    expect(report.observers.map(({ peer }) => peer)).toEqual([5, 6, 7, 0, 1].map((at) => all[at]!.peer))
    expect(report.v4).toMatchObject({ kind: 'agreed', address: ASKER })
    await observers.close()
    const alone = await add(...times(7, { inbound: true }))
    expect((await asked(alone)).observers.length).toBe(5)
    expect((await asked(alone, { quorum: 7 })).observers.length).toBe(7)
  })

  test('a peer with two sessions, once; one whose session is over, not at all', async () => {
    const all = await add(...times(3))
    await all[2]!.session.close()
    const { observers: told } = await ask([all[0]!, all[0]!, all[1]!, all[2]!], { timeoutMs: SHORT_MS })
    expect(told.map(({ peer }) => peer)).toEqual([all[0]!.peer, all[1]!.peer])
  })

  test('one alone, where that is said', async () => {
    const one = await add({})
    expect((await asked(one)).v4).toMatchObject({ kind: 'too-few', missing: { observers: 2, networks: 1 } })
    const { v4 } = await asked(one, { quorum: 1 })
    expect(v4).toMatchObject({ kind: 'agreed', address: ASKER, udp: { mapped: [{ port: udp.port }] } })
  })

  test('relayed: in the network in which a token reaches it', async () => {
    const all = await add(...times(3, { relayed: true }))
    const report = await asked(all)
    expect(report.v4).toMatchObject({ kind: 'agreed', address: ASKER, udp: { mapping: 'endpoint-independent' } })
    if (report.v4.kind === 'agreed') {
      expect([...report.v4.networks].sort()).toEqual(['127.0.1.0/24', '127.0.2.0/24', '127.0.3.0/24'])
    }
  })

  test('relayed, and in no network that it only says it is in: it has not received what was sent there', async () => {
    const elsewhere = await Promise.all([7, 8, 9].map((at) => observers.udp(`127.0.${at}.1`)))
    const claims = elsewhere.map(({ port }, at) => ({
      relayed: true,
      serve: says(
        false,
        { public: true, seen: [], places: [['udp', `127.0.${7 + at}.1`, port, new Uint8Array(16)]] },
        { place: 0, host: LIE, port: 9, proof: new Uint8Array(16) },
      ),
    }))
    const report = await asked(await add(...claims), { timeoutMs: SHORT_MS })
    expect(report.v4).toMatchObject({ kind: 'too-few', said: [] })
    expect(report.observers.map(({ outcome }) => outcome)).toEqual(['silent', 'silent', 'silent'])
  })

  test('relayed, and no token arrives: silent', async () => {
    const nowhere = await observers.udp('127.0.8.8')
    const places = [{ kind: 'udp' as const, host: '127.0.8.8', port: nowhere.port }]
    const all = await add(...times(3), { relayed: true, places })
    const report = await asked(all, { timeoutMs: SHORT_MS })
    expect(report.observers.map(({ outcome }) => outcome).sort()).toEqual(['silent', 'told', 'told', 'told'])
    expect(report.v4.kind).toBe('agreed')
  })

  test('with no UDP and no port for TCP, by the paths alone', async () => {
    const { v4 } = await asked(await add(...times(3)), { udp: undefined, tcpPort: undefined })
    expect(v4).toMatchObject({ kind: 'agreed', address: ASKER, udp: { state: 'unknown' }, tcp: { state: 'unknown' } })
  })

  test('by who has the address itself: no NAT', async () => {
    const local: LocalAddress[] = [{ host: ASKER, family: 4, scope: 'loopback', interfaceName: 'lo', prefixBits: 8 }]
    const { v4 } = await asked(await add(...times(3)), { local })
    expect(v4).toMatchObject({ kind: 'agreed', udp: { mapping: 'none' }, tcp: { mapping: 'none' } })
  })

  test.runIf(HAS_IPV6)('of IPv6, apart from IPv4', async () => {
    const all = await add(...times(3), ...times(4, { host: '::1' }))
    const six = await UdpSocket.open({ host: '::1' })
    const local = [...LOCAL, { ...LOCAL[0]!, host: 'fd00::1', family: 6 as const }]
    const { v4, v6 } = await asked(all, { local, udp: six, networks: 1 })
    await six.close()
    expect([v4, v6]).toMatchObject([
      { kind: 'agreed', address: ASKER, udp: { state: 'unknown' }, tcp: { mapping: 'endpoint-independent' } },
      { kind: 'agreed', address: '::1', networks: ['::/48'], udp: { mapped: [{ port: six.port }] } },
    ])
  })

  test('a NAT that counts: in the order of what was sent, whatever comes first', async () => {
    const real = await observers.udp(ASKER)
    const ports = new Map<string, number>()
    const hosts = [1, 2, 3, 4, 5].map((at) => `127.0.${at}.1`)
    const mapped = (host: string) => (from: SocketAddress) =>
      from.port === real.port ? { ...from, port: ports.get(host)! } : from
    const all = await add(...hosts.map((host) => ({ host, lie: mapped(host) })))
    const sent: (() => void)[] = []
    const send = (datagram: Uint8Array, to: SocketAddress): void => {
      ports.set(to.host, 5_000 + ports.size)
      sent.push(() => real.send(datagram, to))
      // The last one leaves first.
      if (sent.length === hosts.length) for (const go of sent.reverse()) go()
    }
    const { v4 } = await asked(all, { udp: { port: real.port, families: [4], send }, timeoutMs: LONG_MS })
    expect(v4).toMatchObject({ kind: 'agreed', udp: { mapping: 'sequential', step: 1 } })
  })

  test('who lies about a port waits in vain for nobody to deny it', async () => {
    const real = await observers.udp(ASKER)
    const lie = (from: SocketAddress) => (from.port === real.port ? { ...from, port: 6_666 } : from)
    const all = await add({ lie }, ...times(4))
    const send = (datagram: Uint8Array, to: SocketAddress): void => {
      const early = to.host === '127.0.1.1' || to.host === '127.0.2.1'
      setTimeout(() => real.send(datagram, to), early ? 0 : 100)
    }
    const { v4 } = await asked(all, { udp: { port: real.port, families: [4], send } })
    expect(v4).toMatchObject({ udp: { mapping: 'endpoint-independent', mapped: [{ port: real.port }] } })
  })

  test('a token that has arrived is not sent again', async () => {
    const real = await observers.udp(ASKER)
    const send = vi.fn((datagram: Uint8Array, to: SocketAddress) => real.send(datagram, to))
    const all = await add(...times(2), ...times(3, { serve: silent }))
    await asked(all, { udp: { port: real.port, families: [4], send }, timeoutMs: SHORT_MS })
    expect(send).toHaveBeenCalledTimes(2)
  })

  test('a token that is lost is sent again', async () => {
    const real = await observers.udp(ASKER)
    const tried = new Set<string>()
    const send = (datagram: Uint8Array, to: SocketAddress): void => {
      if (tried.has(to.host)) real.send(datagram, to)
      tried.add(to.host)
    }
    const { v4 } = await asked(await add(...times(3)), { udp: { port: real.port, families: [4], send } })
    expect(v4).toMatchObject({ udp: { mapping: 'endpoint-independent', mapped: [{ port: real.port }] } })
  })

  test('a NAT with another port for each: random', async () => {
    const all = await add(...times(4))
    const ports = new Map<string, UdpSocket>()
    for (const at of [4, 2, 3, 1]) ports.set(`127.0.${at}.1`, await observers.udp(ASKER))
    const { v4 } = await asked(all, {
      udp: { port: 7_000, families: [4], send: (datagram, to) => ports.get(to.host)!.send(datagram, to) },
      timeoutMs: SHORT_MS,
    })
    if (v4.kind !== 'agreed') expect.fail(v4.kind)
    expect(['random', 'sequential']).toContain(v4.udp.mapping)
    const expected = [...ports.values()].map(({ port }) => port).sort()
    expect(v4.udp.mapped.map(({ port }) => port).sort()).toEqual(expected)
    expect(v4.tcp.mapping).toBe('endpoint-independent')
  })
})

describe('a peer cannot', () => {
  test('point us at somebody else, nor at what is shut out', async () => {
    const [victim, barred] = await add({}, {})
    const places = (['udp', 'tcp'] as const).map((kind) => ({ kind, host: '127.0.1.1', port: victim!.tcpPort }))
    const pointing = await observers.add({ host: '127.0.3.1', places })
    const sent: SocketAddress[] = []
    const watched = { port: 7_000, families: [4] as const, send: (_: Uint8Array, to: SocketAddress) => sent.push(to) }
    const mayUse = (host: string) => host !== '127.0.2.1'
    await asked([victim!, barred!, pointing], { udp: watched, timeoutMs: SHORT_MS, mayUse })
    expect([...new Set(sent.map(({ host, port }) => `${host}:${port}`))]).toEqual([`127.0.1.1:${victim!.udp.port}`])
    expect([victim, barred, pointing].map((one) => one!.probes())).toEqual([1, 0, 0])
  })

  test('say where something came from that was not sent, or go on and on', async () => {
    const here = { public: true, seen: [['tcp', LIE, 9]], places: [] }
    const unsent = says(false, here, { place: 0, host: LIE, port: 9, proof: new Uint8Array(16) })
    const token = new Uint8Array(16)
    const place = { ...here, places: [['udp', '127.0.5.1', 9, token]] }
    const endless = says(false, place, ...Array(20).fill({ place: 0, host: LIE, port: 9, proof: new Uint8Array(16) }))
    const all = await add(...times(3), { serve: unsent }, { serve: endless })
    const report = await asked(all)
    expect(supporters(report)).toEqual(ids(all.slice(0, 3)))
    const told = report.observers.filter(({ error }) => error !== undefined)
    expect(told.map(({ error }) => error?.code)).toEqual(['ERR_PEERLINE_PROTOCOL', 'ERR_PEERLINE_PROTOCOL'])
    expect(told.every(({ seen }) => seen.length < 10)).toBe(true)
  })

  test('have us vote for an address that leads nowhere, or send where we are not', async () => {
    const here = {
      public: true,
      seen: [['tcp', '169.254.1.1', 9]],
      places: [['udp', '2600::5', 9, new Uint8Array(16)]],
    }
    const send = vi.fn()
    const all = await add(...times(3, { serve: says(false, here) }))
    const report = await asked(all, { udp: { port: 7_000, families: [4, 6], send }, timeoutMs: SHORT_MS })
    expect(report).toMatchObject({ v4: { said: [] }, v6: { said: [] } })
    expect(send).not.toHaveBeenCalled()
  })

  test('say that what went over IPv4 came over IPv6', async () => {
    const across = (at: number) =>
      says(
        false,
        { public: true, seen: [['tcp', '2600::1', 9]], places: [['udp', `127.0.${at}.1`, 9, new Uint8Array(16)]] },
        { place: 0, host: '2600::1', port: 9, proof: new Uint8Array(16) },
      )
    const report = await asked(await add(...[1, 2, 3].map((at) => ({ serve: across(at) }))), { timeoutMs: SHORT_MS })
    expect(report).toMatchObject({ v4: { said: [] }, v6: { kind: 'too-few', said: [] } })
  })

  test('do anything else by an answer that is none', async () => {
    const [honest, odd] = [await add(...times(3)), { bytes: new Uint8Array(0) }]
    const hostile = await observers.add({
      host: '127.0.7.1',
      serve: (stream) => void stream.end(odd.bytes).catch(() => {}),
    })
    const all = [...honest, hostile]
    const framed = (body: Uint8Array) => {
      const whole = Buffer.alloc(4 + body.length)
      whole.writeUInt32BE(body.length, 0)
      whole.set(body, 4)
      return Uint8Array.from(whole)
    }
    const place = fc.oneof(
      fc.tuple(fc.constantFrom('udp', 'tcp', 'x'), fc.oneof(fc.ipV4(), fc.ipV6(), fc.string()), fc.integer()),
      fc.anything({ maxDepth: 1, withBigInt: false }),
    )
    const message = fc.record({ public: fc.boolean(), seen: fc.array(place), places: fc.array(place) })
    const cbor = fc.oneof(message, fc.jsonValue()).map((value) => {
      try {
        return framed(encodeCbor(value))
      } catch {
        return framed(Uint8Array.of(0xf6))
      }
    })
    await fc.assert(
      fc.asyncProperty(fc.oneof(fc.uint8Array({ maxLength: 64 }), cbor), async (bytes) => {
        odd.bytes = bytes
        const report = await askQuorum({
          sessions: all.map(({ session }) => session),
          signal: new AbortController().signal,
          local: LOCAL,
          anyScope: true,
          networkOf: (host) => networkOf(host, { 4: 24, 6: 48 }),
        })
        expect(report.v4).toMatchObject({ kind: 'agreed', address: ASKER })
        expect(hostile.session.state).toBe('open')
      }),
      { numRuns: 60, examples: [[framed(encodeCbor({ public: true, seen: [['tcp', LIE, 0]], places: [] }))]] },
    )
  })
})

describe('it ends', () => {
  test('when the signal fires, and leaves nothing behind', async () => {
    const all = await add(...times(3, { serve: silent }))
    const controller = new AbortController()
    const waiting = ask(all, { signal: controller.signal })
    const why = new Error('enough')
    setTimeout(() => controller.abort(why), 20)
    await expect(waiting).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED', cause: why })
    expect(all.map(({ session }) => session.streams)).toEqual([0, 0, 0])
    await expect(ask(all, { signal: controller.signal })).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  })

  test('when nothing listens at a place, at once', async () => {
    const places = [1, 2].map((at) => [{ kind: 'tcp' as const, host: `127.0.${at}.1`, port: 9 }])
    const all = await add(...places.map((one) => ({ places: one })))
    const began = performance.now()
    const report = await asked(all, { timeoutMs: LONG_MS })
    expect(report.v4).toMatchObject({ kind: 'too-few', missing: { observers: 1, networks: 0 } })
    // Its tokens would expire after 5 s.
    expect(performance.now() - began).toBeLessThan(4_500)
  })

  test('with nobody to ask, at once', async () => {
    const [set, clear] = [vi.spyOn(globalThis, 'setTimeout'), vi.spyOn(globalThis, 'clearTimeout')]
    const report = await ask([], { timeoutMs: LONG_MS })
    const timer = set.mock.calls.findIndex(([, ms]) => ms === LONG_MS)
    expect(clear.mock.calls.some(([cleared]) => cleared === set.mock.results[timer]!.value)).toBe(true)
    expect(report).toMatchObject({ v4: { kind: 'too-few' }, v6: { kind: 'too-few' }, observers: [] })
  })

  test('when those who are lost can say no more, and count no more', async () => {
    const all = await add(...times(3), ...times(4, { serve: silent }))
    setTimeout(() => void Promise.all(all.slice(3).map(({ own }) => own.close())), 50)
    const report = await ask(all, { timeoutMs: LONG_MS })
    expect(supporters(report)).toEqual(ids(all.slice(0, 3)))
    // With two of them gone, three are the majority.
    expect(report.observers.filter(({ outcome }) => outcome === 'failed').length).toBeGreaterThanOrEqual(2)
  })

  test('and what somebody told before he was lost stands', async () => {
    const here = { public: true, seen: [['tcp', ASKER, 9]], places: [] }
    const quick = says(true, here)
    const late = (_: Stream, honest: () => void) => void setTimeout(honest, 50)
    const all = await add({ serve: quick }, ...times(2, { serve: late }))
    const report = await asked(all)
    expect(supporters(report)).toEqual(ids(all))
    const quickest = report.observers.find(({ peer }) => peer === all[0]!.peer)
    expect([quickest?.outcome, quickest?.error?.code]).toEqual(['told', 'ERR_PEERLINE_PROTOCOL'])
  })

  test.each([{ quorum: 0 }, { networks: 4 }, { timeoutMs: 0 }, { timeoutMs: Number.NaN }])(
    'before anybody is asked, with %o',
    async (wrong) => {
      await expect(ask([], wrong)).rejects.toMatchObject({ code: 'ERR_PEERLINE_INVALID' })
    },
  )

  test('and sends nothing any more', async () => {
    const all = await add(...times(3))
    const sent = vi.fn()
    await ask(all, { udp: { port: 7_000, families: [4], send: sent }, tcpPort: undefined, timeoutMs: 50 })
    const count = sent.mock.calls.length
    expect(count).toBe(3)
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(sent.mock.calls.length).toBe(count)
  })
})
