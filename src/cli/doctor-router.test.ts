import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Answer, FakeRouter } from '../network/pcp-router.compliance.ts'
import { examineRouter } from './doctor-router.ts'

const ROUTER = '127.0.0.78'
const PUBLIC = '11.22.33.1'
const NEVER = new AbortController().signal

let router: FakeRouter
let answer: (request: Answer) => Answer | undefined
beforeEach(async () => {
  answer = (request) => ({ ...request, ip: PUBLIC, external: request.external || 4_321 })
  router = await FakeRouter.start(ROUTER, (request) => answer(request))
})
afterEach(() => router.close())

const ask = (signal = NEVER) => examineRouter(signal, { gateways: [ROUTER], languages: ['pcp', 'natpmp'] })

/** Ports that the router was asked for and not asked to give up, by protocol. */
function held(): string[] {
  const ports = new Set<string>()
  for (const { nonce, internal, lifetime } of router.requests) {
    const key = `${nonce === undefined ? 'natpmp' : 'pcp'} ${internal}`
    if (lifetime > 0) ports.add(key)
    else ports.delete(key)
  }
  return [...ports]
}

test('a router that maps says where, by each protocol, and gets its ports back', async () => {
  const found = await ask()
  expect(found).toEqual({
    gateways: [ROUTER],
    mapping: ['pcp', 'natpmp'].map((via) => ({
      via,
      outcome: 'mapped',
      external: expect.stringMatching(/^11\.22\.33\.1:\d+$/),
      reachable: true,
    })),
  })
  const asked = router.requests.filter(({ lifetime }) => lifetime > 0)
  expect(asked.map(({ lifetime, protocol }) => [lifetime, protocol])).toEqual(Array(2).fill([120, 'udp']))
  expect(new Set(asked.map(({ internal }) => internal)).size).toBe(2)
  expect(router.requests).toHaveLength(4)
  expect(held()).toEqual([])
})

test.each([
  ['another NAT stands before it', '100.64.0.9', { outcome: 'mapped', reachable: false }],
  ['it has no address', '0.0.0.0', { outcome: 'refused', detail: expect.stringContaining('0.0.0.0') }],
])('%s', async (_, ip, expected) => {
  answer = (request) => ({ ...request, ip })
  const { mapping } = await ask()
  for (const found of mapping) expect(found).toMatchObject(expected)
  expect(held()).toEqual([])
})

test('a router that refuses one protocol and speaks no other', async () => {
  router.languages = ['natpmp']
  answer = (request) => ({ ...request, ip: PUBLIC, result: 2 })
  const { mapping } = await ask()
  expect(mapping).toEqual([
    { via: 'pcp', outcome: 'silent', detail: expect.stringContaining('does not speak PCP') },
    { via: 'natpmp', outcome: 'refused', detail: expect.stringContaining('refuses') },
  ])
})

test('of several routers, the one that maps counts', async () => {
  const { mapping } = await examineRouter(NEVER, { gateways: ['127.0.0.79', ROUTER], languages: ['pcp'] })
  expect(mapping).toMatchObject([{ via: 'pcp', outcome: 'mapped' }])
})

test('nobody there', async () => {
  const { mapping } = await examineRouter(NEVER, { gateways: ['127.0.0.79'], languages: ['pcp', 'natpmp'] })
  expect(mapping.map(({ outcome }) => outcome)).toEqual(['silent', 'silent'])
  expect(await examineRouter(NEVER, { gateways: [], languages: ['pcp'] })).toEqual({
    gateways: [],
    mapping: [{ via: 'pcp', outcome: 'silent' }],
  })
})

test('interrupted before the answer, it takes back what may have been granted', async () => {
  const stop = new AbortController()
  const error = new Error('stopped')
  // Granted, but the answer is lost on the way; then it is given up.
  answer = (request) => {
    if (request.lifetime > 0 && request.internal > 0) setImmediate(() => stop.abort(error))
    return request.internal > 0 && request.lifetime > 0 ? undefined : { ...request, ip: PUBLIC }
  }
  const asking = examineRouter(stop.signal, { gateways: [ROUTER], languages: ['pcp'] })
  await expect(asking).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  expect(router.requests.map(({ lifetime }) => lifetime)).toEqual([120, 0])
})
