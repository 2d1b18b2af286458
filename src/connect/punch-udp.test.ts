import { randomBytes } from 'node:crypto'
import { createSocket, type Socket as DatagramSocket } from 'node:dgram'
import { once } from 'node:events'
import { afterEach, describe, expect, test, vi } from 'vitest'
import type { SocketAddress } from '../network/address.ts'
import { UdpSocket } from '../network/udp-socket.ts'
import { expectSame, Recorder, sample, turns } from '../path/recorder.compliance.ts'
import { NatBox, type NatRules, NattedSocket } from './nat-box.compliance.ts'
import type { PortAllocation } from './punch-plan.ts'
import { PROBE_BYTES, type Probe, ProbeCodec, ProbeType } from './punch-probe.ts'
import { type Punched, type PunchSocket, type PunchUdpOptions, punchUdp } from './punch-udp.ts'

const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  vi.useRealTimers()
  for (const close of closers.splice(0).reverse()) await close()
})

function keep<T extends { close(): Promise<void> }>(thing: T): T {
  closers.push(() => thing.close())
  return thing
}

const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })
const loopback = (port: number): SocketAddress => ({ host: '127.0.0.1', port, family: 4 })

/** One side of a punch. */
interface Side<S extends PunchSocket> {
  readonly socket: S
  readonly openSocket?: () => Promise<S>
  readonly addresses: SocketAddress[]
  readonly reflexive?: SocketAddress
  readonly ports: PortAllocation
}

/** Punches from both sides, `a` being the initiator. */
async function punch<A extends PunchSocket, B extends PunchSocket>(
  a: Side<A>,
  b: Side<B>,
  more: Partial<Pick<PunchUdpOptions, 'budget' | 'signal' | 'attempt'>> = {},
): Promise<[Punched<A>, Punched<B>]> {
  const common = { secret: randomBytes(32), attempt: 1, signal: AbortSignal.timeout(15_000), ...more }
  const options = <S extends PunchSocket, R extends PunchSocket>(
    side: Side<S>,
    other: Side<R>,
    initiator: boolean,
  ) => ({
    ...common,
    socket: side.socket,
    openSocket: side.openSocket,
    initiator,
    remotes: other.addresses,
    remoteReflexive: other.reflexive,
    localPorts: side.ports,
    remotePorts: other.ports,
  })
  const results = await Promise.allSettled([punchUdp(options(a, b, true)), punchUdp(options(b, a, false))])
  for (const result of results) if (result.status === 'rejected') throw result.reason
  return results.map((result) => (result as PromiseFulfilledResult<unknown>).value) as [Punched<A>, Punched<B>]
}

/** A side behind a NAT of its own. */
async function behind(
  rules: NatRules,
  ports: PortAllocation,
): Promise<Side<NattedSocket> & { box: NatBox; more: NattedSocket[] }> {
  const box = keep(await NatBox.open(rules))
  const socket = keep(await NattedSocket.open(box))
  const more: NattedSocket[] = []
  const openSocket = async (): Promise<NattedSocket> => {
    const opened = keep(await NattedSocket.open(box))
    more.push(opened)
    return opened
  }
  const reflexive = socket.reflexive()
  return { socket, openSocket, addresses: [reflexive], reflexive, ports, box, more }
}

async function open(): Promise<Side<UdpSocket>> {
  const socket = keep(await UdpSocket.open({ host: '127.0.0.1' }))
  return { socket, addresses: [loopback(socket.port)], ports: { kind: 'none' } }
}

/** Bytes get through both ways. */
async function expectOpen(a: Punched<PunchSocket>, b: Punched<PunchSocket>): Promise<void> {
  const [atA, atB] = [new Recorder(), new Recorder()]
  a.path.start(atA)
  b.path.start(atB)
  a.path.send([sample(100)])
  b.path.send([sample(12_000)])
  await Promise.all([atA.count(1), atB.count(1)])
  expectSame([atA.messages[0]!, atB.messages[0]!], [sample(12_000), sample(100)])
  a.path.destroy()
  b.path.destroy()
}

const FIXED: NatRules = { mapping: 'fixed', filtering: 'port' }

describe('UDP hole punching', () => {
  test('without a NAT takes the address that was told', async () => {
    const [a, b] = [await open(), await open()]
    const [atA, atB] = await punch(a, b)
    expect(atA).toMatchObject({ how: 'direct', remote: loopback(b.socket.port), socket: a.socket })
    expect(atB).toMatchObject({ how: 'direct', remote: loopback(a.socket.port), socket: b.socket })
    expect(atA.rttMs).toBeGreaterThan(0)
    expect(atA.rttMs).toBeLessThan(100)
    await expectOpen(atA, atB)
  })

  test.each(['none', 'address', 'port'] as const)('fixed ports on both sides, filter by %s', async (filtering) => {
    const a = await behind({ mapping: 'fixed', filtering }, { kind: 'fixed' })
    const b = await behind(FIXED, { kind: 'fixed' })
    const [atA, atB] = await punch(a, b)
    expect([atA.how, atB.how]).toEqual(['direct', 'direct'])
    expect(atA.remote).toEqual(b.reflexive)
    await expectOpen(atA, atB)
  })

  test.each([true, false])(
    'sequential ports against fixed ones are predicted (initiator sequential: %s)',
    async (first) => {
      const a = await behind({ mapping: 'sequential', filtering: 'port', step: 2 }, { kind: 'sequential', step: 2 })
      const b = await behind(FIXED, { kind: 'fixed' })
      a.box.takePorts(3)
      const [atA, atB] = first ? await punch(a, b) : await punch(b, a)
      expect([atA.how, atB.how]).toEqual(['predicted', 'predicted'])
      await expectOpen(atA, atB)
    },
  )

  test.each([
    [0, 0],
    [1, 0],
    [0, 2],
    [2, 1],
    [1, 3],
    [3, 4],
  ])('sequential ports on both sides meet, other traffic having taken %i and %i', async (takenA, takenB) => {
    const rules: NatRules = { mapping: 'sequential', filtering: 'port' }
    const a = await behind(rules, { kind: 'sequential', step: 1 })
    const b = await behind(rules, { kind: 'sequential' })
    a.box.takePorts(takenA)
    b.box.takePorts(takenB)
    const [atA, atB] = await punch(a, b)
    expect([atA.how, atB.how]).toEqual(['predicted', 'predicted'])
    await expectOpen(atA, atB)
  })

  test('a NAT that counts spends its next port on the address that counts on it', async () => {
    const a = await behind({ mapping: 'sequential', filtering: 'port' }, { kind: 'sequential' })
    const b = await behind(FIXED, { kind: 'fixed' })
    a.box.takePorts(3)
    const nearby = Array.from({ length: 15 }, (_, i) => loopback(i + 1))
    const [atA, atB] = await punch(a, { ...b, addresses: [...nearby, ...b.addresses] })
    expect(atA.remote).toEqual(b.reflexive)
    expect(atB.how).toBe('predicted')
    await expectOpen(atA, atB)
  })

  test.each([
    ['a fixed one', FIXED, 'fixed'],
    ['another such', { mapping: 'sequential', filtering: 'port' }, 'unknown'],
  ] as const)('an unknown NAT that counts and %s meet by guessing', async (_, rules, kind) => {
    const a = await behind({ mapping: 'sequential', filtering: 'port' }, { kind: 'unknown' })
    const b = await behind(rules, { kind })
    const [atA, atB] = await punch(a, b)
    expect([atA.how, atB.how]).toEqual(['predicted', 'predicted'])
    await expectOpen(atA, atB)
  })

  test('random ports against an open side need no search', async () => {
    const a = await behind({ mapping: 'random', filtering: 'port' }, { kind: 'random' })
    const b = await behind({ mapping: 'fixed', filtering: 'address' }, { kind: 'fixed' })
    const [atA, atB] = await punch(a, b)
    expect([atA.how, atB.how]).toEqual(['direct', 'direct'])
    expect(a.more.length).toBe(0)
    await expectOpen(atA, atB)
  })

  test.each([true, false])('random ports against filtered ones are searched (initiator random: %s)', async (first) => {
    const a = await behind({ mapping: 'random', filtering: 'port' }, { kind: 'random' })
    const b = await behind(FIXED, { kind: 'fixed' })
    const [atA, atB] = first ? await punch(a, b) : await punch(b, a)
    expect([atA.how, atB.how]).toEqual(['birthday', 'birthday'])
    const winner = (first ? atA : atB).socket as NattedSocket
    expect(a.more.length).toBeGreaterThan(100)
    expect(a.more.filter((socket) => socket !== winner && !socket.closed)).toEqual([])
    await expectOpen(atA, atB)
    // The winner closes itself after its path; the responder listens for a while longer.
    if (first) {
      const isFree = async (): Promise<boolean> => {
        const again = await UdpSocket.open({ host: '127.0.0.1', port: winner.port }).catch(() => undefined)
        await again?.close()
        return again !== undefined
      }
      await vi.waitUntil(isFree)
    }
  })
})

/** Numbers that are the same in every run. */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}

/** Loses, doubles and delays all but the packets of streams. */
function rough(seed: number, loss: number): NonNullable<NatRules['fate']> {
  const random = seeded(seed)
  return (datagram) =>
    datagram[0] === 0xff
      ? [0]
      : random() < loss
        ? []
        : random() < 0.3
          ? [random() * 30, random() * 30]
          : [random() * 30]
}

const isProbe = (datagram: Uint8Array, type: number): boolean =>
  datagram.length === PROBE_BYTES && (datagram[0]! & 0xc0) === 0x80 && datagram[8] === type

describe('UDP hole punching on bad ways', () => {
  test.each([1, 2, 3])('gets through loss, doubles and reordering (seed %i)', async (seed) => {
    const a = await behind({ ...FIXED, fate: rough(seed, 0.3) }, { kind: 'fixed' })
    const b = await behind({ ...FIXED, fate: rough(seed + 100, 0.3) }, { kind: 'fixed' })
    const [atA, atB] = await punch(a, b)
    expect([atA.how, atB.how]).toEqual(['direct', 'direct'])
    await expectOpen(atA, atB)
  })

  test('finds a random port though every tenth datagram is lost', async () => {
    const a = await behind({ mapping: 'random', filtering: 'port', fate: rough(7, 0.1) }, { kind: 'random' })
    const b = await behind({ ...FIXED, fate: rough(8, 0.1) }, { kind: 'fixed' })
    const [atA, atB] = await punch(a, b)
    expect([atA.how, atB.how]).toEqual(['birthday', 'birthday'])
    await expectOpen(atA, atB)
  })

  test.each([
    ['nominations', ProbeType.nominate],
    ['accepting datagrams', ProbeType.accept],
  ])('repeats %s that are lost, and keeps what overtakes them', async (_, type) => {
    let lost = 0
    const fate = (datagram: Uint8Array, out: boolean): number[] =>
      out && isProbe(datagram, type) && lost++ < 4 ? [] : [0]
    const a = await behind({ ...FIXED, fate }, { kind: 'fixed' })
    const b = await behind({ ...FIXED, fate }, { kind: 'fixed' })
    const secret = randomBytes(32)
    const signal = AbortSignal.timeout(10_000)
    const common = { secret, attempt: 1, signal, localPorts: a.ports, remotePorts: b.ports }
    const asking = punchUdp({ ...common, socket: a.socket, initiator: true, remotes: b.addresses })
    const answered = await punchUdp({ ...common, socket: b.socket, initiator: false, remotes: a.addresses })
    const atB = new Recorder()
    answered.path.start(atB)
    answered.path.send([sample(700)]) // while the initiator does not know yet
    const asked = await asking
    expect(lost).toBeGreaterThan(4)
    const atA = new Recorder()
    asked.path.start(atA)
    await atA.count(1)
    expectSame(atA.messages, [sample(700)])
    asked.path.destroy()
    await atB.end()
  })
})

describe('UDP hole punching that cannot work', () => {
  test.each([
    ['random', 'random'],
    ['random', 'sequential'],
    ['sequential', 'random'],
  ] as const)('%s against %s is given up at once, with the reason', async (local, remote) => {
    const a = await open()
    const started = performance.now()
    const punching = punchUdp({
      socket: a.socket,
      secret: randomBytes(32),
      attempt: 1,
      initiator: true,
      remotes: [loopback(9)],
      localPorts: { kind: local },
      remotePorts: { kind: remote },
      signal: AbortSignal.timeout(10_000),
    })
    await expect(punching).rejects.toThrow(code('ERR_PEERLINE_NO_PATH'))
    await expect(punching).rejects.toThrow(/random port/)
    expect(performance.now() - started).toBeLessThan(100)
  })

  test('ends by itself when nobody answers, or nobody who shares secret, attempt and part', async () => {
    const alone = await behind(FIXED, { kind: 'fixed' })
    const nobody = await behind(FIXED, { kind: 'fixed' })
    const pairs = await Promise.all(
      [1, 2, 3].map(
        async () => [await behind(FIXED, { kind: 'fixed' }), await behind(FIXED, { kind: 'fixed' })] as const,
      ),
    )
    const secret = randomBytes(32)
    const run = (own: typeof alone, other: typeof alone, differs: Partial<PunchUdpOptions<NattedSocket>>) =>
      punchUdp({
        socket: own.socket,
        secret,
        attempt: 1,
        initiator: true,
        remotes: other.addresses,
        localPorts: { kind: 'fixed' },
        remotePorts: { kind: 'fixed' },
        signal: AbortSignal.timeout(15_000),
        ...differs,
      })
    const started = performance.now()
    const [[a1, b1], [a2, b2], [a3, b3]] = pairs as [(typeof pairs)[0], (typeof pairs)[0], (typeof pairs)[0]]
    const results = await Promise.allSettled([
      run(alone, nobody, {}),
      run(a1, b1, {}),
      run(b1, a1, { secret: randomBytes(32), initiator: false }),
      run(a2, b2, {}),
      run(b2, a2, { attempt: 2, initiator: false }),
      run(a3, b3, {}),
      run(b3, a3, { initiator: true }),
    ])
    const took = performance.now() - started
    for (const result of results) {
      expect(result).toMatchObject({ status: 'rejected', reason: { code: 'ERR_PEERLINE_NO_PATH' } })
    }
    expect((results[0] as PromiseRejectedResult).reason.message).toMatch(
      /^punching UDP: nothing was heard in 5 s; sent \d+ datagrams to 1 addresses \(127\.[\d.]+:\d+\)$/,
    )
    expect(took).toBeGreaterThan(4_900)
    expect(took).toBeLessThan(7_000)
    expect([a1, b1, a2, b2, a3, b3, alone].map(({ socket }) => socket.routes)).toEqual(Array(7).fill(0))
  }, 15_000)

  test.each([{ secret: randomBytes(31) }, { attempt: -1 }, { attempt: 2 ** 32 }, { attempt: 1.5 }])(
    'refuses %o',
    async (bad) => {
      const a = await open()
      const options: PunchUdpOptions = {
        socket: a.socket,
        secret: randomBytes(32),
        attempt: 1,
        initiator: true,
        remotes: [],
        localPorts: { kind: 'none' },
        remotePorts: { kind: 'none' },
        signal: AbortSignal.timeout(1_000),
        ...bad,
      }
      await expect(punchUdp(options)).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    },
  )

  test('of the same attempt twice at once is refused', async () => {
    const a = await open()
    const controller = new AbortController()
    const options: PunchUdpOptions = {
      socket: a.socket,
      secret: randomBytes(32),
      attempt: 1,
      initiator: true,
      remotes: [],
      localPorts: { kind: 'none' },
      remotePorts: { kind: 'none' },
      signal: controller.signal,
    }
    const first = punchUdp(options)
    await expect(punchUdp(options)).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    controller.abort()
    await expect(first).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    controller.abort()
    await expect(punchUdp(options)).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
  })

  test('leaves nothing behind when it is aborted, even in the middle of a search', async () => {
    const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length
    const a = await behind({ mapping: 'random', filtering: 'port' }, { kind: 'random' })
    const b = await behind(FIXED, { kind: 'fixed' })
    const before = timers()
    const controller = new AbortController()
    const punching = punch(a, { ...b, addresses: [loopback(9)], reflexive: loopback(9) }, { signal: controller.signal })
    await vi.waitUntil(() => a.more.length > 40)
    controller.abort()
    await expect(punching).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    expect(a.more.filter(({ closed }) => !closed)).toEqual([])
    expect([a.socket.routes, b.socket.routes]).toEqual([0, 0])
    expect([a.socket.ids.size, b.socket.ids.size]).toEqual([0, 0])
    expect(timers()).toBeLessThanOrEqual(before)
    const opened = a.more.length
    await turns(30)
    expect(a.more.length).toBe(opened)
  })

  test('searches for nothing when it may not', async () => {
    const a = await behind({ mapping: 'random', filtering: 'port' }, { kind: 'random' })
    let sent = 0
    const fate = (_: Uint8Array, out: boolean): number[] => {
      if (out) sent++
      return [0]
    }
    const b = await behind({ ...FIXED, fate }, { kind: 'fixed' })
    const punching = punch(a, b, { budget: false, signal: AbortSignal.timeout(600) })
    await expect(punching).rejects.toThrow(code('ERR_PEERLINE_TIMEOUT'))
    expect(a.more.length).toBe(0)
    expect(sent).toBeLessThan(20)
  })
})

describe('UDP hole punching among strangers', () => {
  /** A plain socket that speaks the wire as it likes. */
  async function speaker(): Promise<{ socket: DatagramSocket; heard: Buffer[]; address: SocketAddress }> {
    const socket = createSocket('udp4').bind(0, '127.0.0.1')
    await once(socket, 'listening')
    closers.push(() => new Promise((resolve) => socket.close(() => resolve(undefined))))
    const heard: Buffer[] = []
    socket.on('message', (datagram) => heard.push(datagram))
    return { socket, heard, address: loopback(socket.address().port) }
  }

  /** A punch whose other side the test plays. */
  async function against(initiator: boolean, remotes: SocketAddress[]) {
    const secret = randomBytes(32)
    const own = await open()
    const controller = new AbortController()
    const punching = punchUdp({
      socket: own.socket,
      secret,
      attempt: 5,
      initiator,
      remotes,
      localPorts: { kind: 'none' },
      remotePorts: { kind: 'none' },
      signal: controller.signal,
    })
    const settled = punching.then(
      (punched) => punched,
      (error: { code: string }) => error.code,
    )
    closers.push(async () => {
      controller.abort()
      await settled
    })
    const codec = new ProbeCodec(secret, 5, !initiator)
    const probe = (probe: Partial<Probe>): Uint8Array =>
      codec.seal({ type: 1, how: 'direct', rttMs: 0, streamId: 77, cookie: new Uint8Array(8), ...probe })
    return { own, secret, settled, codec, probe, to: own.socket.port }
  }

  test('answers none of them, and none of what was said in another attempt or to the other side', async () => {
    const stranger = await speaker()
    const { secret, codec, probe, to } = await against(true, [])
    const good = Buffer.from(probe({}))
    const flipped = Array.from({ length: PROBE_BYTES }, (_, i) => {
      const bad = Buffer.from(good)
      bad[i]! ^= 1
      return bad
    })
    const others = [
      new ProbeCodec(secret, 4, false).seal({
        type: 1,
        how: 'direct',
        rttMs: 0,
        streamId: 7,
        cookie: new Uint8Array(8),
      }),
      new ProbeCodec(secret, 5, true).seal({
        type: 1,
        how: 'direct',
        rttMs: 0,
        streamId: 7,
        cookie: new Uint8Array(8),
      }),
      probe({ type: 5 as never }),
      probe({ type: 0 as never }),
      Buffer.concat([good, Buffer.alloc(1)]),
      good.subarray(0, 39),
      Buffer.from(codec.tag),
    ]
    for (const datagram of [...flipped, ...others]) stranger.socket.send(datagram, to, '127.0.0.1')
    stranger.socket.send(good, to, '127.0.0.1')
    await vi.waitUntil(() => stranger.heard.length > 0)
    await turns(30)
    const answers = stranger.heard.filter((datagram) => codec.open(datagram)?.type === ProbeType.answer)
    expect(answers.length).toBe(1)
  })

  test('answers with no more bytes than it was asked with, and at a bounded rate', async () => {
    const stranger = await speaker()
    const { codec, probe, to } = await against(false, [])
    const started = performance.now()
    for (let i = 0; i < 2_000; i++) {
      stranger.socket.send(probe({}), to, '127.0.0.1')
      if (i % 50 === 0) await turns(1)
    }
    await turns(30)
    const answers = stranger.heard.filter((datagram) => codec.open(datagram)?.type === ProbeType.answer)
    expect(answers.length).toBeGreaterThan(50)
    expect(answers.length).toBeLessThan(101 + ((performance.now() - started) / 1_000) * 200)
    expect(Math.max(...stranger.heard.map(({ length }) => length))).toBe(PROBE_BYTES)
  })

  test('probes an address that is heard from, though it was not told', async () => {
    const peer = await speaker()
    const { codec, probe, settled, to } = await against(true, [])
    peer.socket.on('message', (datagram) => {
      const heard = codec.open(datagram)
      if (heard?.type === ProbeType.probe)
        peer.socket.send(probe({ type: ProbeType.answer, cookie: heard.cookie }), to, '127.0.0.1')
      if (heard?.type === ProbeType.nominate) peer.socket.send(probe({ type: ProbeType.accept }), to, '127.0.0.1')
    })
    peer.socket.send(probe({}), to, '127.0.0.1')
    expect(await settled).toMatchObject({ remote: peer.address, how: 'direct' })
  })

  test('takes no answer for one that does not give back what was asked, nor an accept that was not asked for', async () => {
    const peer = await speaker()
    const { codec, probe, settled, to } = await against(true, [peer.address])
    let nominated = false
    let truth = false
    peer.socket.on('message', (datagram) => {
      const heard = codec.open(datagram)
      if (heard?.type === ProbeType.nominate) {
        nominated = true
        if (truth) peer.socket.send(probe({ type: ProbeType.accept }), to, '127.0.0.1')
      }
      if (heard?.type !== ProbeType.probe) return
      const otherPort = Uint8Array.from(heard.cookie, (byte, i) => (i === 5 ? byte ^ 1 : byte))
      const otherHost = Uint8Array.from(heard.cookie, (byte, i) => (i === 7 ? byte ^ 1 : byte))
      const future = Uint8Array.from(heard.cookie, (byte, i) => (i === 0 ? 0x7f : byte))
      const cookies = truth ? [heard.cookie] : [otherPort, otherHost, future, new Uint8Array(8)]
      for (const cookie of cookies) peer.socket.send(probe({ type: ProbeType.answer, cookie }), to, '127.0.0.1')
      for (const type of [ProbeType.accept, ProbeType.nominate]) peer.socket.send(probe({ type }), to, '127.0.0.1')
    })
    await vi.waitUntil(() => peer.heard.length > 5)
    expect(nominated).toBe(false)
    truth = true
    expect(await settled).toMatchObject({ remote: peer.address })
  })

  test('another stream id than the first one counts for nothing', async () => {
    const peer = await speaker()
    const { codec, probe, settled, to } = await against(false, [])
    peer.socket.send(probe({ streamId: 1 }), to, '127.0.0.1')
    await vi.waitUntil(() => peer.heard.length > 0)
    peer.socket.send(probe({ type: ProbeType.nominate, streamId: 2 }), to, '127.0.0.1')
    peer.socket.send(probe({ type: ProbeType.nominate, streamId: 1, rttMs: 12.3, how: 'predicted' }), to, '127.0.0.1')
    const punched = await settled
    expect(punched).toMatchObject({ rttMs: 12.3, how: 'predicted', remote: peer.address })
    const accepts = () => peer.heard.filter((datagram) => codec.open(datagram)?.type === ProbeType.accept).length
    await vi.waitUntil(() => accepts() === 1)
    peer.socket.send(probe({ type: ProbeType.nominate, streamId: 1 }), to, '127.0.0.1') // the accept was lost
    await vi.waitUntil(() => accepts() === 2)
  })

  test('keeps no more than so many addresses, however many it hears from', async () => {
    const { codec, probe, to } = await against(true, [])
    let probed = 0
    const speakers = await Promise.all(Array.from({ length: 100 }, () => speaker()))
    for (const { socket } of speakers) {
      socket.once('message', (datagram) => {
        if (codec.open(datagram)?.type === ProbeType.probe) probed++
      })
      socket.send(probe({}), to, '127.0.0.1')
    }
    await vi.waitUntil(() => probed >= 64)
    await turns(30)
    expect(probed).toBe(64)
  })

  test('sends to the first 16 addresses that can be sent to, and to no group or nothing', async () => {
    const targets = await Promise.all(Array.from({ length: 20 }, () => speaker()))
    const odd: SocketAddress[] = [
      { host: '224.0.0.1', port: 5_353, family: 4 },
      { host: '0.0.0.0', port: targets[19]!.address.port, family: 4 },
      { host: '127.0.0.1', port: 0, family: 4 },
      { host: 'example.invalid', port: 9, family: 4 },
      { host: '::1', port: 9, family: 6 },
    ]
    await against(true, [...odd, ...targets.map(({ address }) => address)])
    await vi.waitUntil(() => targets.slice(0, 11).every(({ heard }) => heard.length > 1))
    expect(targets.slice(11).flatMap(({ heard }) => heard)).toEqual([])
  })
})

describe('the choice of UDP hole punching', () => {
  type Alias = readonly [alias: SocketAddress, real: SocketAddress]

  /** `real` under the name of an address elsewhere. */
  class AliasSocket implements PunchSocket {
    readonly families = [4] as const
    readonly #socket: UdpSocket
    readonly #aliases: readonly Alias[]

    constructor(socket: UdpSocket, aliases: readonly Alias[]) {
      this.#socket = socket
      this.#aliases = aliases
    }
    #real(address: SocketAddress): SocketAddress {
      return this.#aliases.find(([{ host, port }]) => host === address.host && port === address.port)?.[1] ?? address
    }
    send(datagram: Uint8Array, to: SocketAddress): void {
      this.#socket.send(datagram, this.#real(to))
    }
    route(tag: Uint8Array, handler: (datagram: Uint8Array, from: SocketAddress) => void): () => void {
      return this.#socket.route(tag, (datagram, from) => {
        const alias = this.#aliases.find(([, { host, port }]) => host === from.host && port === from.port)?.[0]
        handler(datagram, alias ?? from)
      })
    }
    connect(options: Parameters<UdpSocket['connect']>[0]) {
      return this.#socket.connect({ ...options, remote: this.#real(options.remote) })
    }
    reserveId = (): number => this.#socket.reserveId()
    releaseId = (id: number): void => this.#socket.releaseId(id)
    retire = (): void => this.#socket.retire()
    close = (): Promise<void> => this.#socket.close()
  }

  /** A port that passes everything on between two others, once `gate` is open. */
  async function detour(
    a: number,
    b: number,
    gate: Promise<void>,
    passed: (datagram: Uint8Array) => void = () => {},
  ): Promise<SocketAddress> {
    const socket = createSocket('udp4').bind(0, '127.0.0.1')
    await once(socket, 'listening')
    let open = true
    socket.on('message', (datagram, { port }) => {
      void gate.then(() => {
        if (!open) return
        socket.send(datagram, port === a ? b : a, '127.0.0.1')
        passed(datagram)
      })
    })
    closers.push(async () => {
      open = false
      await new Promise<void>((resolve) => socket.close(() => resolve()))
    })
    return loopback(socket.address().port)
  }

  /** A near and a far address of one peer. The near one answers only after the far one has, or never. */
  async function nearAndFar(nearAnswers: boolean) {
    const [a, b] = [await open(), await open()]
    let far: () => void = () => {}
    const farAnswered = new Promise<void>((resolve) => {
      far = resolve
    })
    const real = await detour(a.socket.port, b.socket.port, Promise.resolve(), (datagram) => {
      if (isProbe(datagram, ProbeType.answer)) far()
    })
    const near = await detour(a.socket.port, b.socket.port, nearAnswers ? farAnswered : new Promise(() => {}))
    const alias: SocketAddress = { host: '8.8.4.4', port: real.port, family: 4 }
    const own = { socket: new AliasSocket(a.socket, [[alias, real]]), addresses: [], ports: a.ports }
    return { own, other: { ...b, addresses: [near, alias] }, near, far: alias, farAnswered }
  }

  test('is the nearer address, though the farther one was confirmed a little earlier', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] }) // nobody's patience runs out
    const { own, other, near } = await nearAndFar(true)
    const [atA] = await punch(own, other)
    expect(atA.remote).toEqual(near)
    atA.path.destroy()
  })

  test('does not wait long for a nearer address that is not to be reached', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const { own, other, far, farAnswered } = await nearAndFar(false)
    const punching = punch(own, other)
    await farAnswered
    await turns(30)
    vi.advanceTimersByTime(15)
    const [atA] = await punching
    expect(atA.remote).toEqual(far)
    atA.path.destroy()
  })
})
