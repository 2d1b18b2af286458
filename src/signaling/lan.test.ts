import { randomBytes } from 'node:crypto'
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { once } from 'node:events'
import type { NetworkInterfaceInfo } from 'node:os'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { createOffer, openOffer, ReplayCache } from '../handshake/index.ts'
import { Identity } from '../identity/index.ts'
import { freePort } from '../network/free-port.compliance.ts'
import { LanSockets } from '../network/lan-sockets.ts'
import { Lan, type LanOptions } from './lan.ts'
import { encodeLanAnswer, encodeLanOffer, LAN_GROUP_V4, LAN_GROUP_V6, readLanDatagram, tagOf } from './lan-wire.ts'
import { type Medium, signalingCompliance } from './signaling.compliance.ts'
import type { OfferHandler } from './signaling.ts'

const SILENT: OfferHandler = async () => undefined
const LOOPBACK = { include: [], loopback: true }
const signal = new AbortController().signal
const somebody = Identity.generate().peerId
const bytes = (size = 40) => new Uint8Array(randomBytes(size))
const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })

const open: { close(): unknown }[] = []
afterEach(async () => {
  vi.useRealTimers()
  for (const one of open.splice(0)) await one.close()
})

async function lan(port: number, options: Partial<LanOptions> = {}): Promise<Lan> {
  const made = await Lan.open({ onOffer: SILENT, answering: true, port, interfaces: LOOPBACK, ...options })
  open.push(made)
  return made
}

/** Somebody on the network who keeps to no rules. */
async function stranger(options: { port?: number; address?: string; deaf?: boolean } = {}) {
  const socket: Socket = createSocket({ type: 'udp4', reuseAddr: true })
  open.push({ close: () => once(socket.close(), 'close') })
  socket.bind(options.port ?? 0, options.address ?? '0.0.0.0')
  await once(socket, 'listening')
  if (options.port !== undefined && options.deaf !== true) socket.addMembership(LAN_GROUP_V4, '127.0.0.1')
  const got: { datagram: ReturnType<typeof readLanDatagram>; from: RemoteInfo }[] = []
  socket.on('message', (message, from) => got.push({ datagram: readLanDatagram(message), from }))
  const send = (message: Uint8Array, port: number) =>
    new Promise<void>((resolve, reject) =>
      socket.send(message, port, '127.0.0.1', (error) => (error === null ? resolve() : reject(error))),
    )
  return { socket, got, send }
}

signalingCompliance(
  'a local network',
  async (onOffer) => {
    const port = await freePort()
    return medium(await lan(port, { answering: false }), await lan(port, { onOffer }))
  },
  {
    // One network for each, and between the two somebody who is on both.
    tampered: async (onOffer, tamper) => {
      const [callers, callees] = [await freePort(), await freePort()]
      const atCaller = await stranger({ port: callers })
      atCaller.socket.on('message', (datagram, asker) => {
        const read = readLanDatagram(datagram)
        if (read?.kind === 'offer')
          tamper.offer({ bytes: read.message, pass: (offer) => void ask(offer ?? read.message, asker.port) })
      })
      const ask = async (offer: Uint8Array, asker: number) => {
        const { socket, send } = await stranger({ address: '127.0.0.1' })
        socket.on('message', (datagram) => {
          const read = readLanDatagram(datagram)
          if (read?.kind !== 'answer') return
          const { tag, message } = read
          tamper.answer({
            bytes: message,
            pass: (answer) => void atCaller.send(encodeLanAnswer(tag, answer ?? message), asker),
          })
        })
        await send(encodeLanOffer(offer), callees)
      }
      return medium(await lan(callers, { answering: false }), await lan(callees, { onOffer }))
    },
  },
)

function medium(caller: Lan, callee: Lan): Medium {
  const calleeId = Identity.generate().peerId
  return {
    // A network cannot tell a peer that stays silent from one that is not there, and the suite tells them apart.
    caller: {
      name: caller.name,
      exchange: (to, ...rest) =>
        caller.exchange(to, ...rest).catch((error: PeerlineError) => {
          if (to !== calleeId || error.code !== 'ERR_PEERLINE_OFFLINE') throw error
          throw new PeerlineError('ERR_PEERLINE_TIMEOUT', error.message)
        }),
    },
    callee: calleeId,
    end: () => caller.close(),
    teardown: async () => {
      await caller.close()
      await callee.close()
    },
  }
}

describe('on one network', () => {
  test('the one who is dialled answers, and nobody else', async () => {
    const port = await freePort()
    const identities = [1, 2, 3].map(() => Identity.generate())
    const heard = [0, 0, 0]
    for (const [at, identity] of identities.entries()) {
      const replay = new ReplayCache()
      await lan(port, {
        onOffer: async (message) => {
          heard[at]!++
          try {
            return openOffer(identity, message, { replay }).accept(Uint8Array.of(at)).message
          } catch {
            return undefined
          }
        },
      })
    }
    const own = vi.fn(SILENT)
    const caller = await lan(port, { onOffer: own })
    for (const [at, { peerId }] of identities.entries()) {
      const offer = createOffer(Identity.generate(), peerId, { body: bytes() })
      const answer = await caller.exchange(peerId, offer.requestId, offer.message, { signal })
      expect(offer.complete(answer).body).toEqual(Uint8Array.of(at))
    }
    await vi.waitFor(() => expect(heard).toEqual([3, 3, 3]))
    expect(own).not.toHaveBeenCalled()
  })

  test('no peer id and no request id is to be seen', async () => {
    const port = await freePort()
    const { got } = await stranger({ port })
    const [from, to] = [Identity.generate(), Identity.generate()]
    const offer = createOffer(from, to.peerId, { body: bytes() })
    const caller = await lan(port, { answering: false })
    const exchange = caller.exchange(to.peerId, offer.requestId, offer.message, { signal }).catch(() => {})
    await vi.waitFor(() => expect(got.length).toBeGreaterThan(0))
    const seen = Buffer.from(got[0]!.datagram!.message)
    for (const secret of [from.publicKey, to.publicKey, offer.requestId]) expect(seen.indexOf(secret)).toBe(-1)
    await caller.close()
    await exchange
  })

  test('an offer is resent, for a peer that comes a moment later', async () => {
    const port = await freePort()
    const caller = await lan(port, { answering: false })
    const offer = bytes()
    const exchange = caller.exchange(somebody, bytes(16), offer, { signal })
    await lan(port, { onOffer: async (message) => message })
    expect(await exchange).toEqual(offer)
  })

  test('an offer that comes again is answered again, and opened once', async () => {
    const port = await freePort()
    let opened = 0
    await lan(port, {
      onOffer: async (offer) => {
        opened++
        return offer
      },
    })
    const { send, got } = await stranger({ address: '127.0.0.1' })
    const offer = bytes()
    for (let at = 0; at < 3; at++) await send(encodeLanOffer(offer), port)
    await vi.waitFor(() => expect(got.length).toBe(3))
    expect(got.map(({ datagram }) => datagram)).toEqual(
      Array(3).fill({ kind: 'answer', tag: tagOf(offer), message: offer }),
    )
    expect(opened).toBe(1)
  })

  test('an offer is remembered for seconds, not for ever', async () => {
    vi.useFakeTimers({ toFake: ['performance'] })
    const port = await freePort()
    const onOffer = vi.fn(SILENT)
    await lan(port, { onOffer })
    const { send } = await stranger({ address: '127.0.0.1' })
    const [offer, other] = [bytes(), bytes()]
    await send(encodeLanOffer(offer), port)
    await vi.waitFor(() => expect(onOffer).toHaveBeenCalledTimes(1))
    vi.advanceTimersByTime(5_001)
    await send(encodeLanOffer(other), port) // what comes next has the old ones forgotten
    await send(encodeLanOffer(offer), port)
    await vi.waitFor(() => expect(onOffer.mock.calls).toEqual([[offer], [other], [offer]]))
  })

  test('an offer finds by broadcast who hears no multicast', async () => {
    const port = await freePort()
    const { got } = await stranger({ address: '0.0.0.0', port, deaf: true })
    const caller = await lan(port, { answering: false })
    const offer = bytes()
    const exchange = caller.exchange(somebody, bytes(16), offer, { signal }).catch(() => {})
    await vi.waitFor(() => expect(got[0]?.datagram).toEqual({ kind: 'offer', message: offer }))
    await caller.close()
    await exchange
  })

  test('who only dials hears no offers', async () => {
    const port = await freePort()
    const onOffer = vi.fn(SILENT)
    await lan(port, { onOffer, answering: false })
    const heard = vi.fn(SILENT)
    await lan(port, { onOffer: heard })
    const caller = await lan(port)
    await expect(caller.exchange(somebody, bytes(16), bytes(), { signal })).rejects.toEqual(
      code('ERR_PEERLINE_OFFLINE'),
    )
    expect(heard).toHaveBeenCalledTimes(1)
    expect(onOffer).not.toHaveBeenCalled()
  })

  test('an offer that is too large is refused', async () => {
    const caller = await lan(await freePort())
    const exchange = caller.exchange(somebody, bytes(16), bytes(16_385), { signal })
    await expect(exchange).rejects.toEqual(code('ERR_PEERLINE_TOO_LARGE'))
  })
})

describe('interfaces', () => {
  test('that come later are used after a refresh, and left when they go', async () => {
    const port = await freePort()
    const lo: NetworkInterfaceInfo[] = [loopback('255.0.0.0')]
    let interfaces: Record<string, NetworkInterfaceInfo[]> = {}
    const callee = await lan(port, { onOffer: async (offer) => offer, listInterfaces: () => interfaces })
    const caller = await lan(port, { answering: false, listInterfaces: () => interfaces })
    const dial = () => caller.exchange(somebody, bytes(16), bytes(3), { signal })
    await expect(dial()).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
    interfaces = { lo }
    await Promise.all([caller.refresh(), callee.refresh()])
    expect(caller.links).toBe(1)
    expect((await dial()).length).toBe(3)
    interfaces = {}
    await caller.refresh()
    expect(caller.links).toBe(0)
    await expect(dial()).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
  })

  test('that cannot be used do not keep the others from working', async () => {
    const port = await freePort()
    const none = { ...loopback('255.255.255.0'), address: '192.0.2.77', internal: false }
    const listInterfaces = () => ({ none: [none], lo: [loopback('255.0.0.0')] })
    await lan(port, { onOffer: async (offer) => offer, listInterfaces, interfaces: { loopback: true } })
    const caller = await lan(port, { listInterfaces, interfaces: { loopback: true } })
    expect(caller.links).toBe(1)
    expect((await caller.exchange(somebody, bytes(16), bytes(3), { signal })).length).toBe(3)
  })

  test('closing leaves no socket and no timer, and may come twice', async () => {
    const handles = async () => {
      // A handle is let go of at the end of the turn after its close event.
      for (let turn = 0; turn < 2; turn++) await new Promise((resolve) => setImmediate(resolve))
      return process.getActiveResourcesInfo().filter((name) => /UDP/.test(name)).length
    }
    const port = await freePort()
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] })
    const before = await handles()
    const one = await Lan.open({ onOffer: SILENT, answering: true, port, interfaces: LOOPBACK })
    const dial = one.exchange(somebody, bytes(16), bytes(), { signal }).catch((error: unknown) => error)
    expect(await handles()).toBeGreaterThan(before)
    expect(vi.getTimerCount()).toBeGreaterThan(0)
    await one.close()
    await one.close()
    expect(await dial).toEqual(code('ERR_PEERLINE_CLOSED'))
    expect(await handles()).toBe(before)
    expect(vi.getTimerCount()).toBe(0)
  })

  test('a port that another program keeps to itself is in use', async () => {
    const v4 = createSocket('udp4')
    const v6 = createSocket({ type: 'udp6', ipv6Only: true })
    open.push(...[v4, v6].map((holder) => ({ close: () => once(holder.close(), 'close') })))
    v4.bind(0)
    await once(v4, 'listening')
    const { port } = v4.address()
    v6.bind(port)
    await once(v6, 'listening')
    await expect(lan(port)).rejects.toEqual(code('ERR_PEERLINE_ADDRESS_IN_USE'))
  })
})

describe('among strangers', () => {
  /** Answers every offer with `answers`, before anyone else can. */
  async function forger(port: number, answers: (offer: Uint8Array) => Uint8Array[]) {
    const { socket, got } = await stranger({ port })
    socket.on('message', (message, from) => {
      const read = readLanDatagram(message)
      if (read?.kind !== 'offer') return
      for (const answer of answers(read.message)) {
        socket.send(encodeLanAnswer(tagOf(read.message), answer), from.port, from.address)
      }
    })
    return got
  }

  test('a forged answer does not hide the genuine one', async () => {
    const port = await freePort()
    await forger(port, () => [Uint8Array.of(66)])
    const caller = await lan(port, { answering: false })
    const seen: number[] = []
    const exchange = caller.exchange(somebody, bytes(16), bytes(), {
      signal,
      accept: (answer) => {
        seen.push(answer[0]!)
        return answer[0] === 1
      },
    })
    await vi.waitFor(() => expect(seen.length).toBeGreaterThan(0))
    await lan(port, { onOffer: async () => Uint8Array.of(1) })
    expect(await exchange).toEqual(Uint8Array.of(1))
    expect(seen[0]).toBe(66)
  })

  test('few forged answers of one source are looked at', async () => {
    const port = await freePort()
    const got = await forger(port, () => Array(50).fill(Uint8Array.of(66)))
    const caller = await lan(port, { answering: false })
    const accept = vi.fn(() => false)
    const exchange = caller.exchange(somebody, bytes(16), bytes(), { signal, accept })
    await expect(exchange).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
    expect(got.length).toBeGreaterThan(0)
    expect(accept).toHaveBeenCalledTimes(4)
  })

  test('few copies of one offer are answered', async () => {
    const port = await freePort()
    await lan(port, { onOffer: async (offer) => offer })
    const { send, got } = await stranger({ address: '127.0.0.1' })
    const [offer, last] = [bytes(), bytes()]
    for (let at = 0; at < 50; at++) await send(encodeLanOffer(offer), port)
    await send(encodeLanOffer(last), port)
    await vi.waitFor(() => expect(got.at(-1)?.datagram?.message).toEqual(last))
    expect(got.length).toBe(33)
  })

  test('what accept throws ends the exchange', async () => {
    const port = await freePort()
    await lan(port, { onOffer: async (offer) => offer })
    const caller = await lan(port)
    const accept = () => {
      throw new PeerlineError('ERR_PEERLINE_DENIED', 'the peer refuses')
    }
    const exchange = caller.exchange(somebody, bytes(16), bytes(), { signal, accept })
    await expect(exchange).rejects.toEqual(code('ERR_PEERLINE_DENIED'))
  })

  test('a flood of offers is opened only as far as the limits of one source and of all go', async () => {
    vi.useFakeTimers({ toFake: ['performance'] }) // no second ends meanwhile
    const port = await freePort()
    const onOffer = vi.fn(SILENT)
    const callee = await lan(port, { onOffer })
    const flood = async (address: string, offers: number) => {
      const { send } = await stranger({ address })
      for (let at = 1; at <= offers; at++) {
        await send(encodeLanOffer(bytes()), port)
        // Lest the system drops what has not been read.
        if (at % 20 === 0) await new Promise((resolve) => setImmediate(resolve))
      }
    }
    /** Sees to it that all that was sent before has been read: answers are, in the order they come. */
    const allRead = async () => {
      const { send } = await stranger()
      const offer = bytes()
      const exchange = callee.exchange(somebody, bytes(16), offer, { signal })
      await send(encodeLanAnswer(tagOf(offer), bytes()), port)
      await exchange
    }
    await flood('127.0.0.2', 600)
    await allRead()
    expect(onOffer).toHaveBeenCalledTimes(200)
    for (const address of ['127.0.0.3', '127.0.0.4', '127.0.0.5']) await flood(address, 150)
    await allRead()
    // 400 but one: the callee has heard its own offer too, the first time that all was read.
    expect(onOffer).toHaveBeenCalledTimes(399)
    vi.advanceTimersByTime(1_000)
    await flood('127.0.0.2', 1)
    await vi.waitFor(() => expect(onOffer).toHaveBeenCalledTimes(400))
  })

  test('who waits for a decision holds up only so many others', async () => {
    const port = await freePort()
    const decide: (() => void)[] = []
    const onOffer = vi.fn(() => new Promise<undefined>((resolve) => decide.push(() => resolve(undefined))))
    await lan(port, { onOffer })
    const { send } = await stranger({ address: '127.0.0.1' })
    for (let at = 0; at < 80; at++) await send(encodeLanOffer(bytes()), port)
    await vi.waitFor(() => expect(decide.length).toBe(64))
    for (const done of decide) done()
    await vi.waitFor(async () => {
      await send(encodeLanOffer(bytes()), port)
      expect(decide.length).toBeGreaterThan(64)
    })
  })

  test('nothing is heard from outside of our subnets', async () => {
    const port = await freePort()
    const onOffer = vi.fn(async (offer: Uint8Array) => offer)
    await lan(port, { onOffer, listInterfaces: () => ({ lo: [loopback('255.255.255.255')] }) })
    const outside = await stranger({ address: '127.0.0.2' })
    const inside = await stranger({ address: '127.0.0.1' })
    await outside.send(encodeLanOffer(bytes()), port)
    const offer = bytes()
    await inside.send(encodeLanOffer(offer), port)
    await vi.waitFor(() => expect(inside.got.length).toBe(1))
    expect(onOffer.mock.calls).toEqual([[offer]])
  })

  test('a source that cannot be answered is not', async () => {
    const port = await freePort()
    const groups = { v4: LAN_GROUP_V4, v6: LAN_GROUP_V6 }
    const options = { port, groups, filter: LOOPBACK, listen: true, onDatagram: () => {} }
    const sockets = await LanSockets.open(options)
    open.push(sockets)
    const from = { family: 'IPv4', address: '127.0.0.1', size: 0 } as const
    sockets.sendTo(bytes(), { ...from, port: 0 })
    sockets.sendTo(bytes(), { ...from, port: 1 })
    sockets.sendTo(bytes(), { ...from, family: 'IPv6', address: 'fe80::1%none', port: 1 })
  })

  test('noise, a handler that fails and an answer that is too large are passed over', async () => {
    const port = await freePort()
    await lan(port, {
      onOffer: async (offer) => {
        if (offer[0] === 0) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'no offer')
        return offer[0] === 1 ? bytes(16_385) : offer
      },
    })
    const { send, got } = await stranger({ address: '127.0.0.1' })
    for (const noise of [new Uint8Array(0), bytes(3), bytes(60), bytes(9_000)]) await send(noise, port)
    await send(encodeLanAnswer('00'.repeat(16), bytes()), port)
    for (const offer of [Uint8Array.of(0), Uint8Array.of(1), Uint8Array.of(2)]) await send(encodeLanOffer(offer), port)
    await vi.waitFor(() => expect(got.length).toBe(1))
    expect(got[0]!.datagram!.message).toEqual(Uint8Array.of(2))
  })
})

function loopback(netmask: string): NetworkInterfaceInfo {
  return { address: '127.0.0.1', netmask, family: 'IPv4', mac: '00:00:00:00:00:00', internal: true, cidr: null }
}
