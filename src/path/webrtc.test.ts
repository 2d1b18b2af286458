import { spawn, spawnSync } from 'node:child_process'
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import ts from 'typescript'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import { freePort } from '../network/free-port.compliance.ts'
import { reflectUdp } from '../network/reflect.ts'
import { UdpReflector } from '../server/reflector.ts'
import { FramedPath } from './framing.ts'
import { describePath, type PathPair } from './path.compliance.ts'
import { Recorder, sample, turns } from './recorder.compliance.ts'
import { GATHER_MS, WebRtcAttempt, type WebRtcOptions } from './webrtc.ts'
import { decodeDescription, encodeDescription, type IceDescription } from './webrtc-description.ts'
import {
  boundTo,
  closeAll,
  connections,
  expectAllClosed,
  Loopback,
  openPipes,
  options,
} from './webrtc-loopback.compliance.ts'

const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })

const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  vi.useRealTimers()
  closeAll()
  await Promise.all(closers.splice(0).map((close) => close()))
})

async function pair(end: 'offer' | 'answer'): Promise<PathPair> {
  const pipes = await openPipes()
  const [pipeA, rawB] = end === 'offer' ? pipes : [pipes[1], pipes[0]]
  return {
    a: new FramedPath('webrtc', pipeA),
    b: new FramedPath('webrtc', rawB),
    rawB,
    waiting: () => pipeA.waiting,
    teardown: async () => {
      pipeA.destroy()
      rawB.destroy()
    },
  }
}

describePath('webrtc, at the offering side', () => pair('offer'))
describePath('webrtc, at the answering side', () => pair('answer'))

/** Two paths, from an offer and an answer. */
async function openPaths(a = options(), b = options()): Promise<[FramedPath, FramedPath]> {
  const offer = await WebRtcAttempt.offer(a)
  const answer = await WebRtcAttempt.answer(offer.description, b)
  return Promise.all([offer.connect(answer.description), answer.connect()])
}

/** A message there, and one back. */
async function expectTalk(a: FramedPath, b: FramedPath): Promise<void> {
  const [atA, atB] = [new Recorder(), new Recorder()]
  atB.onMessage = (message) => void b.send([message])
  a.start(atA)
  b.start(atB)
  a.send([sample(1_000)])
  await atA.count(1)
}

/** `bytes`, with another fact in it. */
function tampered(bytes: Uint8Array, role: 'offer' | 'answer', facts: Partial<IceDescription>): Uint8Array {
  return encodeDescription({ ...decodeDescription(bytes, role), ...facts })
}

function flipped(fingerprint: Uint8Array): Uint8Array {
  return fingerprint.map((byte, i) => (i === 31 ? byte ^ 1 : byte))
}

describe('an attempt', () => {
  test('makes a path on which both sides know where the other is', async () => {
    const [a, b] = await openPaths()
    expect([a.kind, b.kind]).toEqual(['webrtc', 'webrtc'])
    for (const { remote } of [a, b]) expect(remote).toMatch(/^webrtc 127\.0\.0\.1:\d+ \((host|prflx)\)$/)
    await expectTalk(a, b)
    a.close()
    await expectAllClosed(2)
  })

  test('takes no second each time: no DTLS hello comes too early, however late the answer', async () => {
    const times: number[] = []
    for (let i = 0; i < 30; i++) {
      const begin = performance.now()
      const offer = await WebRtcAttempt.offer(options())
      const answer = await WebRtcAttempt.answer(offer.description, options())
      const answering = answer.connectPipe()
      await turns(10 * i)
      const pipes = await Promise.all([offer.connectPipe(answer.description), answering])
      times.push(performance.now() - begin)
      for (const pipe of pipes) pipe.destroy()
    }
    expect(Math.max(...times)).toBeLessThan(900)
  })

  test.each([
    ['host', '127.0.0.1', 0],
    ['srflx', '127.0.0.1', 0],
    ['host', '192.168.1.7', 0],
    // To open a NAT on the way there.
    ['srflx', '192.168.1.7', 1],
    ['srflx', '8.8.8.8', 1],
  ] as const)(
    'the answerer leaves the first check to the offerer where that one is near: %s %s',
    async (type, host, sent) => {
      const offer = await WebRtcAttempt.offer(options())
      const { candidates } = decodeDescription(offer.description, 'offer')
      const seen = tampered(offer.description, 'offer', { candidates: [{ ...candidates[0]!, type, host }] })
      const answer = await WebRtcAttempt.answer(seen, options())
      const added = vi.spyOn(Loopback.prototype, 'addIceCandidate').mockResolvedValue(undefined)
      closers.push(async () => added.mockRestore())
      const connecting = answer.connectPipe().catch((error: PeerlineError) => error.code)
      expect(added).toHaveBeenCalledTimes(sent)
      answer.close()
      offer.close()
      expect(await connecting).toBe('ERR_PEERLINE_CLOSED')
    },
  )

  test('is found though the offerer has no address to send to', async () => {
    const [a, b] = await openPaths(options({ mayDial: () => false }))
    await expectTalk(a, b)
  })

  test('sends nothing to an address that may not be dialled', async () => {
    const asked: string[] = []
    const mayDial = (host: string): boolean => {
      asked.push(host)
      return false
    }
    const added = vi.spyOn(Loopback.prototype, 'addIceCandidate')
    closers.push(async () => added.mockRestore())
    const offer = await WebRtcAttempt.offer(options({ mayDial }))
    const answer = await WebRtcAttempt.answer(offer.description, options({ mayDial }))
    const connecting = Promise.allSettled([offer.connect(answer.description), answer.connect()])
    expect(asked).toEqual(['127.0.0.1', '127.0.0.1'])
    for (const { remoteDescription } of connections) expect(remoteDescription!.sdp).not.toContain('a=candidate')
    expect(added).not.toHaveBeenCalled()
    offer.close()
    answer.close()
    await connecting
  })

  test.each(['offer', 'answer'] as const)('with another fingerprint in the %s comes to nothing', async (which) => {
    const offer = await WebRtcAttempt.offer(options())
    const { fingerprint } = decodeDescription(offer.description, 'offer')
    const toAnswer = tampered(
      offer.description,
      'offer',
      which === 'offer' ? { fingerprint: flipped(fingerprint) } : {},
    )
    const answer = await WebRtcAttempt.answer(toAnswer, options())
    const own = decodeDescription(answer.description, 'answer').fingerprint
    const toOffer = tampered(answer.description, 'answer', which === 'answer' ? { fingerprint: flipped(own) } : {})
    const [one, other] = await Promise.allSettled([offer.connect(toOffer), answer.connect()])
    expect([one, other].map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    // The side with the wrong fingerprint refuses; the other one is told by DTLS.
    const refused = which === 'offer' ? other : one
    expect((refused as PromiseRejectedResult).reason).toEqual(code('ERR_PEERLINE_HANDSHAKE'))
    expect((one as PromiseRejectedResult).reason).toBeInstanceOf(PeerlineError)
    expect((other as PromiseRejectedResult).reason).toBeInstanceOf(PeerlineError)
    await expectAllClosed(2)
  })

  test('connects once, and with an answer only where one is due', async () => {
    const offer = await WebRtcAttempt.offer(options())
    await expect(offer.connect()).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    const answer = await WebRtcAttempt.answer(offer.description, options())
    await expect(answer.connect(offer.description)).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    const [a, b] = await Promise.all([offer.connect(answer.description), answer.connect()])
    await expect(offer.connect(answer.description)).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    await expect(answer.connect()).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    await expectTalk(a, b)
  })

  test.each([
    [{ urls: 'http://127.0.0.1' }],
    [{ urls: 'stun:' }],
    [{ urls: [] }],
    [{ urls: 'turn:127.0.0.1' }],
    [{ urls: 'turn:127.0.0.1:port', username: 'a', credential: 'b' }],
  ])('refuses the ICE server %j', async (server) => {
    const offering = WebRtcAttempt.offer(options({ iceServers: [server] }))
    await expect(offering).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
  })
})

describe('what others describe', () => {
  test('as an offer opens nothing unless it is well-formed', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async (bytes) => {
        const error: unknown = await WebRtcAttempt.answer(bytes, options()).catch((cause: unknown) => cause)
        expect(isPeerlineError(error) && error.code).toBe('ERR_PEERLINE_PROTOCOL')
      }),
    )
    expect(connections).toEqual([])
  })

  test('and the platform refuses ends the attempt', async () => {
    const offer = await WebRtcAttempt.offer(options())
    class Refusing extends Loopback {
      override setRemoteDescription(): Promise<void> {
        return Promise.reject(new DOMException('not for me', 'OperationError'))
      }
    }
    const answering = WebRtcAttempt.answer(offer.description, options({ RTCPeerConnection: Refusing }))
    await expect(answering).rejects.toThrow(code('ERR_PEERLINE_UNREACHABLE'))
    await expect(answering).rejects.toThrow(/not for me/)
    offer.close()
    await expectAllClosed(2)
  })

  test('as an answer ends the attempt unless it is well-formed', async () => {
    const offer = await WebRtcAttempt.offer(options())
    await expect(offer.connect(new Uint8Array(5_000))).rejects.toThrow(code('ERR_PEERLINE_TOO_LARGE'))
    await expectAllClosed(1)
  })

  test('may be as long, and as odd, as the form allows', async () => {
    const hosts = ['0.0.0.0', '255.255.255.255', '224.0.0.1', '::', 'ff02::1', 'fe80::1', '::ffff:127.0.0.1', '::1']
    const odd: IceDescription = {
      role: 'offer',
      ufrag: '+/'.repeat(128),
      pwd: 'A'.repeat(256),
      fingerprint: new Uint8Array(32),
      candidates: [...hosts, ...hosts].map((host, i) => ({
        type: (['host', 'srflx', 'prflx', 'relay'] as const)[i % 4]!,
        host,
        port: i < 8 ? 1 : 65_535,
        priority: i < 8 ? 1 : 0x7fff_ffff,
      })),
    }
    const attempt = await WebRtcAttempt.answer(encodeDescription(odd), options())
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const connecting = attempt.connect()
    vi.advanceTimersByTime(300) // by now it sends to all of them
    await turns(50)
    attempt.close()
    await expect(connecting).rejects.toThrow(code('ERR_PEERLINE_CLOSED'))
    vi.useRealTimers()
    await expectAllClosed(1)
  })
})

describe('an attempt ends', () => {
  test('before it begins, when the signal says so', async () => {
    const signal = AbortSignal.abort()
    await expect(WebRtcAttempt.offer(options({ signal }))).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    expect(connections).toEqual([])
  })

  test('while it gathers', async () => {
    const silent = await silentServer()
    const server = { urls: `turn:127.0.0.1:${silent.address().port}`, username: 'a', credential: 'b' }
    const controller = new AbortController()
    const offering = WebRtcAttempt.offer(
      options({ iceServers: [server], iceTransportPolicy: 'relay', signal: controller.signal }),
    )
    const outcome = expect(offering).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    await once(silent, 'message')
    controller.abort()
    await outcome
    await expectAllClosed(1)
  })

  test('between its steps, and says so at the next', async () => {
    const controller = new AbortController()
    const offer = await WebRtcAttempt.offer(options({ signal: controller.signal }))
    const answer = await WebRtcAttempt.answer(offer.description, options())
    controller.abort(new DOMException('too slow', 'TimeoutError'))
    await expect.poll(() => connections[0]!.connectionState).toBe('closed')
    await expect(offer.connect(answer.description)).rejects.toThrow(code('ERR_PEERLINE_TIMEOUT'))
  })

  test('while it connects', async () => {
    const controller = new AbortController()
    const offer = await WebRtcAttempt.offer(options())
    const answer = await WebRtcAttempt.answer(offer.description, options({ signal: controller.signal }))
    const connecting = answer.connect()
    await turns(20)
    controller.abort()
    await expect(connecting).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    offer.close()
    await expect(offer.connect(answer.description)).rejects.toThrow(code('ERR_PEERLINE_CLOSED'))
    await expectAllClosed(2)
  })

  test('when its time is up', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const offer = await WebRtcAttempt.offer(options())
    const answer = await WebRtcAttempt.answer(offer.description, options())
    const connecting = answer.connect()
    vi.advanceTimersByTime(30_000)
    await expect(connecting).rejects.toThrow(code('ERR_PEERLINE_TIMEOUT'))
    await expect(offer.connect(answer.description)).rejects.toThrow(code('ERR_PEERLINE_TIMEOUT'))
    vi.useRealTimers()
    await expectAllClosed(2)
  })

  test('but the path that has come of it stays', async () => {
    const controller = new AbortController()
    const offer = await WebRtcAttempt.offer(options({ signal: controller.signal }))
    const answer = await WebRtcAttempt.answer(offer.description, options())
    const [a, b] = await Promise.all([offer.connect(answer.description), answer.connect()])
    controller.abort()
    offer.close()
    answer.close()
    await expectTalk(a, b)
  })
})

/** A server that never answers. */
async function silentServer(): Promise<Socket> {
  const socket = createSocket('udp4').bind(0, '127.0.0.1')
  closers.push(() => new Promise<void>((resolve) => socket.close(() => resolve())))
  await once(socket, 'listening')
  return socket
}

/** Attempts of whoever has no loopback: all interfaces, as in use. */
function everywhere(more: Partial<WebRtcOptions>): WebRtcOptions {
  const { RTCPeerConnection: _, ...rest } = options(more)
  return rest
}

describe('with servers', () => {
  test('that do not answer, it goes on with the addresses it has', async () => {
    const silent = await silentServer()
    const iceServers = [{ urls: [`stun:127.0.0.1:${silent.address().port}`] }]
    const begin = performance.now()
    const offer = await WebRtcAttempt.offer(options({ iceServers }))
    const took = performance.now() - begin
    expect(took).toBeGreaterThan(500)
    expect(took).toBeLessThan(5_000) // it asks for 23 s
    const answer = await WebRtcAttempt.answer(offer.description, options())
    const [a, b] = await Promise.all([offer.connect(answer.description), answer.connect()])
    await expectTalk(a, b)
  })

  test('a STUN server tells each side its address, and the path goes by it', async () => {
    const reflector = new UdpReflector()
    await reflector.bind('127.0.0.1', 0)
    closers.push(() => reflector.close())
    const iceServers = [{ urls: `stun:127.0.0.1:${reflector.address!.port}` }]
    // Asked over loopback, it sees an address that no interface of ours is gathered with.
    const mayDial = (host: string): boolean => host === '127.0.0.1'
    const offer = await WebRtcAttempt.offer(everywhere({ iceServers, mayDial }))
    const answer = await WebRtcAttempt.answer(offer.description, everywhere({ iceServers, mayDial }))
    expect(reflector.counts.answered).toBeGreaterThanOrEqual(2)
    for (const [bytes, role] of [[offer.description, 'offer'] as const, [answer.description, 'answer'] as const]) {
      const { candidates } = decodeDescription(bytes, role)
      expect(candidates).toContainEqual(expect.objectContaining({ type: 'srflx', host: '127.0.0.1' }))
    }
    const [a, b] = await Promise.all([offer.connect(answer.description), answer.connect()])
    expect(a.remote).toMatch(/^webrtc 127\.0\.0\.1:\d+ \((srflx|prflx)\)$/)
    await expectTalk(a, b)
    a.destroy()
    b.destroy()
  })

  describe('a TURN server', () => {
    const missing = spawnSync('turnserver', ['--help']).error !== undefined
    if (missing) console.warn('skipped: these tests need coturn (turnserver)')

    /** coturn on loopback, with an account whose name and password need quoting in a URL. */
    /** coturn listens on its port in four ways, and what is free for one may not be for another: then the next one. */
    async function turnServer(): Promise<{ urls: string; username: string; credential: string }> {
      const account = { username: 'ann@home/1', credential: 'p:w@/%?#' }
      for (let attempt = 1; attempt <= 4; attempt++) {
        const port = await freePort()
        const server = spawn(
          'turnserver',
          [
            ...['-n', '--no-cli', '--no-tls', '--no-dtls', '--log-file', 'stdout', '--pidfile', ''],
            ...['-L', '127.0.0.1', '-L', '::1', '-E', '127.0.0.1', '-p', String(port), '--allow-loopback-peers'],
            ...['--lt-cred-mech', '--realm', 'test', '--user', `${account.username}:${account.credential}`],
          ],
          { stdio: 'ignore' },
        )
        const stop = async () => {
          if (server.exitCode !== null || server.signalCode !== null) return
          server.kill()
          await once(server, 'exit')
        }
        const deadline = performance.now() + 4_000
        while (performance.now() < deadline && server.exitCode === null) {
          const answers = await reflectUdp('::1', port, { timeoutMs: 400 }).catch(() => undefined)
          if (answers === undefined) {
            await new Promise((resolve) => setTimeout(resolve, 20))
            continue
          }
          closers.push(stop)
          return { urls: `turn:[::1]:${port}`, ...account }
        }
        await stop()
      }
      throw new Error('turnserver does not start on any of four ports')
    }

    test.skipIf(missing)('carries the path when nothing else can', async () => {
      // One side has IPv6 only, the other one IPv4 only: they meet at the server, or not at all.
      const iceServers = [await turnServer()]
      const six = options({ iceServers, iceTransportPolicy: 'relay', RTCPeerConnection: boundTo('::1') })
      const offer = await WebRtcAttempt.offer(six)
      const { candidates } = decodeDescription(offer.description, 'offer')
      expect(candidates).toEqual([expect.objectContaining({ type: 'relay', host: '127.0.0.1' })])
      const answer = await WebRtcAttempt.answer(offer.description, options())
      const [a, b] = await Promise.all([offer.connect(answer.description), answer.connect()])
      expect(a.remote).toMatch(/^webrtc 127\.0\.0\.1:\d+ \(relay\)$/)
      // Its own check may come before the candidate is read: then it is one that a peer has shown.
      const from = `webrtc 127.0.0.1:${candidates[0]!.port}`
      expect([`${from} (relay)`, `${from} (prflx)`]).toContain(b.remote)
      await expectTalk(a, b)
    })

    test.skipIf(missing)('that is slow is waited for when there is no other way', async () => {
      const server = await turnServer()
      const front = await delayed(Number(server.urls.split(':').at(-1)))
      const iceServers = [{ ...server, urls: `turn:127.0.0.1:${front}` }]
      const begin = performance.now()
      const offer = await WebRtcAttempt.offer(options({ iceServers, iceTransportPolicy: 'relay' }))
      expect(performance.now() - begin).toBeGreaterThan(GATHER_MS)
      expect(decodeDescription(offer.description, 'offer').candidates.map(({ type }) => type)).toEqual(['relay'])
    })

    test.skipIf(missing)('that does not know us gives no address', async () => {
      const iceServers = [{ ...(await turnServer()), credential: 'wrong' }]
      const offering = WebRtcAttempt.offer(everywhere({ iceServers, iceTransportPolicy: 'relay' }))
      await expect(offering).rejects.toThrow(code('ERR_PEERLINE_UNREACHABLE'))
      await expect(offering).rejects.toThrow(/TURN/)
    })
  })
})

/** The port of a way to UDP port `to` that takes 0.2 s there, and 0.2 s back. */
async function delayed(to: number): Promise<number> {
  const [front, back] = [await silentServer(), await silentServer()]
  let client = 0
  front.on('message', (datagram, { port }) => {
    client = port
    later(() => back.send(datagram, to, '127.0.0.1', () => {}))
  })
  back.on('message', (datagram) => later(() => front.send(datagram, client, '127.0.0.1', () => {})))
  const timers = new Set<ReturnType<typeof setTimeout>>()
  const later = (send: () => void): void => void timers.add(setTimeout(send, 200))
  closers.unshift(async () => timers.forEach(clearTimeout))
  return front.address().port
}

describe('a process', () => {
  const SRC = fileURLToPath(new URL('..', import.meta.url))
  let to: string
  afterAll(() => rmSync(to, { recursive: true }))

  // Our sources as JavaScript, in a directory of their own.
  beforeAll(() => {
    to = mkdtempSync(path.join(tmpdir(), 'peerline-webrtc-'))
    for (const part of ['bytes', 'path']) cpSync(path.join(SRC, part), path.join(to, part), { recursive: true })
    cpSync(path.join(SRC, 'errors.ts'), path.join(to, 'errors.ts'))
    for (const file of readdirSync(to, { recursive: true, encoding: 'utf8' })) {
      if (!/(?<!\.test|\.compliance)\.ts$/.test(file)) continue
      const { outputText } = ts.transpileModule(readFileSync(path.join(to, file), 'utf8'), {
        compilerOptions: {
          module: ts.ModuleKind.ESNext,
          target: ts.ScriptTarget.ES2023,
          rewriteRelativeImportExtensions: true,
        },
      })
      writeFileSync(path.join(to, file.replace(/\.ts$/, '.js')), outputText)
    }
    symlinkSync(path.join(SRC, '../node_modules'), path.join(to, 'node_modules'))
    writeFileSync(path.join(to, 'package.json'), '{ "type": "module" }')
  })

  const BEGIN = `
    import { WebRtcAttempt } from './path/webrtc.js'
    const options = { mayDial: () => true, signal: new AbortController().signal }
    const offer = await WebRtcAttempt.offer(options)
  `
  const CONNECT = `
    const answer = await WebRtcAttempt.answer(offer.description, options)
    const [a, b] = await Promise.all([offer.connect(answer.description), answer.connect()])
    const handler = { message() {}, drain() {}, close: (error) => console.log(error?.code ?? 'in order') }
    a.start(handler)
    b.start(handler)
  `
  test.each([
    ['an attempt that it closed', `${BEGIN} offer.close()`, ''],
    ['a path that one side closed', `${BEGIN} ${CONNECT} a.close()`, 'in order\nin order\n'],
    ['a path that both sides destroyed', `${BEGIN} ${CONNECT} a.destroy(); b.destroy()`, 'in order\nin order\n'],
  ])('that has had %s ends by itself', async (_, program, output) => {
    writeFileSync(path.join(to, 'main.js'), program)
    const child = spawn(process.execPath, [path.join(to, 'main.js')], { stdio: ['ignore', 'pipe', 'inherit'] })
    closers.unshift(async () => void child.kill('SIGKILL'))
    let printed = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      printed += text
    })
    const [exitCode] = await once(child, 'close')
    expect([exitCode, printed]).toEqual([0, output])
  })
})
