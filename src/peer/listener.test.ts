import { once } from 'node:events'
import net from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { PeerlineError } from '../errors.ts'
import { scopeOf } from '../network/address.ts'
import type { FramedPath } from '../path/index.ts'
import { Listener, listenOn } from './listener.ts'

const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })
const portOf = (address: string) => Number(/:(\d+)$/.exec(address)![1])

async function listen(address: string, onPath: (path: FramedPath) => void = () => {}): Promise<Listener> {
  const listener = await Listener.listen(address, onPath)
  onTestFinished(() => listener.close())
  return listener
}

async function dial(listener: Listener): Promise<net.Socket> {
  const socket = net.connect(portOf(listener.address), '127.0.0.1')
  socket.on('error', () => {})
  onTestFinished(() => void socket.destroy())
  await once(socket, 'connect')
  return socket
}

describe('a listener', () => {
  test('tells where it is bound', async () => {
    expect((await listen('127.0.0.1:0')).address).toMatch(/^127\.0\.0\.1:[1-9]\d*$/)
    expect((await listen('[::1]:0')).address).toMatch(/^\[::1\]:[1-9]\d*$/)
    expect((await listen(':0')).address).toMatch(/^(\[::\]|0\.0\.0\.0):[1-9]\d*$/)
  })

  test('hands on a path for each connection', async () => {
    let path: FramedPath | undefined
    const heard = new Promise<string>((resolve) => {
      void listen('127.0.0.1:0', (opened) => {
        path = opened
        const got = (message: Uint8Array) => resolve(Buffer.from(message).toString())
        path.start({ message: got, drain: () => {}, close: () => {} })
      }).then(async (listener) => (await dial(listener)).write(Buffer.from('\0\0\0\x05hello')))
    })
    expect(await heard).toBe('hello')
    expect(path!.kind).toBe('tcp')
    path!.destroy()
  })

  test('says that its address is in use, and which', async () => {
    const { address } = await listen('127.0.0.1:0')
    const error = await listen(address).catch((cause: unknown) => cause)
    expect(error).toEqual(code('ERR_PEERLINE_ADDRESS_IN_USE'))
    expect((error as PeerlineError).message).toContain(address)
  })

  test.each(['127.0.0.1', 'x y:1', '[::1', '198.41.0.4:0', '127.0.0.1:65536'])(
    '%s is not an address to listen on',
    async (address) => {
      await expect(listen(address)).rejects.toEqual(code('ERR_PEERLINE_INVALID'))
    },
  )

  test('frees its port when it closes', async () => {
    const first = await Listener.listen('127.0.0.1:0', () => {})
    await first.close()
    expect((await listen(first.address)).address).toBe(first.address)
  })
})

describe('candidates', () => {
  test('of one address are that address', async () => {
    const listener = await listen('127.0.0.1:0')
    expect(listener.onLoopback).toBe(true)
    expect(listener.candidates(false)).toEqual([{ kind: 'tcp', host: '127.0.0.1', port: portOf(listener.address) }])
  })

  test('of every interface are those that others can reach; loopback only when asked for', async () => {
    const listener = await listen(':0')
    expect(listener.onLoopback).toBe(false)
    const scopes = (loopback: boolean) => listener.candidates(loopback).map(({ host }) => scopeOf(host))
    expect(scopes(false).filter((scope) => scope === 'loopback' || scope === 'link-local')).toEqual([])
    expect(scopes(true)).toContain('loopback')
    expect(new Set(listener.candidates(true).map(({ port }) => port))).toEqual(new Set([portOf(listener.address)]))
  })

  test('of every IPv4 interface name no IPv6 address', async () => {
    const listener = await listen('0.0.0.0:0')
    const hosts = listener.candidates(true).map(({ host }) => host)
    expect(hosts).toContain('127.0.0.1')
    expect(hosts.filter((host) => host.includes(':'))).toEqual([])
  })
})

describe('listenOn', () => {
  function failing(codes: string[], tried: string[]): net.Server {
    const server = net.createServer()
    server.listen = ((options: { host: string }) => {
      tried.push(options.host)
      const error = Object.assign(new Error('no'), { code: codes[tried.length - 1] })
      queueMicrotask(() => (error.code === undefined ? server.emit('listening') : server.emit('error', error)))
      return server
    }) as never
    return server
  }

  test('uses IPv4 alone on machines without IPv6', async () => {
    const tried: string[] = []
    await expect(listenOn(failing(['EAFNOSUPPORT', 'EADDRINUSE'], tried), '', 0)).rejects.toThrow()
    expect(tried).toEqual(['::', '0.0.0.0'])
  })

  test('tells every failure typed, that of the second attempt too', async () => {
    const attempts: [string, string[], string][] = [
      ['127.0.0.1', ['EADDRINUSE'], 'ERR_PEERLINE_ADDRESS_IN_USE'],
      ['127.0.0.1', ['EACCES'], 'ERR_PEERLINE_INVALID'],
      ['', ['EADDRINUSE'], 'ERR_PEERLINE_ADDRESS_IN_USE'],
      ['', ['EAFNOSUPPORT', 'EADDRINUSE'], 'ERR_PEERLINE_ADDRESS_IN_USE'],
    ]
    for (const [host, codes, expected] of attempts) {
      await expect(listenOn(failing(codes, []), host, 1)).rejects.toEqual(code(expected))
    }
  })
})
