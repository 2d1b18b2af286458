import { afterEach, describe, expect, test } from 'vitest'
import { Dht, type DhtOptions, signDhtRecord } from '../discovery/index.ts'
import { Identity, openRecord } from '../identity/index.ts'
import { freePort } from '../network/free-port.compliance.ts'
import { DhtService, type DhtServiceOptions } from './dht-service.ts'
import { Server } from './server.ts'

const HOST = '127.0.0.1'
const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })
const open: { close(): Promise<unknown> }[] = []
afterEach(async () => {
  await Promise.all(open.splice(0).map((one) => one.close()))
})

const opened = async <T extends { close(): Promise<unknown> }>(promise: Promise<T>): Promise<T> => {
  const one = await promise
  open.push(one)
  return one
}
const node = (options: Partial<DhtServiceOptions> = {}) =>
  opened(DhtService.open({ listen: ':0', beside: HOST, reachable: (bound) => bound, ...options }))
const peer = (options: DhtOptions) => opened(Dht.open({ host: HOST, ...options }))

describe('a node that is the first', () => {
  test('is enough for peers to find each other, and holds what those said who have left', async () => {
    const { address, nodes } = await node()
    expect(nodes).toBe(0)
    const identity = Identity.generate()
    const content = { sequence: 1, expiresAt: Date.now() + 60_000, rendezvous: ['ws://192.0.2.1:4400#somebody'] }
    const record = signDhtRecord(identity, content)
    const publisher = await Dht.open({ host: HOST, bootstrap: [address], identity })
    expect(await publisher.publish(record)).toBe(1)
    await publisher.close()
    expect(await (await peer({ bootstrap: [address] })).find(identity.peerId)).toEqual(openRecord(record))
  })

  test('introduces those who came to each other', async () => {
    const first = await node()
    const [a, b] = await Promise.all([peer({ bootstrap: [first.address] }), peer({ bootstrap: [first.address] })])
    await Promise.all([a, b].map((one) => one.find(Identity.generate().peerId)))
    const late = await peer({ bootstrap: [first.address] })
    await late.find(Identity.generate().peerId)
    expect([first.nodes, late.nodes]).toEqual([3, 3])
  })

  test('gives its port back', async () => {
    const port = await freePort()
    const first = await node({ listen: `:${port}` })
    await expect(node({ listen: `:${port}` })).rejects.toThrow(code('ERR_PEERLINE_ADDRESS_IN_USE'))
    await first.close()
    expect((await node({ listen: `:${port}` })).address).toBe(`${HOST}:${port}`)
  })
})

describe('where it is', () => {
  const reachable = (bound: string) => (bound === '0.0.0.0' ? '192.0.2.7' : bound)
  const where = async (options: Partial<DhtServiceOptions>) =>
    (await node({ reachable, ...options })).address.replace(/:\d+$/, '')

  test.each<[string, Partial<DhtServiceOptions>, string]>([
    ['beside the server', { beside: '127.0.0.3' }, '127.0.0.3'],
    ['everywhere, as the server', { beside: '::' }, '192.0.2.7'],
    ['as the server is called', { publicHost: 'peer.example.org' }, 'peer.example.org'],
    ['not at an IPv6 address', { publicHost: '2001:db8::1' }, HOST],
    ['where it is told to be', { listen: '127.0.0.4:0', publicHost: 'peer.example.org' }, '127.0.0.4'],
  ])('is %s', async (_, options, expected) => {
    expect(await where(options)).toBe(expected)
  })

  test('must be said beside a server of IPv6 alone, and be an address of IPv4', async () => {
    await expect(node({ beside: '::1' })).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    await expect(node({ listen: '[::1]:0' })).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    await expect(node({ listen: 'localhost:0' })).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
  })
})

describe('of a server', () => {
  test('goes with it, and is none unless it is wanted', async () => {
    const [listen, port] = [`${HOST}:0`, await freePort()]
    const plain = await opened(Server.create({ listen }))
    expect(plain.dht).toBeUndefined()
    const server = await Server.create({ listen, dht: `:${port}` })
    expect(server.dht).toBe(`${HOST}:${port}`)
    await expect(Server.create({ listen, dht: `:${port}` })).rejects.toThrow(code('ERR_PEERLINE_ADDRESS_IN_USE'))
    await server.close()
    expect((await node({ listen: `:${port}` })).address).toBe(`${HOST}:${port}`)
  })

  test('that cannot be had costs the server nothing but its start', async () => {
    const taken = await node()
    const port = await freePort()
    const listen = `${HOST}:${port}`
    await expect(Server.create({ listen, dht: taken.address })).rejects.toThrow(code('ERR_PEERLINE_ADDRESS_IN_USE'))
    expect((await opened(Server.create({ listen }))).url).toContain(listen)
  })
})
