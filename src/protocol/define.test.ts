import { describe, expect, expectTypeOf, it, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { StreamCode } from '../session/index.ts'
import { defineProtocol, type Protocol, type ProtocolHandler } from './define.ts'
import { request } from './request.ts'
import { useServedPair } from './served-pair.compliance.ts'
import type { SchemaIssue, StandardSchema } from './standard-schema.ts'

const from = Identity.generate().peerId

/** A schema of `check`, which gives the value or issues; answering at once or later. */
function schema<I, O>(
  check: (value: unknown) => O | readonly SchemaIssue[],
  { later = false } = {},
): StandardSchema<I, O> & { seen: number } {
  const made = {
    seen: 0,
    '~standard': {
      version: 1 as const,
      vendor: 'test',
      validate: (value: unknown) => {
        made.seen++
        const given = check(value)
        const result = Array.isArray(given) ? { issues: given as SchemaIssue[] } : { value: given as O }
        return later ? Promise.resolve(result) : result
      },
    },
  }
  return made
}

interface Order {
  at: string
  count: number
}

/** Takes a date as text, gives it as a date: to see which side transforms, and that it does so once. */
function orderSchema(later: boolean) {
  return schema<Order, { at: Date; count: number }>(
    (value) => {
      const { at, count } = (value ?? {}) as Order
      if (typeof at !== 'string') return [{ message: 'must be text', path: ['at'] }]
      if (!Number.isInteger(count)) return [{ message: 'must be whole', path: [{ key: 'count' }] }]
      return { at: new Date(at), count }
    },
    { later },
  )
}

const pair = useServedPair()

function serve<A, B, C, D>(protocol: Protocol<A, B, C, D>, handler: ProtocolHandler<B, C>): void {
  pair.onStream = (stream) => protocol.serve(stream, protocol.handler(handler), { from })
}

describe.each([false, true])('a protocol with schemas that answer later: %s', (later) => {
  const given = orderSchema(later)
  const told = schema<string, string>((value) => (typeof value === 'string' ? value : [{ message: 'must be text' }]), {
    later,
  })
  const protocol = defineProtocol({ name: '/order/1', request: given, response: told, maxRequestBytes: 100 })
  const good: Order = { at: '2026-01-02T00:00:00.000Z', count: 2 }

  it('gives the handler what its schema makes, and the asker an answer of its type', async () => {
    serve(protocol, ({ at, count }) => {
      expectTypeOf(at).toEqualTypeOf<Date>()
      return `${at.getUTCFullYear()} ${count}`
    })
    const answer = await protocol.request(pair.a, good)
    expectTypeOf(answer).toEqualTypeOf<string>()
    expect(answer).toBe('2026 2')
  })

  it('sends nothing that is not valid, and says what is not', async () => {
    pair.onStream = vi.fn()
    await expect(protocol.request(pair.a, { at: 'x', count: 1.5 })).rejects.toMatchObject({
      code: 'ERR_PEERLINE_INVALID',
      message: '/order/1: the request is not valid: count: must be whole',
      executed: 'no',
      cause: { issues: [{ message: 'must be whole' }] },
    })
    await expect(protocol.send(pair.a, {} as Order)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_INVALID',
      executed: 'no',
    })
    const long = { at: 'x'.repeat(100), count: 1 }
    await expect(protocol.request(pair.a, long)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_TOO_LARGE',
      executed: 'no',
    })
    expect(pair.onStream).not.toHaveBeenCalled()
  })

  it('tells an asker that its request is not valid, and the handler nothing', async () => {
    const handler = vi.fn(() => 'never')
    serve(protocol, handler)
    for (const body of ['{"at":7}', '[', '{"__proto__":1}', '']) {
      await expect(request(pair.a, '/order/1', new TextEncoder().encode(body))).rejects.toMatchObject({
        code: 'ERR_PEERLINE_INVALID',
        executed: 'no',
      })
    }
    expect(handler).not.toHaveBeenCalled()
  })

  it('looks at nothing that is too large', async () => {
    serve(protocol, () => 'never')
    const before = given.seen
    await expect(request(pair.a, '/order/1', new Uint8Array(101).fill(0x20))).rejects.toMatchObject({
      code: 'ERR_PEERLINE_TOO_LARGE',
      executed: 'no',
    })
    expect(given.seen).toBe(before)
    await expect(protocol.decodeRequest(new Uint8Array(101))).rejects.toMatchObject({ code: 'ERR_PEERLINE_TOO_LARGE' })
    expect(given.seen).toBe(before)
  })

  it('takes an answer that is not valid for a failure, at either side', async () => {
    serve(protocol, () => 7 as unknown as string)
    await expect(protocol.request(pair.a, good)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_REMOTE',
      message: 'the handler failed',
      executed: 'yes',
    })
    const loose = defineProtocol<unknown>({ name: '/order/1' })
    serve(loose, () => 7)
    await expect(protocol.request(pair.a, good)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_PROTOCOL',
      executed: 'yes',
    })
  })

  it('passes keys, one-way messages, and what a handler throws', async () => {
    const got: unknown[] = []
    serve(protocol, (value) => {
      got.push(value)
      return 'x'
    })
    await protocol.send(pair.a, good)
    await vi.waitFor(() => expect(got).toEqual([{ at: new Date(good.at), count: 2 }]))
    await expect(protocol.request(pair.a, good, { key: 'k' })).rejects.toMatchObject({
      code: 'ERR_PEERLINE_NO_PROTOCOL',
    })
    serve(protocol, () => {
      throw new PeerlineError('ERR_PEERLINE_LIMIT', 'sold out')
    })
    await expect(protocol.request(pair.a, good)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_LIMIT',
      message: 'sold out',
      executed: 'yes',
    })
  })
})

describe('a protocol', () => {
  it('of bytes, or with a codec of its own', async () => {
    const bytes = defineProtocol({ name: '/raw/1', encoding: 'bytes', maxResponseBytes: 10 })
    serve(bytes, (body) => body)
    expect(await bytes.request(pair.a, new Uint8Array([1, 2]))).toEqual(new Uint8Array([1, 2]))
    await expect(bytes.request(pair.a, 'x' as unknown as Uint8Array)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_INVALID',
      executed: 'no',
    })
    await expect(bytes.request(pair.a, new Uint8Array(11))).rejects.toMatchObject({
      code: 'ERR_PEERLINE_TOO_LARGE',
      executed: 'yes',
    })
    const codec = defineProtocol<string>({
      name: '/text/1',
      encoding: { encode: (value) => Buffer.from(String(value)), decode: (body) => Buffer.from(body).toString() },
    })
    serve(codec, (text) => `${text}!`)
    expect(await codec.request(pair.a, 'hi')).toBe('hi!')
  })

  it('without values says nothing with no bytes', async () => {
    const tick = defineProtocol<undefined, undefined, undefined, undefined>({ name: '/tick/1' })
    serve(tick, () => undefined)
    expect(await tick.request(pair.a, undefined)).toBeUndefined()
    const odd = defineProtocol({ name: '/tick/1' })
    for (const value of [1n, () => 0, { toJSON: () => undefined }]) {
      await expect(odd.request(pair.a, value)).rejects.toMatchObject({ code: 'ERR_PEERLINE_INVALID', executed: 'no' })
    }
  })

  it('whose schema never answers, or throws, fails in time and by its signal', async () => {
    const never = (): StandardSchema => ({
      '~standard': { version: 1, vendor: 'test', validate: () => new Promise(() => {}) },
    })
    const slow = defineProtocol({ name: '/slow/1', request: never(), timeoutMs: 30 })
    await expect(slow.request(pair.a, 1)).rejects.toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT', executed: 'no' })
    const controller = new AbortController()
    const asked = slow.request(pair.a, 1, { signal: controller.signal, timeoutMs: 60_000 })
    controller.abort()
    await expect(asked).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED', executed: 'no' })
    const broken = schema(() => {
      throw new Error('password 123')
    })
    await expect(defineProtocol({ name: '/b/1', request: broken }).request(pair.a, 1)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_INVALID',
      message: '/b/1: the request is not valid: its schema failed',
    })
    serve(slow, () => 1)
    await expect(request(pair.a, '/slow/1', new Uint8Array([0x31]))).rejects.toMatchObject({
      code: 'ERR_PEERLINE_TIMEOUT',
    })
  })

  it('that is none is refused when it is defined', () => {
    for (const options of [
      { name: '' },
      { name: '/a/1;once/1' },
      { name: '/a/1', maxRequestBytes: -1 },
      { name: '/a/1', maxResponseBytes: 1.5 },
      { name: '/a/1', timeoutMs: 0 },
      { name: '/a/1', encoding: 'xml' as 'json' },
      { name: '/a/1', request: {} as StandardSchema },
      { name: '/a/1', response: { '~standard': { version: 2 } } as unknown as StandardSchema },
    ]) {
      expect(() => defineProtocol(options)).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
    }
    expect(defineProtocol({ name: '/a/1' })).toMatchObject({ replaySafe: false, timeoutMs: 10_000 })
  })

  it('refused by the other side is as for any request', async () => {
    pair.onStream = (stream) => stream.reset(StreamCode.DENIED)
    const protocol = defineProtocol({ name: '/a/1' })
    await expect(protocol.request(pair.a, 1)).rejects.toMatchObject({ code: 'ERR_PEERLINE_DENIED', executed: 'no' })
  })
})
