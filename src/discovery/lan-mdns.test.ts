/** Multicast DNS on loopback, with the library as a program of its own on the other side: its sockets, its reading. */
import { randomBytes } from 'node:crypto'
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import multicastDns, { type MulticastDNS, type ResponseOutgoingPacket } from 'multicast-dns'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Identity, type PeerId } from '../identity/index.ts'
import { localAddresses } from '../network/address.ts'
import { answersTo, instanceOf, pointer, recordIn } from './lan-dns.ts'
import { Mdns, type MdnsOptions } from './lan-mdns.ts'

const SERVICE = '_peerline._tcp.local'
const QU = 0x8000
const peer = Identity.generate().peerId
const other = Identity.generate().peerId
const own = {
  bytes: new Uint8Array(randomBytes(400)),
  port: 4401,
  hosts: localAddresses({ loopback: true, include: [] }).filter(({ family }) => family === 4),
}

const open: { close(): unknown }[] = []
let port: number
beforeEach(async () => {
  const socket = createSocket('udp4').bind(0)
  await once(socket, 'listening')
  port = socket.address().port
  await once(socket.close(), 'close')
})
afterEach(async () => {
  vi.useRealTimers()
  vi.restoreAllMocks()
  for (const one of open.splice(0)) await one.close()
})

async function mdns(options: Partial<MdnsOptions> = {}) {
  const heard: { record: Uint8Array; claimed: string }[] = []
  const made = await Mdns.open({
    ...{ port, peer, filter: { include: [], loopback: true } },
    own: () => own,
    recent: () => [],
    onRecord: (record, _from, _locals, claimed) => heard.push({ record: new Uint8Array(record), claimed }),
    ...options,
  })
  open.push(made)
  return { mdns: made, heard }
}

interface Got {
  readonly kind: 'query' | 'response'
  readonly id: number
  readonly flag_aa: boolean
  readonly questions: readonly { name: string; type: string }[]
  readonly answers: readonly { name: string; type: string; ttl: number; data: unknown; flush: boolean }[]
  readonly additionals: Got['answers']
}

/** Somebody else on the network. `resolver`: an ordinary one, with a port of its own; `address`: on another machine. */
async function stranger(
  options: { resolver?: boolean; address?: string } = {},
): Promise<{ dns: MulticastDNS; got: Got[] }> {
  const common = { interface: '127.0.0.1', ip: '224.0.0.251', loopback: true, port }
  const { resolver = false, address } = options
  const own = async (socket: Socket) => {
    await once(socket, 'listening')
    socket.setMulticastInterface('127.0.0.1')
    return { ...common, socket, bind: false, multicast: false } as const
  }
  const dns = multicastDns(
    resolver
      ? await own(createSocket('udp4').bind(0, '127.0.0.1'))
      : address !== undefined
        ? await own(createSocket({ type: 'udp4', reuseAddr: true }).bind(port, address))
        : { ...common, bind: '0.0.0.0' },
  )
  open.push({ close: () => new Promise<void>((resolve) => dns.destroy(resolve)) })
  const got: Got[] = []
  dns.on('query', (query) => got.push({ kind: 'query', ...query } as unknown as Got))
  dns.on('response', (response) => got.push({ kind: 'response', ...response } as unknown as Got))
  await once(dns, 'ready')
  return { dns, got }
}

const ask = (dns: MulticastDNS, type: 'PTR' | 'SRV' | 'TXT', name = SERVICE, more: object = {}) =>
  dns.query({ questions: [{ name, type }], ...more } as never)
const responses = (got: readonly Got[]) => got.filter(({ kind }) => kind === 'response')
const types = ({ answers, additionals }: Got) => [answers.map(({ type }) => type), additionals.map(({ type }) => type)]

/** A handle is let go of at the end of the turn after its close event. */
async function handles(): Promise<number> {
  for (let turn = 0; turn < 2; turn++) await new Promise((resolve) => setImmediate(resolve))
  return process.getActiveResourcesInfo().filter((name) => /UDP/.test(name)).length
}

/** Says all there is of a peer, as another program would. */
function tell(dns: MulticastDNS, of: PeerId, record: Uint8Array, more: Partial<ResponseOutgoingPacket> = {}): void {
  dns.respond({
    ...answersTo(new Set(['instance']), { peer: of, own: { ...own, bytes: record }, interfaceName: 'lo' }),
    ...more,
  })
}

describe('being found', () => {
  test('who asks for the service learns instance, port, record and address', async () => {
    await mdns()
    const { dns, got } = await stranger()
    ask(dns, 'PTR')
    await vi.waitFor(() => expect(responses(got).length).toBe(1))
    const [response] = responses(got) as [Got]
    expect(response.flag_aa).toBe(true)
    expect([response.id, response.questions]).toEqual([0, []])
    expect(types(response)).toEqual([['PTR'], ['SRV', 'TXT', 'A']])
    expect(response.answers[0]).toMatchObject({ name: SERVICE, ttl: 4500, data: instanceOf(peer), flush: false })
    const [srv, txt, a] = response.additionals
    expect(srv).toMatchObject({
      name: instanceOf(peer),
      ttl: 120,
      flush: true,
      data: { port: 4401, target: `${peer}.local` },
    })
    expect(recordIn(txt!.data)).toEqual(own.bytes)
    expect(a).toMatchObject({ name: `${peer}.local`, ttl: 120, data: '127.0.0.1' })
  })

  test('the service is among those of the network', async () => {
    await mdns()
    const { dns, got } = await stranger()
    ask(dns, 'PTR', '_services._dns-sd._udp.local')
    await vi.waitFor(() => expect(responses(got)[0]?.answers[0]?.data).toBe(SERVICE))
  })

  test.each([
    ['PTR', SERVICE, 45],
    ['TXT', instanceOf(peer), 0],
  ] as const)(
    'an answer to %s waits as long as its kind has to: 20 to 120 ms when others may have one too',
    async (type, name, ms) => {
      await mdns()
      const { dns, got } = await stranger()
      const wait = vi.spyOn(globalThis, 'setTimeout')
      vi.spyOn(Math, 'random').mockReturnValue(0.25)
      ask(dns, type, name)
      await vi.waitFor(() => expect(responses(got).length).toBe(1))
      expect(wait.mock.calls.map(([, after]) => after)).toContain(ms)
    },
  )

  test('who knows the instance already is not answered', async () => {
    await mdns()
    const { dns, got } = await stranger()
    ask(dns, 'PTR', SERVICE, { answers: [pointer(peer)] })
    ask(dns, 'PTR', '_services._dns-sd._udp.local')
    await vi.waitFor(() => expect(responses(got).length).toBe(1))
    expect(responses(got)[0]!.answers.map(({ name }) => name)).toEqual(['_services._dns-sd._udp.local'])
  })

  test('known answers that follow in a message of their own count as well', async () => {
    await mdns()
    const { dns, got } = await stranger()
    vi.spyOn(Math, 'random').mockReturnValue(0)
    const sent = new Promise((resolve) =>
      dns.query({ questions: [{ name: SERVICE, type: 'PTR' }], flags: 1 << 9 } as never, resolve as never),
    )
    await sent
    dns.query({ questions: [], answers: [pointer(peer)] } as never)
    ask(dns, 'TXT', instanceOf(peer))
    await vi.waitFor(() => expect(responses(got).length).toBe(1))
    expect(types(responses(got)[0]!)).toEqual([['TXT'], []])
  })

  test('nothing is said twice in a second, however many ask', async () => {
    await mdns()
    const { dns, got } = await stranger()
    for (let at = 0; at < 10; at++) ask(dns, 'PTR')
    await vi.waitFor(() => expect(responses(got).length).toBe(1))
    const first = performance.now()
    for (let at = 0; at < 10; at++) ask(dns, 'PTR')
    await vi.waitFor(() => expect(responses(got).length).toBe(2), 2_000)
    expect(performance.now() - first).toBeGreaterThan(800)
  })

  test('an ordinary resolver gets its own question back, and nothing to keep for long', async () => {
    await mdns()
    const { dns, got } = await stranger({ resolver: true })
    dns.query({ id: 4711, questions: [{ name: SERVICE.toUpperCase(), type: 'PTR' }] } as never)
    await vi.waitFor(() => expect(got.length).toBe(1))
    expect(got[0]).toMatchObject({ id: 4711, questions: [{ name: SERVICE, type: 'PTR' }] })
    expect([...got[0]!.answers, ...got[0]!.additionals].map(({ ttl, flush }) => [ttl, flush])).toEqual(
      Array(4).fill([10, false]),
    )
  })

  test('ordinary resolvers are answered five times a second, and no more', async () => {
    vi.useFakeTimers({ toFake: ['performance'] })
    await mdns()
    const { dns, got } = await stranger({ resolver: true })
    for (let at = 0; at < 20; at++) ask(dns, 'PTR')
    await vi.waitFor(() => expect(got.length).toBe(5))
    vi.advanceTimersByTime(1_000)
    ask(dns, 'PTR')
    await vi.waitFor(() => expect(got.length).toBe(6))
  })

  test('who wants to be answered alone is, once everyone has been told', async () => {
    await mdns()
    const everyone = await stranger()
    // The library cannot set the bit: the question goes out as bytes.
    const socket = createSocket({ type: 'udp4', reuseAddr: true })
    socket.bind(port, '127.0.0.1')
    await once(socket, 'listening')
    open.push({ close: () => once(socket.close(), 'close') })
    const unicast: Buffer[] = []
    socket.on('message', (message) => unicast.push(message))
    const labels = Buffer.concat(
      ['_peerline', '_tcp', 'local'].map((label) => Buffer.concat([Buffer.of(label.length), Buffer.from(label)])),
    )
    const question = Buffer.concat([
      Buffer.from('000000000001000000000000', 'hex'),
      labels,
      Buffer.of(0, 0, 12, QU >> 8, 1),
    ])
    const send = () => new Promise((resolve) => socket.send(question, port, '224.0.0.251', resolve))
    socket.setMulticastInterface('127.0.0.1')
    await send()
    await vi.waitFor(() => expect(responses(everyone.got).length).toBe(1))
    expect(unicast).toEqual([])
    await send()
    await vi.waitFor(() => expect(unicast.length).toBe(1))
    expect(responses(everyone.got).length).toBe(1)
  })

  test('announcements and goodbyes hold everything', async () => {
    const { mdns: responder } = await mdns()
    const { got } = await stranger()
    responder.announce()
    await vi.waitFor(() => expect(responses(got).length).toBe(1))
    const goodbye = new Uint8Array(randomBytes(100))
    responder.sendGoodbye(own, goodbye)
    await vi.waitFor(() => expect(responses(got).length).toBe(2))
    for (const response of responses(got)) expect(types(response)).toEqual([['PTR', 'SRV', 'TXT', 'A'], []])
    const [first, last] = responses(got)
    expect([first, last].map((one) => recordIn(one!.answers[2]!.data))).toEqual([own.bytes, goodbye])
    expect(last!.answers.map(({ ttl }) => ttl)).toEqual([0, 0, 0, 0])
  })

  test('who only listens answers nobody, and names nobody when it asks', async () => {
    const { mdns: listener } = await mdns({ own: () => undefined })
    const { dns, got } = await stranger()
    ask(dns, 'PTR')
    ask(dns, 'TXT', instanceOf(peer))
    listener.announce()
    listener.browse()
    await vi.waitFor(() => expect(got.filter(({ answers }) => answers.length === 0).length).toBeGreaterThanOrEqual(3))
    expect(responses(got)).toEqual([])
    expect(JSON.stringify(got.at(-1))).not.toContain(peer)
    expect(got.at(-1)!.questions).toMatchObject([{ name: SERVICE, type: 'PTR' }])
  })
})

describe('finding', () => {
  test('a question names those that are known, ourselves among them', async () => {
    const many = Array.from({ length: 20 }, () => Identity.generate().peerId)
    const { mdns: browser } = await mdns({ recent: () => many })
    const { got } = await stranger()
    browser.browse()
    await vi.waitFor(() => expect(got.length).toBe(1))
    expect(got[0]).toMatchObject({ kind: 'query', id: 0, questions: [{ name: SERVICE, type: 'PTR' }] })
    expect(got[0]!.answers.map(({ data }) => data)).toEqual([peer, ...many.slice(0, 9)].map(instanceOf))
  })

  test('what another program tells of a peer is heard, unasked too', async () => {
    const { heard } = await mdns()
    const { dns } = await stranger()
    const record = new Uint8Array(randomBytes(700))
    tell(dns, other, record)
    await vi.waitFor(() => expect(heard).toEqual([{ record, claimed: other }]))
  })

  test('we are not told of ourselves, nor by whoever does not use the port', async () => {
    const { heard } = await mdns()
    const { dns } = await stranger()
    const resolver = await stranger({ resolver: true })
    tell(resolver.dns, other, new Uint8Array(randomBytes(100)))
    tell(dns, peer, new Uint8Array(randomBytes(100)))
    const record = new Uint8Array(randomBytes(100))
    tell(dns, other, record)
    await vi.waitFor(() => expect(heard).toEqual([{ record, claimed: other }]))
  })

  test('an instance that comes without its record is asked for it', async () => {
    const { heard } = await mdns()
    const { dns, got } = await stranger()
    const record = new Uint8Array(randomBytes(100))
    dns.on('query', ({ questions }) => {
      if (questions?.some(({ type, name }) => type === 'TXT' && name === instanceOf(other))) tell(dns, other, record)
    })
    dns.respond([pointer(other), { ...pointer(other), data: `no-peer.${SERVICE}` }, { ...pointer(peer) }] as never)
    await vi.waitFor(() => expect(heard).toEqual([{ record, claimed: other }]))
    const asked = got.filter(({ kind }) => kind === 'query').flatMap(({ questions }) => questions)
    expect(asked.map(({ name }) => name)).toEqual([SERVICE, instanceOf(other)])
  })

  test('an instance that is known, or has gone, is not', async () => {
    const { mdns: browser } = await mdns({ recent: () => [other] })
    const { dns, got } = await stranger()
    dns.respond([pointer(other), { ...pointer(Identity.generate().peerId), ttl: 0 }] as never)
    await vi.waitFor(() => expect(got.length).toBe(1))
    browser.browse()
    await vi.waitFor(() => expect(got.length).toBe(2))
    expect(got[1]!.questions.map(({ type }) => type)).toEqual(['PTR'])
  })

  test('what another has just asked we do not ask, unless it knows more than we do', async () => {
    vi.useFakeTimers({ toFake: ['performance'] })
    const { mdns: browser } = await mdns()
    const { dns, got } = await stranger()
    const ours = () => got.filter(({ kind, answers }) => kind === 'query' && answers[0]?.data === instanceOf(peer))
    browser.browse()
    await vi.waitFor(() => expect(ours().length).toBe(1))
    vi.advanceTimersByTime(1_500)
    ask(dns, 'PTR')
    await vi.waitFor(() => expect(responses(got).length).toBe(1))
    vi.advanceTimersByTime(500)
    browser.browse()
    vi.advanceTimersByTime(1_500)
    ask(dns, 'PTR', SERVICE, { answers: [pointer(other)] })
    await vi.waitFor(() => expect(got.some(({ answers }) => answers[0]?.data === instanceOf(other))).toBe(true))
    expect(ours().length).toBe(1)
    vi.advanceTimersByTime(500)
    browser.browse()
    await vi.waitFor(() => expect(ours().length).toBe(2))
  })
})

describe('among strangers', () => {
  test('whatever is sent, it goes on', async () => {
    const { heard } = await mdns()
    const { dns, got } = await stranger()
    const socket = createSocket({ type: 'udp4', reuseAddr: true })
    socket.bind(port, '127.0.0.9')
    await once(socket, 'listening')
    open.push({ close: () => once(socket.close(), 'close') })
    const send = (message: Uint8Array) => new Promise((resolve) => socket.send(message, port, '127.0.0.1', resolve))
    const labels = Buffer.from('\x09_peerline\x04_tcp\x05local\x00', 'latin1')
    for (let at = 0; at < 25; at++) {
      const noise = randomBytes(at * 20)
      await send(
        Buffer.concat([Buffer.of(0, 0, at % 2 === 0 ? 0x84 : 0, 0, 0, at % 3, 0, at % 5, 0, 0, 0, 2), labels, noise]),
      )
    }
    const record = new Uint8Array(randomBytes(100))
    tell(dns, other, record)
    await vi.waitFor(() => expect(heard).toEqual([{ record, claimed: other }]))
    got.length = 0
    ask(dns, 'PTR')
    await vi.waitFor(() => expect(responses(got).length).toBe(1), 2_000)
  })

  test('a flood of one source is not read to its end', async () => {
    vi.useFakeTimers({ toFake: ['performance'] })
    const { heard } = await mdns()
    const { dns } = await stranger()
    for (let at = 0; at < 60; at++) tell(dns, other, new Uint8Array(randomBytes(100)))
    const elsewhere = await stranger({ address: '127.0.0.2' })
    const last = new Uint8Array(randomBytes(50))
    tell(elsewhere.dns, other, last)
    await vi.waitFor(() => expect(heard.at(-1)?.record).toEqual(last))
    expect(heard.length).toBe(31)
    vi.advanceTimersByTime(1_000)
    const record = new Uint8Array(randomBytes(50))
    tell(dns, other, record)
    await vi.waitFor(() => expect(heard.at(-1)!.record).toEqual(record))
    expect(heard.length).toBe(32)
  })

  test('what others talk about is not read', async () => {
    vi.useFakeTimers({ toFake: ['performance'] })
    const { heard } = await mdns()
    const { dns } = await stranger()
    for (let at = 0; at < 60; at++) dns.respond([{ name: `${at}._http._tcp.local`, type: 'PTR', data: 'x.local' }])
    const record = new Uint8Array(randomBytes(100))
    tell(dns, other, record)
    await vi.waitFor(() => expect(heard).toEqual([{ record, claimed: other }]))
  })

  test('nothing is left behind', async () => {
    const before = await handles()
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] })
    const { mdns: one } = await mdns()
    one.announce()
    one.announce()
    one.browse()
    expect(vi.getTimerCount()).toBeGreaterThan(0)
    await one.close()
    await one.close()
    one.announce()
    one.browse()
    await one.refresh()
    expect(vi.getTimerCount()).toBe(0)
    expect(await handles()).toBe(before)
  })
})
