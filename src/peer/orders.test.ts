import fc from 'fast-check'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { encodeCbor } from '../bytes/index.ts'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { Authorities } from '../policy/authorities.ts'
import { BootstrapPolicy } from '../policy/bootstrap-policy.ts'
import { openOrder } from '../policy/order.ts'
import { type Executor, TaskQueue } from '../tasks/index.ts'
import { ORDER_PROTOCOL, OrderGiver, Orders } from './orders.ts'

const SETTINGS = { kind: 'update-settings', settings: { size: 1 } } as const
const code = (text: string) => expect.objectContaining({ code: text })

afterEach(() => vi.useRealTimers())

/** One that gives orders to one that takes them, with nothing between. */
function pair(does: NonNullable<Executor['update-settings']>) {
  const [authority, peer] = [Identity.generate(), Identity.generate()]
  const authorities = new Authorities({ policy: new BootstrapPolicy({ authority: true }) })
  authorities.add(authority.peerId)
  const tasks = new TaskQueue({ execute: { 'update-settings': does } })
  const orders = new Orders({ identity: peer, authorities, tasks, flush: async () => {} })
  const gone = new AbortController()
  const ask = (order: Uint8Array) =>
    Promise.resolve(orders.handle(order, { from: authority.peerId, protocol: ORDER_PROTOCOL, signal: gone.signal }))
  const giver = new OrderGiver(authority)
  return { tasks, gone, ask, giver, peer, give: () => giver.give(peer.peerId, SETTINGS, ask) }
}

describe('what is told of an order', () => {
  test('is that it waits, when it is not done in time; the task goes on, and no timer stays', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    let end!: () => void
    const work = new Promise<void>((resolve) => {
      end = resolve
    })
    const { give, tasks } = pair(() => work)
    const giving = give()
    await vi.advanceTimersByTimeAsync(7_999)
    expect(tasks.list()).toMatchObject([{ state: 'running' }])
    await vi.advanceTimersByTimeAsync(1)
    expect(await giving).toEqual({ state: 'queued' })
    const [task] = tasks.list()
    end()
    expect(await task!.result).toMatchObject({ status: 'done' })
    expect(vi.getTimerCount()).toBe(0)
  })

  test('leaves no timer when it is done at once, nor when the authority waits no longer', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const quick = pair(() => 1)
    expect(await quick.give()).toEqual({ state: 'done', value: 1 })
    expect(vi.getTimerCount()).toBe(0)
    const slow = pair(() => new Promise<never>(() => {}))
    const giving = slow.give()
    await vi.advanceTimersByTimeAsync(0)
    slow.gone.abort()
    expect(await giving).toEqual({ state: 'queued' })
    slow.tasks.close()
    expect(vi.getTimerCount()).toBe(0)
  })

  test('is what the task brought, as far as it has a form', async () => {
    const cases: [unknown, unknown][] = [
      [undefined, undefined],
      [true, true],
      [7, 7],
      [1.4, 1],
      [Number.NaN, undefined],
      [1e300, undefined],
      [{ secret: 'of this side' }, undefined],
      ['a\u001b[31mred', 'a [31mred'],
      [new Uint8Array(65_537), undefined],
    ]
    for (const [value, told] of cases) expect(await pair(() => value).give()).toEqual({ state: 'done', value: told })
    const bytes = new Uint8Array(65_536).fill(7)
    const { value } = (await pair(() => bytes).give()) as { value: Uint8Array }
    expect(Buffer.compare(value, bytes)).toBe(0)
  })

  test('is why it failed: one line, cut to its length, though that cuts a character in two', async () => {
    const fails = (message: string) => () => {
      throw new PeerlineError('ERR_PEERLINE_DENIED', message)
    }
    expect(await pair(fails('no\r\nno')).give()).toEqual({
      state: 'failed',
      error: expect.objectContaining({ code: 'ERR_PEERLINE_DENIED', message: 'no  no' }),
    })
    const long = await pair(fails(`${'x'.repeat(299)}\u{1f600} and more`)).give()
    expect(long).toMatchObject({ state: 'failed', error: { message: expect.stringMatching(/^x{299}.$/) } })
    expect(await pair(() => `${'x'.repeat(299)}\u{1f600}`).give()).toMatchObject({ state: 'done' })
  })

  test('is that it was cancelled, when the queue is closed', async () => {
    const at = pair(() => new Promise<never>(() => {}))
    const giving = at.give()
    at.tasks.addEventListener('started', () => at.tasks.close())
    expect(await giving).toEqual({ state: 'failed', error: code('ERR_PEERLINE_CLOSED') })
  })
})

describe('what is answered to an order', () => {
  const { giver, peer } = pair(() => {})
  const answered = (answer: Uint8Array) => giver.give(peer.peerId, SETTINGS, async () => answer)

  test('may be anything: it is an outcome, or an error of ours', async () => {
    const shapes = fc.oneof(
      fc.uint8Array({ maxLength: 100 }),
      fc
        .record(
          {
            state: fc.constantFrom('done', 'failed', 'unknown', 'queued', 'dancing'),
            value: fc.oneof(fc.string(), fc.integer(), fc.boolean(), fc.uint8Array(), fc.constant(null)),
            code: fc.oneof(fc.string(), fc.constant('ERR_PEERLINE_BUSY'), fc.integer()),
            message: fc.oneof(fc.string({ maxLength: 400 }), fc.boolean()),
          },
          { requiredKeys: [] },
        )
        .map((shape) => encodeCbor(shape)),
    )
    await fc.assert(
      fc.asyncProperty(shapes, async (answer) => {
        const outcome = await answered(answer).catch((error) => error)
        if (isPeerlineError(outcome)) {
          expect(outcome.code).toMatch(/PROTOCOL|TOO_LARGE|INVALID/)
          return
        }
        expect(['done', 'failed', 'unknown', 'queued']).toContain(outcome.state)
        if (outcome.state === 'failed') expect(outcome.error.message).not.toMatch(/\p{Cc}/u)
      }),
    )
  })

  test('as failed with a code that nobody knows is a failure of the other side', async () => {
    const answer = encodeCbor({ state: 'failed', code: 'ERR_OTHER', message: 'a\nb' })
    expect(await answered(answer)).toMatchObject({
      state: 'failed',
      error: { code: 'ERR_PEERLINE_REMOTE', message: 'a b' },
    })
    await expect(answered(new Uint8Array(80_000))).rejects.toEqual(code('ERR_PEERLINE_TOO_LARGE'))
  })
})

describe('an order that was overtaken', () => {
  const replayed = new PeerlineError('ERR_PEERLINE_REPLAY', 'a later one was taken')

  /** Refuses so many orders, and tells the numbers of all. */
  async function refusing(times: number, options: { once?: boolean } = {}) {
    const { giver, peer } = pair(() => {})
    const numbers: number[] = []
    const giving = giver.give(
      peer.peerId,
      SETTINGS,
      async (order) => {
        numbers.push(openOrder(order, { self: peer.peerId }).sequence)
        if (numbers.length <= times) throw replayed
        return encodeCbor({ state: 'done' })
      },
      options,
    )
    return { outcome: await giving.catch((error) => error), numbers }
  }

  test('is signed anew, above the last', async () => {
    const { outcome, numbers } = await refusing(3)
    expect(outcome).toEqual({ state: 'done' })
    expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b))
    expect(numbers.length).toBe(4)
  })

  test('is given up in the end', async () => {
    const { outcome, numbers } = await refusing(100)
    expect(outcome).toBe(replayed)
    expect(numbers.length).toBe(4)
  })

  test('is not signed anew where it may have been taken: it would be done twice', async () => {
    const { outcome, numbers } = await refusing(1, { once: true })
    expect(outcome).toBe(replayed)
    expect(numbers.length).toBe(1)
  })

  test('is another thing than one that fails', async () => {
    const { giver, peer } = pair(() => {})
    let asked = 0
    const busy = new PeerlineError('ERR_PEERLINE_BUSY', 'later')
    const giving = giver.give(peer.peerId, SETTINGS, async () => {
      asked++
      throw busy
    })
    await expect(giving).rejects.toBe(busy)
    expect(asked).toBe(1)
  })
})
