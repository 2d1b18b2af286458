/**
 * Whatever state a peer is in, `close()` leaves nothing: each case is a process of its own (`ends-child.js`, of what was
 * built), which must end by itself soon after; and what was waited for there has ended with a typed error.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import net from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { Identity, type Peer, type PeerOptions, type Stream } from '../../src/index.ts'
import { Namespaces, noNamespaces } from '../../src/network/namespaces.compliance.ts'
import { Listener } from '../../src/peer/listener.ts'
import { RENDEZVOUS_PROTOCOL } from '../../src/signaling/index.ts'
import { once, portOf, readAll, startPeer, startServer } from './world.ts'

const CHILD = fileURLToPath(new URL('ends-child.js', import.meta.url))

/** ms that a process may take, on a busy machine, to get into its state, and to end when all is closed. */
const READY_MS = 15_000
const EXIT_MS = 2_000

/** ms of a close that has nobody to wait for. */
const PROMPT_MS = 1_000

/** Somebody who is no peer of anybody. */
const NOBODY = Identity.generate().peerId

interface Told {
  readonly event?: string
  readonly id?: string
  readonly url?: string
  readonly state?: string
  readonly ms?: readonly number[]
  readonly left?: readonly string[]
  readonly outcomes?: Readonly<Record<string, string>>
}

interface Arguments {
  readonly url?: string
  readonly peer?: string
  readonly options?: PeerOptions | object
  readonly [more: string]: unknown
}

/** Rejects with `what` when `promise` takes longer than `ms`. */
async function within<T>(ms: number, what: () => string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what()} took more than ${ms} ms`)), ms)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** A process with one peer in one state. */
class Child {
  readonly process: ChildProcessWithoutNullStreams
  readonly #lines: AsyncIterator<string>
  readonly #exit: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
  #stderr = ''

  constructor(name: string, args: Arguments, start = spawnNode) {
    this.process = start([CHILD, name, JSON.stringify(args)])
    this.process.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr += text
    })
    this.process.stdin.on('error', () => {})
    this.#lines = createInterface({ input: this.process.stdout })[Symbol.asyncIterator]()
    this.#exit = new Promise((resolve) => {
      this.process.once('close', (code, signal) => resolve({ code, signal }))
    })
    onTestFinished(async () => {
      this.process.kill('SIGKILL')
      await this.#exit
    })
  }

  /** The next thing it says that has `field`. */
  async told(field: keyof Told, value?: string): Promise<Told> {
    const look = async (): Promise<Told> => {
      for (;;) {
        const { value: line, done } = await this.#lines.next()
        if (done === true) throw new Error(`it ended without ${field} ${value ?? ''}: ${this.#stderr}`)
        const told = JSON.parse(line) as Told
        if (told[field] !== undefined && (value === undefined || told[field] === value)) return told
      }
    }
    return within(READY_MS, () => `to say ${field} ${value ?? ''} (${this.#stderr})`, look())
  }

  /** Has it close what it has, and sees how it ends. `ms`: what each close may take. */
  async end(ms = PROMPT_MS): Promise<Readonly<Record<string, string>>> {
    this.process.stdin.write('close\n')
    const closed = await this.told('event', 'closed')
    const { outcomes } = await this.told('event', 'settled')
    expect(await within(EXIT_MS, () => `to exit with ${closed.left}`, this.#exit)).toEqual({ code: 0, signal: null })
    expect(this.#stderr).toBe('')
    expect(closed.left).toEqual([])
    expect(Math.max(...closed.ms!)).toBeLessThan(ms)
    // Whoever asks for it while it is under way is not told earlier.
    expect(Math.max(...closed.ms!) - Math.min(...closed.ms!)).toBeLessThan(50)
    return outcomes!
  }
}

function spawnNode(args: readonly string[]): ChildProcessWithoutNullStreams {
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(PEERLINE_|NODE_OPTIONS|VITEST)/.test(name)),
  )
  return spawn(process.execPath, args, { env })
}

/** A process that is in its state. */
async function ready(name: string, args: Arguments = {}): Promise<Child> {
  const child = new Child(name, args)
  await child.told('event', 'ready')
  return child
}

/** How each wait ended; every one with an error of ours. */
const all = (code: string, ...names: string[]) =>
  Object.fromEntries(names.map((name) => [name, `ERR_PEERLINE_${code}`]))

/** A port where connections are taken, and nothing is ever said. */
async function blackHole(): Promise<{ address: string; taken: () => Promise<void> }> {
  const sockets: net.Socket[] = []
  const server = net.createServer((socket) => {
    socket.on('error', () => {})
    sockets.push(socket)
    server.emit('taken')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const taken = () =>
    new Promise<void>((resolve) => {
      if (sockets.length > 0) resolve()
      else server.once('taken', resolve)
    })
  return { address: `127.0.0.1:${(server.address() as net.AddressInfo).port}`, taken }
}

/** A port at which nobody listens. */
async function nowhere(): Promise<string> {
  const server = net.createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as net.AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return `127.0.0.1:${port}`
}

/** A peer that takes streams to read them, to leave them unread, and to fill them. */
async function startOther(options: PeerOptions): Promise<Peer> {
  const peer = await startPeer(options)
  await peer.online()
  const chunk = new Uint8Array(100_000)
  peer.handleStream('/stuck/1', () => {})
  peer.handleStream('/source/1', async (stream: Stream) => {
    for (;;) await stream.write(chunk)
  })
  peer.handle('/never/1', () => new Promise(() => {}))
  return peer
}

describe('a peer closed', () => {
  test.each([
    ['close', {}],
    ['await using', { dispose: true }],
    ['close twice', { twice: true }],
    ['close with a signal that fires', { closeMs: 1 }],
  ])('as soon as it is made leaves nothing: %s', async (_, args) => {
    expect(await (await ready('created', args)).end()).toEqual({})
  })

  test.each([
    ['UDP', { udp: true }],
    ['every interface', { listen: [':0'], udp: true, reflectors: ['127.0.0.1:9'] }],
    ['relays alone', { via: 'relay', listen: [] }],
  ])('as soon as it is made, with %s', async (_, options) => {
    expect(await (await ready('created', { options })).end()).toEqual({})
  })

  test.each(['ws', 'tcp'])('while its rendezvous is not reached, and tried again: %s', async (scheme) => {
    const url = `${scheme}://${await nowhere()}#${NOBODY}`
    const child = await ready('registering', { url, until: 'offline', dials: NOBODY })
    expect(await child.end()).toEqual(all('UNREACHABLE', 'online', 'connect'))
  })

  test.each(['ws', 'wss', 'tcp'])('while its rendezvous takes the connection and says nothing: %s', async (scheme) => {
    const hole = await blackHole()
    const child = await ready('registering', {
      url: `${scheme}://${hole.address}#${NOBODY}`,
      dials: Identity.generate().peerId,
    })
    await hole.taken()
    expect(await child.end()).toEqual(all('CLOSED', 'online', 'connect'))
  })

  test('while it registers', async () => {
    const rendezvous = await startPeer()
    const asked = new Promise<void>((resolve) => rendezvous.handleStream(RENDEZVOUS_PROTOCOL, () => resolve()))
    const child = await ready('registering', { url: `tcp://${rendezvous.addresses[0]}#${rendezvous.id}` })
    await asked
    expect(await child.end()).toEqual(all('CLOSED', 'online'))
  })

  test.each([
    ['TCP alone', {}],
    ['UDP', { udp: true }],
    ['UDP and WebRTC', { udp: true, webrtc: {} }],
  ])('when it is online: %s', async (_, options) => {
    const { url } = await startServer()
    expect(await (await ready('online', { url, options })).end()).toEqual({})
  })

  test('while it asks what others see of it', async () => {
    const { url } = await startServer()
    const child = await ready('observing', { url, options: { udp: true, reflectors: ['127.0.0.1:9'] } })
    const { settled } = await child.end()
    expect(['done', 'ERR_PEERLINE_CLOSED']).toContain(settled)
  })

  test.skipIf(noNamespaces() !== undefined)('with the local network', async () => {
    const networks = new Namespaces()
    onTestFinished(() => networks.close())
    await networks.add('a', 'b')
    await networks.cable(['a', 'eth0', '10.9.8.1/24'], ['b', 'eth0', '10.9.8.2/24'])
    const options = { lan: true, portMapping: true, listen: [':0'], udp: true }
    const child = new Child(
      'registering',
      { options, url: `ws://10.9.8.2:9#${NOBODY}`, dials: Identity.generate().peerId },
      (args) => networks.start('a', process.execPath, args),
    )
    await child.told('event', 'ready')
    const outcomes = await child.end()
    expect(['ERR_PEERLINE_CLOSED', 'ERR_PEERLINE_UNREACHABLE']).toContain(outcomes.online)
    expect(['ERR_PEERLINE_CLOSED', 'ERR_PEERLINE_UNREACHABLE', 'ERR_PEERLINE_OFFLINE']).toContain(outcomes.connect)
  })
})

describe('a peer closed while it dials', () => {
  test('somebody who does not answer', async () => {
    const { url } = await startServer()
    let asked = () => {}
    const question = new Promise<void>((resolve) => {
      asked = resolve
    })
    const approve = () => {
      asked()
      return new Promise<boolean>(() => {})
    }
    const other = await startPeer({ rendezvous: [url], firewall: { approve, approveTimeoutMs: 5_000 } })
    await other.online()
    const child = await ready('dialling', { url, peer: other.id })
    await question
    expect(await child.end()).toEqual(
      all('CLOSED', 'connect', 'connect again', 'connect by relay', 'reach', 'open', 'request'),
    )
  })

  test('an address that takes the connection and says nothing', async () => {
    const hole = await blackHole()
    const child = await ready('dialling an address', { peer: NOBODY, address: hole.address })
    await hole.taken()
    expect(await child.end()).toEqual(all('CLOSED', 'connect', 'discover'))
  })

  test('by a relay that takes the connection and says nothing', async () => {
    const { url } = await startServer()
    const hole = await blackHole()
    const child = await ready('dialling a relay', { url, peer: NOBODY, relay: `tcp://${hole.address}#${NOBODY}` })
    await hole.taken()
    expect(await child.end()).toEqual(all('CLOSED', 'connect', 'connect again'))
  })

  test('and both own the keys, and no path opens', async () => {
    const { url } = await startServer()
    const other = await startOther({ rendezvous: [url], udp: false })
    const hole = await blackHole()
    const candidates = vi.spyOn(Listener.prototype, 'candidates')
    candidates.mockReturnValue([{ kind: 'tcp', host: '127.0.0.1', port: portOf(hole.address) }])
    onTestFinished(() => candidates.mockRestore())
    const child = new Child('connecting', { url, peer: other.id, via: 'direct' })
    expect(await child.told('state')).toEqual({ state: 'connecting' })
    await child.told('event', 'ready')
    await hole.taken()
    expect(await child.end()).toEqual({ closed: 'done', ...all('CLOSED', 'opened', 'write', 'read') })
  })
})

describe('a peer closed with a session', () => {
  const WAYS = ['auto', 'relay', 'direct', 'udp', 'webrtc'] as const
  const both = { udp: true, webrtc: {} }

  test.each(WAYS)('that is idle, by %s', async (via) => {
    const { url } = await startServer()
    const other = await startOther({ rendezvous: [url] })
    const child = await ready('idle', { url, peer: other.id, via, options: both })
    expect(await child.end()).toEqual({ closed: 'done' })
  })

  test.each(WAYS)('on which it sends more than is read, cut after a while, by %s', async (via) => {
    const { url } = await startServer()
    const other = await startOther({ rendezvous: [url] })
    const child = await ready('sending', { url, peer: other.id, via, options: both, closeMs: 200 })
    expect(await child.end(200 + PROMPT_MS)).toEqual(all('CLOSED', 'write', 'read'))
  })

  test.each(WAYS)('on which it is sent much, by %s', async (via) => {
    const { url } = await startServer()
    const other = await startOther({ rendezvous: [url] })
    const child = await ready('receiving', { url, peer: other.id, via, options: both })
    expect(await child.end()).toEqual(all('CLOSED', 'read'))
  })

  test('twice at once: neither resolves before it is over', async () => {
    const { url } = await startServer()
    const other = await startOther({ rendezvous: [url] })
    const child = await ready('sending', { url, peer: other.id, closeMs: 400, twice: true })
    expect(await child.end(400 + PROMPT_MS)).toEqual(all('CLOSED', 'write', 'read'))
  })

  test('on which everything waits that can', async () => {
    const { url } = await startServer()
    const other = await startOther({ rendezvous: [url] })
    for (const protocol of ['/peerline/ping/1', '/peerline/file/1', '/peerline/pipe/1'])
      other.handleStream(protocol, () => {})
    const child = await ready('waiting', { url, peer: other.id, closeMs: 100 })
    const { 'stream closed': done, 'session closed': closed, ...failed } = await child.end(100 + PROMPT_MS)
    expect([done, closed]).toEqual(['done', 'done'])
    expect(Object.keys(failed).length).toBe(9)
    for (const code of Object.values(failed)) expect(code).toBe('ERR_PEERLINE_CLOSED')
  })

  test.each(['auto', 'relay', 'direct'])('whose other side was killed, by %s', async (via) => {
    const { url } = await startServer()
    const victim = new Child('victim', { url })
    const { id } = await victim.told('id')
    const child = await ready('bereft', { url, peer: id!, via })
    victim.process.kill('SIGKILL')
    await new Promise((resolve) => victim.process.once('close', resolve))
    const outcomes = await child.end()
    expect(Object.keys(outcomes)).toEqual(['write', 'read', 'request'])
    for (const code of Object.values(outcomes)) expect(code).toMatch(/^ERR_PEERLINE_(CLOSED|PATH_LOST)$/)
  })

  test('and its owner is asked whether somebody may come in', async () => {
    const { url } = await startServer()
    const child = new Child('asked', { url })
    const { id } = await child.told('id')
    const stranger = await startPeer({ rendezvous: [url] })
    await stranger.online()
    const stop = new AbortController()
    const dialling = stranger.connect(id!, { signal: stop.signal }).catch((error) => error.code)
    await child.told('event', 'ready')
    expect(await child.end()).toEqual({})
    stop.abort()
    expect(await dialling).toMatch(/^ERR_PEERLINE_/)
  })
})

describe('a server closed', () => {
  test('as soon as it is made', async () => {
    expect(await (await ready('server')).end()).toEqual({})
    expect(await (await ready('server', { dispose: true })).end()).toEqual({})
  })

  test('with connections that say nothing, or half of something', async () => {
    const child = new Child('server', {})
    const { url } = await child.told('url')
    await child.told('event', 'ready')
    for (const head of ['', '\0', '\0\x01', 'GET / HT', 'GET / HTTP/1.1\r\nUpgrade: websocket\r\n', '\0\0\0\x10']) {
      const socket = net.connect(portOf(url!), '127.0.0.1')
      onTestFinished(() => void socket.destroy())
      socket.on('error', () => {})
      await new Promise((resolve) => socket.once('connect', resolve))
      socket.write(head)
    }
    expect(await child.end()).toEqual({})
  })

  test('with peers, and circuits that carry something', async () => {
    const child = new Child('server', {})
    const { url } = await child.told('url')
    await child.told('event', 'ready')
    const [a, b] = [await startOther({ rendezvous: [url!] }), await startOther({ rendezvous: [url!] })]
    const session = await a.connect(b.id, { via: 'relay' })
    const stream = await session.open('/source/1')
    await stream.write(Uint8Array.of(1))
    const reading = readAll(stream).catch((error) => error.code)
    const gone = Promise.all([a, b].map((peer) => once(peer, 'offline')))
    expect(await child.end()).toEqual({})
    await gone
    await session.close({ signal: AbortSignal.timeout(1) })
    expect(await reading).toMatch(/^ERR_PEERLINE_/)
  })
})
