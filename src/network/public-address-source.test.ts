import dns from 'node:dns'
import { getEventListeners, once } from 'node:events'
import { createServer as createHttp, type RequestListener } from 'node:http'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import fc from 'fast-check'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { isPeerlineError } from '../errors.ts'
import { type AskSourceOptions, askSource, readAddress } from './public-address-source.ts'

type Found = (error: Error | null, address: string, family: number) => void

const servers: Server[] = []

/** Closes when every connection has: a client that leaves one open makes the test hang. */
afterEach(async () => {
  vi.restoreAllMocks()
  await Promise.all(servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve))))
})

async function listen(server: Server, host = '127.0.0.1'): Promise<URL> {
  servers.push(server)
  server.listen(0, host)
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return new URL(`http://${host.includes(':') ? `[${host}]` : host}:${port}/ip`)
}

const http = (handler: RequestListener, host?: string) => listen(createHttp(handler), host)
const text = (body: string) => http((_request, response) => void response.end(body))
const raw = (say: (socket: Socket) => void) =>
  listen(
    createServer((socket) => {
      socket.on('error', () => {})
      socket.once('data', () => say(socket))
    }),
  )

const ask = (url: URL, options: Partial<AskSourceOptions> = {}) =>
  askSource(url, { family: 4, timeoutMs: 5_000, anyScope: false, ...options })

test('the address comes as text or as JSON, and with it the network that was asked', async () => {
  const network = '127.0.0.0/24'
  for (const body of ['1.2.3.4', ' 1.2.3.4\r\n', '{"ip":"1.2.3.4"}', '{"ip":"1.2.3.4","city":"X"}', '::ffff:1.2.3.4']) {
    expect(await ask(await text(body))).toEqual({ address: '1.2.3.4', network })
  }
})

test('IPv6 is asked over IPv6', async () => {
  const url = await http((request, response) => {
    response.end(request.socket.remoteFamily === 'IPv6' ? '2600:0:0:0::1' : '1.2.3.4')
  }, '::1')
  expect(await ask(url, { family: 6 })).toEqual({ address: '2600::1', network: '::/56' })
})

test('a source at an address of the other family is not asked', async () => {
  let asked = 0
  const four = await http((_request, response) => void response.end(`${asked++}`))
  const mapped = new URL(four.href.replace('127.0.0.1', '[::ffff:127.0.0.1]'))
  const six = await http((_request, response) => void response.end(`${asked++}`), '::1')
  for (const [url, family] of [
    [four, 6],
    [mapped, 6],
    [six, 4],
  ] as const) {
    await expect(ask(url, { family })).rejects.toMatchObject({ code: 'ERR_PEERLINE_UNREACHABLE' })
  }
  // Where this name has an IPv6 address too, nobody listens there.
  const name = new URL(four.href.replace('127.0.0.1', 'localhost'))
  await expect(ask(name, { family: 6 })).rejects.toMatchObject({ code: 'ERR_PEERLINE_UNREACHABLE' })
  expect(asked).toBe(0)
  expect(await ask(name, { anyScope: true }).catch((error) => error.code)).toBe('ERR_PEERLINE_PROTOCOL')
  expect(asked).toBe(1)
})

test('IPv4 that a name dresses as IPv6 is no way to ask for IPv6', async () => {
  const url = await text('2600::1')
  vi.spyOn(dns, 'lookup').mockImplementation(((_name: string, _options: unknown, done: Found) => {
    done(null, '::ffff:127.0.0.1', 6)
  }) as typeof dns.lookup)
  const dressed = ask(new URL(url.href.replace('127.0.0.1', 'dressed.example')), { family: 6 })
  await expect(dressed).rejects.toMatchObject({ code: 'ERR_PEERLINE_PROTOCOL', message: /did not come over IPv6/ })
})

test('it asks plainly, and wants nothing compressed', async () => {
  let seen: unknown
  const url = await http((request, response) => {
    const { method, url, headers } = request
    seen = [method, url, headers['accept-encoding'], headers.cookie, headers['user-agent']]
    response.end('1.2.3.4')
  })
  await ask(url)
  expect(seen).toEqual(['GET', '/ip', 'identity', undefined, undefined])
})

describe('what is no answer', () => {
  test.each<[string, string]>([
    ['nothing', ''],
    ['garbage', '<html>no</html>'],
    ['another family', '2600::1'],
    ['a private address', '192.168.1.1'],
    ['an address behind a carrier', '100.64.0.1'],
    ['loopback', '127.0.0.1'],
    ['loopback in IPv6', '::ffff:127.0.0.1'],
    ['a documentation address', '203.0.113.7'],
    ['two addresses', '1.2.3.4, 5.6.7.8'],
    ['an address with a port', '1.2.3.4:80'],
    ['a short form', '1.2.3'],
    ['a name', 'example.org'],
    ['JSON without it', '{"address":"1.2.3.4"}'],
    ['JSON with something else', '{"ip":16909060}'],
    ['JSON in parts', '{"ip":"1.2.3.4"'],
    ['a JSON list', '["1.2.3.4"]'],
  ])('%s', async (_, body) => {
    await expect(ask(await text(body))).rejects.toMatchObject({ code: 'ERR_PEERLINE_PROTOCOL' })
  })

  test('a private or loopback address counts in a lab', async () => {
    for (const body of ['192.168.1.1', '127.0.0.1']) {
      expect((await ask(await text(body), { anyScope: true })).address).toBe(body)
    }
    for (const body of ['0.0.0.0', '169.254.1.1', '224.0.0.1']) {
      await expect(ask(await text(body), { anyScope: true })).rejects.toMatchObject({ code: 'ERR_PEERLINE_PROTOCOL' })
    }
  })

  test('a zone', () => {
    expect(() => readAddress('fe80::1%eth0', { family: 6, anyScope: true })).toThrow('no address')
    expect(() => readAddress('2600::1%eth0', { family: 6, anyScope: true })).toThrow('no address')
  })
})

describe('a source that misbehaves', () => {
  test('redirections are not followed', async () => {
    let asked = 0
    const url = await http((_request, response) => {
      asked++
      response.writeHead(302, { Location: '/ip' }).end('1.2.3.4')
    })
    await expect(ask(url)).rejects.toMatchObject({ code: 'ERR_PEERLINE_REMOTE', message: /302, and redirections/ })
    expect(asked).toBe(1)
  })

  test.each([204, 403, 500])('status %i is no answer', async (status) => {
    const url = await http((_request, response) => void response.writeHead(status).end('1.2.3.4'))
    await expect(ask(url)).rejects.toMatchObject({ code: 'ERR_PEERLINE_REMOTE' })
  })

  test('an answer over 1 KiB is cut while it comes', async () => {
    const endless = await http((_request, response) => {
      const more = () => {
        while (response.write(' '.repeat(1_000))) {}
        response.once('drain', more)
      }
      more()
    })
    await expect(ask(endless)).rejects.toMatchObject({ code: 'ERR_PEERLINE_TOO_LARGE' })
    await expect(ask(await text(`1.2.3.4${' '.repeat(1_018)}`))).rejects.toMatchObject({
      code: 'ERR_PEERLINE_TOO_LARGE',
    })
    expect((await ask(await text(`1.2.3.4${' '.repeat(1_017)}`))).address).toBe('1.2.3.4')
  })

  test.each<[string, string, string]>([
    ['too short for its length', 'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n1.2.3.4', 'UNREACHABLE'],
    ['cut between chunks', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n1.2.3.4\r\n', 'UNREACHABLE'],
    ['without an end of its own', 'HTTP/1.1 200 OK\r\n\r\n1.2.3.4', 'PROTOCOL'],
    ['cut in its headers', 'HTTP/1.1 200 OK\r\nContent-', 'UNREACHABLE'],
    ['that is empty', '', 'UNREACHABLE'],
    ['that is no HTTP', '1.2.3.4\n', 'PROTOCOL'],
    [
      'with too many headers',
      `HTTP/1.1 200 OK\r\nContent-Length: 7\r\n${'X: yyyyyyyyyyyyyyy\r\n'.repeat(700)}\r\n1.2.3.4`,
      'PROTOCOL',
    ],
    [
      'that wants another protocol',
      'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n1.2.3.4',
      'UNREACHABLE',
    ],
  ])('an answer %s is none', async (_, answer, code) => {
    await expect(ask(await raw((socket) => void socket.end(answer)))).rejects.toMatchObject({
      code: `ERR_PEERLINE_${code}`,
    })
  })

  test('one that hangs is given up in time: before it answers, and in its answer', async () => {
    const silent = await raw(() => {})
    const slow = await raw((socket) => void socket.write('HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n1.2.3.4'))
    for (const url of [silent, slow]) {
      const start = performance.now()
      await expect(ask(url, { timeoutMs: 50 })).rejects.toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
      expect(performance.now() - start).toBeGreaterThan(45)
    }
  })

  test('one that does not listen, or does not speak TLS', async () => {
    const url = await text('1.2.3.4')
    const tls = new URL(url.href.replace('http:', 'https:'))
    await expect(ask(tls)).rejects.toMatchObject({ code: 'ERR_PEERLINE_TLS' })
    await new Promise((resolve) => servers.pop()?.close(resolve))
    await expect(ask(url)).rejects.toMatchObject({ code: 'ERR_PEERLINE_UNREACHABLE' })
  })
})

test('no timer stays', async () => {
  const url = await text('1.2.3.4')
  const set = vi.spyOn(globalThis, 'setTimeout')
  const cleared = vi.spyOn(globalThis, 'clearTimeout')
  await ask(url, { timeoutMs: 34_567 })
  const at = set.mock.calls.findIndex(([, ms]) => ms === 34_567)
  expect(cleared).toHaveBeenCalledWith(set.mock.results[at]!.value)
})

test('a signal ends it, and nothing stays at the signal', async () => {
  const controller = new AbortController()
  const { signal } = controller
  expect((await ask(await text('1.2.3.4'), { signal })).address).toBe('1.2.3.4')
  expect(getEventListeners(signal, 'abort')).toEqual([])
  const reached = new AbortController()
  const url = await raw(() => reached.abort())
  reached.signal.addEventListener('abort', () => controller.abort())
  await expect(ask(url, { signal })).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  await expect(ask(url, { signal })).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
})

test('property: any text is an address of the asked family in its one form, or a typed error', () => {
  const texts = fc.oneof(
    fc.string({ maxLength: 64 }),
    fc.ipV4(),
    fc.ipV6(),
    fc.oneof(fc.ipV4(), fc.ipV6()).map((ip) => JSON.stringify({ ip })),
    fc.json(),
  )
  fc.assert(
    fc.property(texts, fc.constantFrom(4, 6), fc.boolean(), (said, family, anyScope) => {
      try {
        const address = readAddress(said, { family, anyScope })
        expect(address.includes(':')).toBe(family === 6)
        expect(readAddress(address, { family, anyScope })).toBe(address)
      } catch (error) {
        expect(isPeerlineError(error) && error.code).toBe('ERR_PEERLINE_PROTOCOL')
      }
    }),
    { numRuns: 2_000 },
  )
})
