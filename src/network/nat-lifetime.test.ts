import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { afterEach, describe, expect, test } from 'vitest'
import { UdpReflector } from '../server/reflector.ts'
import type { SocketAddress } from './address.ts'
import { measureMappingLife, searchMappingLife } from './nat-lifetime.ts'
import { counter, NatSimulator, type NatSimulatorOptions } from './nat-simulator.compliance.ts'

const signal = new AbortController().signal
const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })
const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()))
})

/** A reflector, seen through a NAT. `plain`: it cannot be asked to answer elsewhere. */
async function behind(options: NatSimulatorOptions, plain = false): Promise<SocketAddress> {
  const reflector = new UdpReflector()
  const nat = new NatSimulator(options)
  closers.push(
    () => reflector.close(),
    () => nat.close(),
  )
  await reflector.bind('127.0.0.2', 0)
  if (!plain) await reflector.bindOthers({ port: 0 })
  return nat.gate(reflector.address!)
}

const wait = { signal, timeoutMs: 150 }

describe('measureMappingLife', () => {
  const short = { survived: false, idleMs: 200, keepAliveMs: 8_000 }
  const long = { survived: true, idleMs: 200, keepAliveMs: 20_000 }
  const unknown = { survived: undefined, idleMs: 200, keepAliveMs: 20_000 }

  test.each<[string, NatSimulatorOptions, boolean, object]>([
    ['a mapping that stays', {}, false, long],
    ['a mapping that goes', { lifetimeMs: 100 }, false, short],
    ['one per destination that stays', { mapping: 'address-and-port-dependent' }, false, long],
    ['one per destination that goes', { mapping: 'address-and-port-dependent', lifetimeMs: 100 }, false, short],
    ['one that goes, asked of a plain reflector', { lifetimeMs: 100, allocate: counter(40_000, 1) }, true, short],
    // The port is the same: it may have stayed, or have been given out anew.
    ['one that stays, asked of a plain reflector', {}, true, unknown],
  ])('%s', async (_, options, plain, expected) => {
    const reflector = await behind(options, plain)
    expect(await measureMappingLife(reflector, { ...wait, idleMs: 200 })).toEqual(expected)
  })

  test('without a reflector, what is usual', async () => {
    const silent = createSocket('udp4')
    silent.bind(0, '127.0.0.1')
    await once(silent, 'listening')
    closers.push(() => new Promise((resolve) => silent.close(() => resolve(undefined))))
    const place: SocketAddress = { host: '127.0.0.1', port: silent.address().port, family: 4 }
    expect(await measureMappingLife(place, { ...wait, idleMs: 200 })).toEqual(unknown)
  })

  test('a reflector that goes meanwhile proves nothing', async () => {
    const reflector = new UdpReflector()
    await reflector.bind('127.0.0.2', 0)
    await reflector.bindOthers({ port: 0 })
    const measured = measureMappingLife(reflector.address!, { ...wait, idleMs: 200 })
    await expect.poll(() => reflector.counts.answered, { interval: 5 }).toBe(1)
    await reflector.close()
    expect(await measured).toEqual(unknown)
  })

  test('the signal ends it while it waits', async () => {
    const reflector = await behind({})
    const controller = new AbortController()
    const measured = measureMappingLife(reflector, { signal: controller.signal, idleMs: 600_000 })
    setTimeout(() => controller.abort(), 50)
    await expect(measured).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    const never = measureMappingLife(reflector, { signal: controller.signal })
    await expect(never).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
  })
})

describe('searchMappingLife', () => {
  const idlesMs = [100, 300, 500]

  test.each<[string, NatSimulatorOptions, object | undefined]>([
    ['goes in between', { lifetimeMs: 200 }, { atLeast: 100, below: 300 }],
    ['goes before the shortest wait', { lifetimeMs: 50 }, { atLeast: 0, below: 100 }],
    ['outlives them all', {}, { atLeast: 500 }],
  ])('a mapping that %s', async (_, options, expected) => {
    expect(await searchMappingLife(await behind(options), { ...wait, idlesMs })).toEqual(expected)
  })

  test('waits no longer than it is told', async () => {
    const reflector = await behind({})
    expect(await searchMappingLife(reflector, { ...wait, idlesMs, longestIdleMs: 300 })).toEqual({ atLeast: 300 })
    expect(await searchMappingLife(reflector, { ...wait, longestIdleMs: 0 })).toBeUndefined()
  })
})
