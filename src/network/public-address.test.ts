import dns from 'node:dns'
import { EventEmitter, once } from 'node:events'
import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import fc from 'fast-check'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { PublicAddress, PublicAddressError, type PublicAddressSettings, publicAddress } from './public-address.ts'

type Found = (error: Error | null, address: string, family: number) => void

const servers: Server[] = []

/** Closes when every connection has: a client that leaves one open makes the test hang. */
afterEach(async () => {
  vi.restoreAllMocks()
  await Promise.all(servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve))))
})

async function listen(handler: RequestListener, host: string): Promise<string> {
  const server = createServer(handler)
  servers.push(server)
  server.listen(0, host)
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}/`
}

/** A source that says `body`, or never anything. */
function says(body: string | undefined, host = '127.0.0.1'): Promise<string> {
  return listen((_request, response) => {
    if (body !== undefined) response.end(body)
  }, host)
}

/** Sources that say these, each in a network of its own, as all of 127.0.0.0/8 is this machine. */
const say = (...bodies: (string | undefined)[]) =>
  Promise.all(bodies.map((body, at) => says(body, `127.0.${at + 1}.1`)))

const ask = (options: Partial<Parameters<typeof publicAddress>[0]>) =>
  publicAddress({ policy: 'consensus', sources: [], family: 4, ...options })

/** The error of a question that finds no address. */
async function failure(options: Partial<Parameters<typeof publicAddress>[0]>): Promise<PublicAddressError> {
  const error = await ask(options).then(
    ({ address }) => expect.fail(`${address} was found`),
    (cause) => cause,
  )
  expect(error).toBeInstanceOf(PublicAddressError)
  return error
}

describe('single', () => {
  test('believes its one source', async () => {
    const [url] = await say('1.2.3.4')
    expect(await ask({ policy: 'single', sources: [url!] })).toEqual({
      address: '1.2.3.4',
      family: 4,
      sources: [{ url, ms: expect.any(Number), address: '1.2.3.4' }],
      outliers: [],
    })
  })

  test('fails with it, and tells why', async () => {
    const error = await failure({ policy: 'single', sources: await say('no') })
    expect(error.code).toBe('ERR_PEERLINE_UNREACHABLE')
    expect(error.sources).toMatchObject([{ error: { code: 'ERR_PEERLINE_PROTOCOL' } }])
    expect(error.message).toMatch(/no source told our IPv4 address \(127\.0\.1\.1:\d+: ERR_PEERLINE_PROTOCOL\)/)
  })

  test('asks for IPv6 over IPv6', async () => {
    const url = await listen((request, response) => {
      response.end(request.socket.remoteAddress === '::1' ? '2600::1' : '1.2.3.4')
    }, '::1')
    expect(await ask({ policy: 'single', sources: [url], family: 6 })).toMatchObject({ address: '2600::1', family: 6 })
    expect((await failure({ policy: 'single', sources: [url], family: 4 })).code).toBe('ERR_PEERLINE_UNREACHABLE')
  })
})

describe('failover', () => {
  test('takes the first that answers, and asks no further', async () => {
    const sources = await say('no', undefined, '1.2.3.4', '5.6.7.8')
    const report = await ask({ policy: 'failover', sources, timeoutMs: 500 })
    expect(report).toMatchObject({
      address: '1.2.3.4',
      sources: [
        { error: { code: 'ERR_PEERLINE_PROTOCOL' } },
        { error: { code: 'ERR_PEERLINE_TIMEOUT' } },
        { address: '1.2.3.4' },
      ],
      outliers: [],
    })
    expect(report.sources[1]!.ms).toBeGreaterThanOrEqual(495)
  })

  test('fails when all do', async () => {
    const error = await failure({ policy: 'failover', sources: await say('no', '10.0.0.1', ''), timeoutMs: 1_000 })
    expect([error.code, error.sources.length]).toEqual(['ERR_PEERLINE_UNREACHABLE', 3])
  })
})

describe('consensus', () => {
  test('a minority that lies is outvoted, and named', async () => {
    const sources = await say('1.2.3.4', '6.6.6.6', '1.2.3.4', '6.6.6.6', '{"ip":"1.2.3.4"}')
    const report = await ask({ sources })
    expect(report.address).toBe('1.2.3.4')
    expect(report.sources.map(({ url, address }) => [url, address])).toEqual(
      sources.map((url, at) => [url, at % 2 === 0 ? '1.2.3.4' : '6.6.6.6']),
    )
    expect(report.outliers.map(({ url }) => url)).toEqual([sources[1], sources[3]])
  })

  test('one that fails, hangs, is huge or torn costs its own voice alone', async () => {
    const broken = await Promise.all([
      says(undefined, '127.0.11.1'),
      says('x'.repeat(100_000), '127.0.12.1'),
      listen((_request, response) => void response.writeHead(302, { Location: '/' }).end(), '127.0.13.1'),
      listen((_request, response) => {
        response.writeHead(200, { 'Content-Length': 8 }).write('6.6.6.6')
        response.destroy()
      }, '127.0.14.1'),
    ])
    const sources = [...broken, ...(await say('1.2.3.4', '1.2.3.4'))]
    const report = await ask({ sources, quorum: 2, timeoutMs: 1_000 })
    expect(report.sources.map(({ error }) => error?.code)).toEqual([
      'ERR_PEERLINE_TIMEOUT',
      'ERR_PEERLINE_TOO_LARGE',
      'ERR_PEERLINE_REMOTE',
      'ERR_PEERLINE_UNREACHABLE',
      undefined,
      undefined,
    ])
    expect([report.address, report.outliers]).toEqual(['1.2.3.4', []])
  })

  test('they are asked at once', async () => {
    let waiting: (() => void)[] = []
    const sources = await Promise.all(
      [1, 2, 3].map((at) =>
        listen((_request, response) => {
          waiting.push(() => response.end('1.2.3.4'))
          if (waiting.length < 3) return
          for (const answer of waiting) answer()
          waiting = []
        }, `127.0.${at}.1`),
      ),
    )
    expect((await ask({ sources })).address).toBe('1.2.3.4')
  })

  test('without a majority there is none: a plurality is not enough', async () => {
    const sources = await say('1.2.3.4', '1.2.3.4', '6.6.6.6', '7.7.7.7', '8.8.8.8')
    const error = await failure({ sources })
    expect(error.code).toBe('ERR_PEERLINE_CORRUPT')
    expect(error.sources.map(({ address }) => address)).toEqual(['1.2.3.4', '1.2.3.4', '6.6.6.6', '7.7.7.7', '8.8.8.8'])
    expect(error.message).toMatch(/do not agree.*127\.0\.1\.1:\d+: 1\.2\.3\.4, .*127\.0\.5\.1:\d+: 8\.8\.8\.8/)
    expect((await ask({ sources, quorum: 2 })).address).toBe('1.2.3.4')
  })

  test('on a tie nobody wins, though both make the quorum', async () => {
    const sources = await say('1.2.3.4', '6.6.6.6', '1.2.3.4', '6.6.6.6')
    expect((await failure({ sources, quorum: 2 })).code).toBe('ERR_PEERLINE_CORRUPT')
  })

  test('two that answer alone are too few where three have to', async () => {
    const error = await failure({ sources: await say('1.2.3.4', '1.2.3.4', 'no', 'no', 'no') })
    expect(error.code).toBe('ERR_PEERLINE_UNREACHABLE')
    expect(error.message).toMatch(/^2 sources, of 3 on hosts and networks of their own, told our IPv4 address/)
  })

  test('sources in one network have one voice', async () => {
    const near = await Promise.all(['127.0.1.1', '127.0.1.2', '127.0.1.3'].map((host) => says('6.6.6.6', host)))
    const far = await Promise.all(['127.0.2.1', '127.0.3.1'].map((host) => says('1.2.3.4', host)))
    expect((await ask({ sources: [...near, ...far], quorum: 2 })).address).toBe('1.2.3.4')
    expect((await failure({ sources: near })).code).toBe('ERR_PEERLINE_UNREACHABLE')
  })

  test('two ports of a host have one voice', async () => {
    const two = [await says('6.6.6.6', '127.0.1.1'), await says('6.6.6.6', '127.0.1.1')]
    const sources = [...two, await says('1.2.3.4', '127.0.2.1'), await says('1.2.3.4', '127.0.3.1')]
    expect((await ask({ sources, quorum: 2 })).address).toBe('1.2.3.4')
  })

  test('a host with many addresses has one voice', async () => {
    const lies = [await says('6.6.6.6', '127.0.1.1'), await says('6.6.6.6', '127.0.2.1')]
    const truth = [await says('1.2.3.4', '127.0.3.1'), await says('1.2.3.4', '127.0.4.1')]
    const named = lies.map((url) => url.replace(/127\.0\.\d\.1/, 'liar.example'))
    const hosts = ['127.0.1.1', '127.0.2.1']
    vi.spyOn(dns, 'lookup').mockImplementation(((_name: string, _options: unknown, done: Found) => {
      done(null, hosts.shift()!, 4)
    }) as typeof dns.lookup)
    const report = await ask({ sources: [...named, ...truth], quorum: 2 })
    expect([report.address, report.outliers.map(({ address }) => address)]).toEqual(['1.2.3.4', ['6.6.6.6', '6.6.6.6']])
  })

  test('property: whoever wins has a quorum of voices, and more than anybody else', async () => {
    const all = ['1.1.1.1', '2.2.2.2', '3.3.3.3', 'no']
    const said: string[] = []
    const sources = await Promise.all(
      [0, 1, 2, 3, 4].map((at) => listen((_request, response) => void response.end(said[at]), `127.0.${at + 1}.1`)),
    )
    const bodies = fc.array(fc.constantFrom(...all), { minLength: 5, maxLength: 5 })
    await fc.assert(
      fc.asyncProperty(bodies, fc.integer({ min: 2, max: 5 }), async (now, quorum) => {
        said.splice(0, 5, ...now)
        const counts = all.slice(0, 3).map((address) => now.filter((one) => one === address).length)
        const best = Math.max(...counts)
        const clear = best >= quorum && counts.filter((count) => count === best).length === 1
        const found = await ask({ sources, quorum }).catch((error: PublicAddressError) => error.code)
        if (clear) expect(found).toMatchObject({ address: all[counts.indexOf(best)] })
        else {
          const answered = now.filter((one) => one !== 'no').length
          expect(found).toBe(`ERR_PEERLINE_${answered < quorum ? 'UNREACHABLE' : 'CORRUPT'}`)
        }
      }),
      { numRuns: 60 },
    )
  })
})

test('a signal ends it, whatever the policy', async () => {
  for (const policy of ['single', 'failover', 'consensus'] as const) {
    const controller = new AbortController()
    const hanging = await listen(() => controller.abort(), '127.0.9.1')
    const sources = [hanging, ...(policy === 'single' ? [] : await say('1.2.3.4', '1.2.3.4'))]
    const asked = ask({ policy, sources, signal: controller.signal })
    await expect(asked).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  }
})

describe('settings that contradict each other are refused before anybody is asked', () => {
  const three = ['http://a.invalid/', 'http://b.invalid/', 'http://c.invalid/']
  test.each<[string, Partial<Omit<PublicAddressSettings, 'policy'>> & { policy?: string; family?: number }]>([
    ['a policy that is none', { policy: 'plurality' }],
    ['no source', { sources: [] }],
    ['too many', { sources: Array.from({ length: 17 }, (_, at) => `http://s${at}.invalid/`) }],
    ['single with two', { policy: 'single', sources: three.slice(1) }],
    ['consensus with one', { sources: three.slice(2) }],
    ['one source twice', { sources: [...three, 'HTTP://A.invalid'] }],
    ['a quorum without consensus', { policy: 'failover', quorum: 2 }],
    ['a quorum above the sources', { quorum: 4 }],
    ['a quorum above the hosts', { sources: ['http://a.invalid/1', 'http://a.invalid/2', three[1]!], quorum: 3 }],
    ['a majority of one host', { sources: ['http://a.invalid/1', 'http://a.invalid/2'] }],
    ['a quorum of one', { quorum: 1 }],
    ['half a quorum', { quorum: 2.5 }],
    ['a source that is no URL', { sources: ['a.invalid', ...three] }],
    ['a source of another kind', { sources: ['ftp://a.invalid/', ...three] }],
    ['a source with a user', { sources: ['http://secret@a.invalid/', ...three] }],
    ['a source with a password', { sources: ['http://:secret@a.invalid/', ...three] }],
    ['no time', { timeoutMs: 0 }],
    ['time without end', { timeoutMs: Number.POSITIVE_INFINITY }],
    ['another family', { family: 5 }],
  ])('%s', async (_, wrong) => {
    const options = { policy: 'consensus', sources: three, family: 4, ...wrong } as Parameters<typeof publicAddress>[0]
    const error = await publicAddress(options).catch((cause) => cause)
    expect(error).toMatchObject({ code: 'ERR_PEERLINE_INVALID' })
    expect(error.message).not.toContain('secret')
    if (wrong.family === undefined) expect(() => new PublicAddress(options)).toThrow(error.message)
  })
})

describe('both families', () => {
  let said: { four: string; six: string; asked: number }
  async function both(): Promise<PublicAddressSettings> {
    said = { four: '1.2.3.4', six: '2600::1', asked: 0 }
    const answer: RequestListener = (request, response) => {
      said.asked++
      response.end(request.socket.remoteFamily === 'IPv6' ? said.six : said.four)
    }
    const sources = await Promise.all([listen(answer, '127.0.0.1'), listen(answer, '::1')])
    return { policy: 'failover', sources }
  }

  test('are asked apart, kept, and asked again on demand', async () => {
    const known = new PublicAddress(await both())
    expect([known.addresses, known.latest(4)]).toEqual([[], undefined])
    await Promise.all([known.refresh(), known.refresh()])
    expect([known.addresses, said.asked]).toEqual([['1.2.3.4', '2600::1'], 2])
    expect(known.latest(6)).toMatchObject({ address: '2600::1', family: 6 })
    said.four = '5.6.7.8'
    await known.refresh()
    expect(known.addresses).toEqual(['5.6.7.8', '2600::1'])
  })

  test('an address stays while nobody answers', async () => {
    const known = new PublicAddress(await both())
    await known.refresh()
    said.four = 'out of order'
    await known.refresh()
    expect(known.addresses).toEqual(['1.2.3.4', '2600::1'])
    expect(known.latest(4)).toMatchObject({ code: 'ERR_PEERLINE_UNREACHABLE' })
  })

  test('an address goes when the sources disagree', async () => {
    const answers = ['1.2.3.4', '1.2.3.4']
    const sources = await Promise.all(
      answers.map((_, at) => listen((_request, response) => void response.end(answers[at]), `127.0.${at}.1`)),
    )
    const known = new PublicAddress({ policy: 'consensus', sources })
    await known.refresh()
    expect(known.addresses).toEqual(['1.2.3.4'])
    answers[1] = '6.6.6.6'
    await known.refresh()
    expect(known.addresses).toEqual([])
    expect(known.latest(4)).toMatchObject({ code: 'ERR_PEERLINE_CORRUPT' })
  })

  test('what another network told is forgotten, also when it tells it late', async () => {
    const asked = new EventEmitter<{ answer: [(said: string) => void] }>()
    const url = await listen((_request, response) => {
      asked.emit('answer', (said) => void response.end(said))
    }, '127.0.0.1')
    const known = new PublicAddress({ policy: 'single', sources: [url] })
    const before = known.refresh()
    const [answerBefore] = await once(asked, 'answer')
    known.forget()
    const after = known.refresh()
    const [answerAfter] = await once(asked, 'answer')
    answerBefore('1.2.3.4')
    await before
    expect([known.addresses, known.latest(4)]).toEqual([[], undefined])
    expect(known.refresh()).toBe(after)
    answerAfter('5.6.7.8')
    await after
    expect(known.addresses).toEqual(['5.6.7.8'])
    known.forget()
    expect([known.addresses, known.latest(4)]).toEqual([[], undefined])
  })

  test('the end of their owner ends the question', async () => {
    const controller = new AbortController()
    const url = await listen(() => controller.abort(), '127.0.0.1')
    const known = new PublicAddress({ policy: 'single', sources: [url] }, { signal: controller.signal })
    await known.refresh()
    expect([known.addresses, known.latest(4)]).toMatchObject([[], { code: 'ERR_PEERLINE_ABORTED' }])
  })
})
