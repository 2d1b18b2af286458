import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import type { NetworkInterfaceInfo } from 'node:os'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Identity } from '../identity/index.ts'
import { freePort } from '../network/free-port.compliance.ts'
import { LanDiscovery, type LanDiscoveryOptions } from './lan.ts'

const LOOPBACK = { include: [], loopback: true }
const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })

const open: { close(): unknown }[] = []
let ports: { mdnsPort: number; beaconPort: number }
beforeEach(async () => {
  ports = { mdnsPort: await freePort(), beaconPort: await freePort() }
})
afterEach(async () => {
  vi.useRealTimers()
  for (const one of open.splice(0)) await one.close()
})

interface Station {
  readonly lan: LanDiscovery
  readonly id: string
  /** `found <port of the first address> <by>`, `lost <reason>` */
  readonly events: string[]
}

async function station(options: LanDiscoveryOptions & { port?: number } = {}): Promise<Station> {
  const { port = 4401, ...rest } = options
  const identity = rest.identity ?? Identity.generate()
  const lan = await LanDiscovery.open({
    ...{ identity, listening: () => [`127.0.0.1:${port}`], interfaces: LOOPBACK },
    ...{ mdnsPort: ports.mdnsPort, beaconPorts: [ports.beaconPort] },
    ...rest,
  })
  open.push(lan)
  const events: string[] = []
  lan.addEventListener('found', ({ detail: { addresses, by } }) =>
    events.push(`found ${addresses[0]!.split(':')[1]} ${by}`),
  )
  lan.addEventListener('lost', ({ detail: { reason } }) => events.push(`lost ${reason}`))
  return { lan, id: identity.peerId, events }
}

const ids = ({ lan }: Station) => lan.peers.map(({ peer }) => peer)
const MEDIA = [
  ['mdns', { beaconPorts: [] }],
  ['beacon', { mdns: false }],
] as const

describe.each(MEDIA)('by %s alone', (by, medium) => {
  test('two peers find each other, and know when one goes', async () => {
    const a = await station({ ...medium, port: 1 })
    const b = await station({ ...medium, port: 2 })
    expect(a.lan.media).toEqual([by])
    await vi.waitFor(() => expect([a.events, b.events]).toEqual([[`found 2 ${by}`], [`found 1 ${by}`]]), 2_000)
    expect(a.lan.peers).toMatchObject([{ peer: b.id, addresses: ['127.0.0.1:2'], by, record: { peerId: b.id } }])
    await b.lan.close()
    await vi.waitFor(() => expect(a.events).toEqual([`found 2 ${by}`, 'lost goodbye']))
    expect(a.lan.peers).toEqual([])
  })

  test('who listens finds who announces itself, and is not found', async () => {
    const announcing = await station({ ...medium })
    const listening = await station({ ...medium, mode: 'listen' })
    const other = await station({ ...medium })
    await vi.waitFor(() => expect(ids(listening).sort()).toEqual([announcing.id, other.id].sort()), 2_000)
    await vi.waitFor(() => expect([ids(announcing), ids(other)]).toEqual([[other.id], [announcing.id]]), 2_000)
  })

  test('who begins to announce itself is found at once, and who stops is gone', async () => {
    const a = await station({ ...medium })
    const b = await station({ ...medium, mode: 'listen' })
    await vi.waitFor(() => expect(ids(b)).toEqual([a.id]), 2_000)
    await b.lan.setMode('announce')
    await vi.waitFor(() => expect(ids(a)).toEqual([b.id]), 2_000)
    await b.lan.setMode('listen')
    await vi.waitFor(() => expect(ids(a)).toEqual([]))
    await b.lan.setMode('announce')
    await vi.waitFor(() => expect(ids(a)).toEqual([b.id]), 2_000)
    expect(a.events).toEqual([`found 4401 ${by}`, 'lost goodbye', `found 4401 ${by}`])
    expect(ids(b)).toEqual([a.id])
  })

  test('where it listens now is told at its next turn', async () => {
    let port = 1
    const a = await station({ ...medium, listening: () => [`127.0.0.1:${port}`] })
    const b = await station({ ...medium, mode: 'listen' })
    await vi.waitFor(() => expect(b.events).toEqual([`found 1 ${by}`]), 2_000)
    port = 2
    await a.lan.refresh()
    await vi.waitFor(() => expect(b.events).toEqual([`found 1 ${by}`, `found 2 ${by}`]), 3_000)
  })
})

describe('on one network', () => {
  test('who listens nowhere is not announced, and finds the others', async () => {
    const a = await station({ listening: () => [] })
    const b = await station()
    await vi.waitFor(() => expect(ids(a)).toEqual([b.id]), 2_000)
    expect(ids(b)).toEqual([])
  })

  test('two of the same identity do not find each other, and others find one', async () => {
    const identity = Identity.generate()
    const pair = [await station({ identity }), await station({ identity })]
    const other = await station({ mode: 'listen' })
    await vi.waitFor(() => expect(ids(other)).toEqual([identity.peerId]), 2_000)
    expect(pair.map(ids)).toEqual([[], []])
  })

  test('nobody in particular can listen, and not announce itself', async () => {
    const a = await station()
    const common = { interfaces: LOOPBACK, mdnsPort: ports.mdnsPort, beaconPorts: [ports.beaconPort] }
    const nobody = await LanDiscovery.open(common)
    open.push(nobody)
    expect(nobody.mode).toBe('listen')
    await vi.waitFor(() => expect(nobody.peers.map(({ peer }) => peer)).toEqual([a.id]), 2_000)
    await expect(LanDiscovery.open({ ...common, mode: 'announce' })).rejects.toEqual(code('ERR_PEERLINE_INVALID'))
  })

  test('switched off, no socket is open; switched on, all is as before', async () => {
    const a = await station()
    const before = await handles()
    const b = await station({ mode: 'off' })
    await b.lan.refresh()
    b.lan.settle()
    expect([await handles(), b.lan.media]).toEqual([before, []])
    await b.lan.setMode('announce')
    await vi.waitFor(() => expect([ids(a), ids(b)]).toEqual([[b.id], [a.id]]), 2_000)
    await b.lan.setMode('off')
    await vi.waitFor(() => expect(ids(a)).toEqual([]))
    expect(await handles()).toBe(before)
  })

  test('changes of mode are made one after the other, and the last one stays', async () => {
    const a = await station()
    const b = await station({ mode: 'off' })
    await Promise.all((['announce', 'off', 'listen', 'off', 'announce'] as const).map((mode) => b.lan.setMode(mode)))
    expect(b.lan.mode).toBe('announce')
    await vi.waitFor(() => expect([ids(a), ids(b)]).toEqual([[b.id], [a.id]]), 2_000)
  })

  test('one medium is enough, and none is an error', async () => {
    const holder = async (port: number) => {
      for (const socket of [createSocket('udp4'), createSocket({ type: 'udp6', ipv6Only: true })]) {
        socket.bind(port)
        await once(socket, 'listening')
        open.push({ close: () => once(socket.close(), 'close') })
      }
    }
    await holder(ports.mdnsPort)
    const { lan } = await station()
    expect(lan.media).toEqual(['beacon'])
    await lan.close()
    await holder(ports.beaconPort)
    const before = await handles()
    await expect(station({ beaconPorts: [] })).rejects.toEqual(code('ERR_PEERLINE_ADDRESS_IN_USE'))
    await expect(station({ mode: 'listen' })).rejects.toEqual(code('ERR_PEERLINE_ADDRESS_IN_USE'))
    expect(await handles()).toBe(before)
  })

  test.each([[[0]], [[65_536]], [[1.5]], [[1, 2, 3, 4, 5]]])(
    'beacons have no ports such as %j',
    async (beaconPorts) => {
      await expect(station({ beaconPorts })).rejects.toEqual(code('ERR_PEERLINE_INVALID'))
    },
  )

  test('interfaces that come later are used after a refresh', async () => {
    const lo = { address: '127.0.0.1', netmask: '255.0.0.0', family: 'IPv4', internal: true } as NetworkInterfaceInfo
    let interfaces: Record<string, NetworkInterfaceInfo[]> = {}
    const a = await station({ listInterfaces: () => interfaces })
    const b = await station()
    interfaces = { lo: [lo] }
    await a.lan.refresh()
    await vi.waitFor(() => expect([ids(a), ids(b)]).toEqual([[b.id], [a.id]]), 2_000)
  })
})

describe('in time', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'performance'] })
  })

  /** How often it is heard within so long a time. */
  async function turns(ms: number): Promise<number> {
    const socket = createSocket({ type: 'udp4', reuseAddr: true }).bind(ports.beaconPort)
    await once(socket, 'listening')
    let heard = false
    socket.on('message', () => {
      heard = true
    })
    let count = 0
    for (let at = 0; at < ms; at += 500) {
      vi.advanceTimersByTime(500)
      await handles() // time for the network
      if (heard) count++
      heard = false
    }
    await once(socket.close(), 'close')
    return count
  }

  test('it speaks up often at first, and once a minute when it is settled', async () => {
    const a = await station({ mdns: false })
    expect(await turns(10_000)).toBeGreaterThanOrEqual(4)
    a.lan.settle()
    expect(await turns(50_000)).toBe(0)
    expect(await turns(20_000)).toBe(1)
    await a.lan.refresh()
    expect(await turns(10_000)).toBeGreaterThanOrEqual(3)
  })

  test('a new peer has it hurry', async () => {
    const a = await station({ mdns: false })
    await turns(10_000)
    a.lan.settle()
    const b = await station({ mdns: false })
    const found = new Promise((resolve) => a.lan.addEventListener('found', resolve))
    vi.advanceTimersByTime(200)
    await found
    await b.lan.close()
    expect(await turns(5_000)).toBeGreaterThanOrEqual(2)
  })

  test('who falls silent is lost', async () => {
    const a = await station({ mdns: false, mode: 'listen' })
    const b = await station({ mdns: false })
    vi.advanceTimersByTime(200)
    await vi.waitFor(() => expect(a.events).toEqual(['found 4401 beacon']))
    // The power fails: what it says when it closes is no goodbye.
    vi.spyOn(Identity.prototype, 'sign').mockReturnValue(new Uint8Array(64))
    await b.lan.close()
    vi.restoreAllMocks()
    vi.advanceTimersByTime(205_000)
    expect(a.events).toEqual(['found 4401 beacon'])
    vi.advanceTimersByTime(10_000)
    expect(a.events).toEqual(['found 4401 beacon', 'lost silent'])
  })

  test('nothing is left behind, and closing may come twice', async () => {
    const before = await handles()
    const a = await station()
    const b = await station()
    vi.advanceTimersByTime(200)
    await vi.waitFor(() => expect(ids(a)).toEqual([b.id]))
    expect(await handles()).toBeGreaterThan(before)
    await Promise.all([a.lan.close(), a.lan.close(), b.lan.close()])
    await a.lan.close()
    await a.lan.setMode('announce')
    await a.lan.refresh()
    a.lan.settle()
    expect([a.lan.mode, await handles(), vi.getTimerCount()]).toEqual(['off', before, 0])
  })
})

/** A handle is let go of at the end of the turn after its close event. */
async function handles(): Promise<number> {
  for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve))
  return process.getActiveResourcesInfo().filter((name) => /UDP/.test(name)).length
}
