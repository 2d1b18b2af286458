import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { encodeCbor } from '../bytes/index.ts'
import { isPeerlineError } from '../errors.ts'
import { Identity, publicKeyOf } from '../identity/index.ts'
import { checkTask, decodeTask, encodeTask, type KnownTask, MAX_TASK_BYTES, type Task, type TaskKind } from './task.ts'

const [PEER, OTHER] = [1, 2].map((byte) => Identity.fromSeed(new Uint8Array(32).fill(byte)).peerId) as [never, never]
const KEY = publicKeyOf(PEER)
const INVALID = expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' })
const PROTOCOL = expect.objectContaining({ code: 'ERR_PEERLINE_PROTOCOL' })
const TOO_LARGE = expect.objectContaining({ code: 'ERR_PEERLINE_TOO_LARGE' })

const line = (maxLength: number) =>
  fc
    .string({ minLength: 1, maxLength, unit: 'grapheme' })
    .filter((text) => text.length <= maxLength && !/\p{Cc}/u.test(text))
const peer = fc.constantFrom(PEER, OTHER)
const protocol = line(128)
const body = fc.uint8Array({ maxLength: 300 })
const until = fc.integer({ min: 1, max: 8.64e15 })
const addresses = fc.constantFrom('192.0.2.0/24', '192.0.2.7', '2001:db8::/32')
const exchange = { peer, protocol, body }
const optional = { requiredKeys: ['kind', 'peer'] as ['kind', 'peer'] }
const setting = fc.oneof(fc.constant(null), fc.boolean(), fc.maxSafeInteger(), line(40))
const name = fc.stringMatching(/^[A-Za-z][A-Za-z0-9._-]{0,20}$/)
const kind = <K extends TaskKind>(of: K) => fc.constant(of)

/** Tasks of each kind. */
const TASKS: Record<TaskKind, fc.Arbitrary<KnownTask>> = {
  block: fc.oneof(
    fc.record({ kind: kind('block'), peer, until, why: line(200) }, optional),
    fc.record({ kind: kind('block'), addresses, until }, { requiredKeys: ['kind', 'addresses'] }),
  ),
  unblock: fc.oneof(fc.record({ kind: kind('unblock'), peer }), fc.record({ kind: kind('unblock'), addresses })),
  authorise: fc.record({ kind: kind('authorise'), peer, protocol, until }, optional),
  revoke: fc.record({ kind: kind('revoke'), peer, protocol }, optional),
  disconnect: fc.record({ kind: kind('disconnect'), peer }),
  ping: fc.record({ kind: kind('ping'), peer }),
  send: fc.record({ kind: kind('send'), ...exchange }),
  'send-data': fc.record({ kind: kind('send-data'), ...exchange }),
  'request-data': fc.record({ kind: kind('request-data'), ...exchange }),
  synchronise: fc.record({ kind: kind('synchronise'), peer, protocol, have: body }),
  'update-settings': fc
    .dictionary(name, setting, { maxKeys: 8 })
    .map((settings) => ({ kind: 'update-settings' as const, settings: { ...settings } })),
  verify: fc.oneof(
    fc.record({
      kind: kind('verify'),
      peer,
      message: body,
      signature: fc.uint8Array({ minLength: 64, maxLength: 64 }),
    }),
    fc.record({ kind: kind('verify'), peer, hash: fc.uint8Array({ minLength: 32, maxLength: 64 }) }),
  ),
  'assign-identifier': fc.record({ kind: kind('assign-identifier'), peer, identifier: line(64) }),
}

const KINDS = Object.keys(TASKS) as TaskKind[]

/** What a task becomes of a wire that says this. */
const overWire = (wire: unknown): Task => decodeTask(encodeCbor(wire))

describe('a task', () => {
  test.each(KINDS)('%s comes back as it was, and is the same once checked', (of) => {
    fc.assert(
      fc.property(TASKS[of], (task) => {
        expect(decodeTask(encodeTask(task))).toEqual(task)
        expect(checkTask(task)).toEqual(task)
        expect(encodeTask(decodeTask(encodeTask(task)) as KnownTask)).toEqual(encodeTask(task))
      }),
    )
  })

  test('has one form, in whatever order its settings were set', () => {
    const [a, b] = [
      { 'b.b': 1, a: null },
      { a: null, 'b.b': 1 },
    ].map((settings) => encodeTask({ kind: 'update-settings', settings }))
    expect(a).toEqual(b)
  })

  test('of a kind that is not known is reported by its name', () => {
    for (const name of ['self-destruct', 'unknown', 'constructor', 'toString', '__proto__', 'Ping']) {
      const unknown = { kind: 'unknown', name }
      expect(overWire({ kind: name, peer: 7, body: 'whatever' })).toEqual(unknown)
      expect(checkTask({ kind: name, name } as never)).toEqual(unknown)
      expect(checkTask({ kind: 'unknown', name })).toEqual(unknown)
      expect(() => encodeTask({ kind: name, name } as never)).toThrow(INVALID)
    }
  })

  test('with a field more is read by one that does not know it', () => {
    expect(overWire({ kind: 'ping', peer: KEY, urgency: 3 })).toEqual({ kind: 'ping', peer: PEER })
  })

  test('has memory of its own', () => {
    const wire = encodeTask({ kind: 'send', peer: PEER, protocol: '/a/1', body: Uint8Array.of(7) })
    const settings = { a: 1 }
    const said = { kind: 'send' as const, peer: PEER, protocol: '/a/1', body: Uint8Array.of(7) }
    const tasks = [decodeTask(wire), checkTask(said)]
    const set = checkTask({ kind: 'update-settings', settings })
    wire.fill(0)
    said.body.fill(0)
    settings.a = 2
    for (const task of tasks) expect(task).toMatchObject({ body: Uint8Array.of(7) })
    expect(set).toEqual({ kind: 'update-settings', settings: { a: 1 } })
    expect([...tasks, set, (set as { settings: object }).settings].every(Object.isFrozen)).toBe(true)
  })

  test('has at most 64 KiB in all', () => {
    const task = (bytes: number) =>
      ({ kind: 'send', peer: PEER, protocol: '/a/1', body: new Uint8Array(bytes) }) as const
    const rest = encodeTask(task(60_000)).length - 60_000
    const most = encodeTask(task(MAX_TASK_BYTES - rest))
    expect(most.length).toBe(MAX_TASK_BYTES)
    expect(decodeTask(most)).toEqual(task(MAX_TASK_BYTES - rest))
    expect(() => encodeTask(task(MAX_TASK_BYTES - rest + 1))).toThrow(TOO_LARGE)
    expect(() => encodeTask(task(MAX_TASK_BYTES + 1))).toThrow(INVALID)
    expect(() => checkTask(task(MAX_TASK_BYTES + 1))).toThrow(INVALID)
    expect(() => decodeTask(new Uint8Array(MAX_TASK_BYTES + 1))).toThrow(TOO_LARGE)
  })

  const exchanged = { kind: 'send', peer: KEY, protocol: '/a/1', body: new Uint8Array(1) }
  const settings = (...all: unknown[]) => ({ kind: 'update-settings', settings: all })
  const many = (count: number) =>
    settings(...Array.from({ length: count }, (_, at) => [`s${String(at).padStart(3, '0')}`, at]))
  test.each<[string, unknown]>([
    ['no map', [1]],
    ['no kind', { peer: KEY }],
    ['a kind of no length', { kind: '' }],
    ['a kind of 65 characters', { kind: 'x'.repeat(65) }],
    ['a kind that rings the bell', { kind: 'ping\x07' }],
    ['a kind that is a number', { kind: 1 }],
    ['no peer', { kind: 'ping' }],
    ['a peer of 31 bytes', { kind: 'ping', peer: KEY.subarray(1) }],
    ['a peer that is no point', { kind: 'ping', peer: new Uint8Array(32).fill(2) }],
    ['a peer of small order', { kind: 'ping', peer: Uint8Array.of(1, ...new Uint8Array(31)) }],
    ['a peer as text', { kind: 'ping', peer: PEER }],
    ['a protocol of no length', { ...exchanged, protocol: '' }],
    ['a protocol of 129 characters', { ...exchanged, protocol: 'x'.repeat(129) }],
    ['a protocol over two lines', { ...exchanged, protocol: '/a\n/1' }],
    ['a body of text', { ...exchanged, body: 'hello' }],
    ['no body', { kind: 'send', peer: KEY, protocol: '/a/1' }],
    ['a time that no Date can hold', { kind: 'authorise', peer: KEY, until: 8.64e15 + 1 }],
    ['a time of 0', { kind: 'block', peer: KEY, until: 0 }],
    ['both a peer and addresses', { kind: 'block', peer: KEY, addresses: '192.0.2.7' }],
    ['neither peer nor addresses', { kind: 'unblock' }],
    ['addresses that are a name', { kind: 'block', addresses: 'example.org' }],
    ['a reason of 201 characters', { kind: 'block', peer: KEY, why: 'x'.repeat(201) }],
    ['a hash and a signature', { kind: 'verify', peer: KEY, hash: KEY, signature: new Uint8Array(64) }],
    ['a hash and a message', { kind: 'verify', peer: KEY, hash: KEY, message: KEY }],
    ['a signature without its message', { kind: 'verify', peer: KEY, signature: new Uint8Array(64) }],
    ['a signature of 63 bytes', { kind: 'verify', peer: KEY, message: KEY, signature: new Uint8Array(63) }],
    ['a hash of 31 bytes', { kind: 'verify', peer: KEY, hash: new Uint8Array(31) }],
    ['a hash of 65 bytes', { kind: 'verify', peer: KEY, hash: new Uint8Array(65) }],
    ['an identifier of 65 characters', { kind: 'assign-identifier', peer: KEY, identifier: 'x'.repeat(65) }],
    ['an identifier of no length', { kind: 'assign-identifier', peer: KEY, identifier: '' }],
    ['settings that are a map', { kind: 'update-settings', settings: { a: 1 } }],
    ['65 settings', many(65)],
    ['a setting without a value', settings(['a'])],
    ['a setting with two', settings(['a', 1, 2])],
    ['a setting without a name', settings([1, 1])],
    ['a setting called __proto__', settings(['__proto__', 1])],
    ['a setting of 65 characters', settings(['x'.repeat(65), 1])],
    ['a setting that is a list', settings(['a', [1]])],
    ['a setting of 2,049 characters', settings(['a', 'x'.repeat(2_049)])],
    ['a setting twice', settings(['a', 1], ['a', 2])],
    ['settings out of order', settings(['b', 1], ['a', 2])],
  ])('with %s is refused', (_what, wire) => {
    expect(() => overWire(wire)).toThrow(PROTOCOL)
  })

  test('is read at its limits', () => {
    for (const wire of [
      { kind: 'x'.repeat(64) },
      { ...exchanged, protocol: 'x'.repeat(128), body: new Uint8Array(0) },
      { kind: 'block', addresses: '2001:db8::/32', until: 8.64e15, why: 'x'.repeat(200) },
      { kind: 'assign-identifier', peer: KEY, identifier: 'x'.repeat(64) },
      many(64),
      settings(['x'.repeat(64), 'x'.repeat(2_048)]),
      settings(),
    ]) {
      overWire(wire)
    }
  })

  test.each([
    undefined,
    null,
    7,
    'ping',
    {},
    { kind: 'ping' },
    { kind: 'ping', peer: 'me' },
    { kind: 'update-settings', settings: { a: 1.5 } },
    { kind: 'unknown' },
    { kind: 'unknown', name: 'a\nb' },
  ])('that a program made wrong is its fault: %j', (task) => {
    expect(() => checkTask(task as never)).toThrow(INVALID)
    expect(() => encodeTask(task as never)).toThrow(INVALID)
  })

  test('whatever bytes come is read, or refused with one of two errors', () => {
    const read = (bytes: Uint8Array) => {
      let task: Task
      try {
        task = decodeTask(bytes)
      } catch (error) {
        if (!isPeerlineError(error)) throw error
        expect(error.code).toMatch(/^ERR_PEERLINE_(PROTOCOL|TOO_LARGE)$/)
        return
      }
      expect(Object.isFrozen(task)).toBe(true)
      if (task.kind !== 'unknown') expect(decodeTask(encodeTask(task))).toEqual(task)
      else expect(KINDS).not.toContain(task.name)
    }
    const whole = fc.oneof(...Object.values(TASKS)).map(encodeTask)
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), read), { numRuns: 2_000 })
    const broken = fc.tuple(whole, fc.nat(), fc.nat({ max: 255 })).map(([bytes, at, byte]) => {
      bytes[at % bytes.length] = byte
      return bytes
    })
    fc.assert(fc.property(broken, read), { numRuns: 5_000 })
    fc.assert(fc.property(fc.tuple(whole, fc.nat()), ([bytes, at]) => read(bytes.subarray(0, at % bytes.length))))
    const value = fc.oneof(
      fc.constant(KEY),
      body,
      line(30),
      fc.maxSafeInteger(),
      fc.constant(null),
      fc.array(fc.array(fc.nat())),
    )
    const fieldNames = [
      'peer',
      'protocol',
      'body',
      'until',
      'why',
      'addresses',
      'settings',
      'hash',
      'have',
      'identifier',
    ]
    const shuffled = fc
      .tuple(fc.constantFrom(...KINDS, 'other'), fc.dictionary(fc.constantFrom(...fieldNames), value))
      .map(([kind, rest]) => encodeCbor({ ...rest, kind }))
    fc.assert(fc.property(shuffled, read), { numRuns: 2_000 })
  })
})
