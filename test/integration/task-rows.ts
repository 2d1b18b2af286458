/**
 * Every kind of task, done by one peer about another, and what is to be seen of it then: rows for tasks of a peer's own, and
 * for those of an authority.
 */
import { createHash } from 'node:crypto'
import { expect } from 'vitest'
import { type KnownTask, type Peer, type PeerOptions, PING_PROTOCOL, VERIFY_PROTOCOL } from '../../src/index.ts'
import { outcomeOf } from './policy-rows.ts'
import { once, startPeer } from './world.ts'

export const text = (bytes: unknown): string => Buffer.from(bytes as Uint8Array).toString()
export const bytes = (said: string): Uint8Array => new TextEncoder().encode(said)

/** A result without the difference between kinds of bytes. */
export function plain(value: unknown): unknown {
  return value instanceof Uint8Array ? new Uint8Array(value) : value
}

const KNOWN_HASH = new Uint8Array(createHash('sha256').update('known').digest())
const OTHER_HASH = new Uint8Array(createHash('sha256').update('other').digest())

/** Who does the tasks, and whom they are about. */
export interface Company {
  readonly doer: Peer
  readonly other: Peer
  /** Settings that were brought to the doer. */
  readonly settings: unknown[]
  /** Messages that the other was sent. */
  readonly notes: string[]
}

/** The doer lets nobody in but by rules that tasks make; the other lets everybody in. They have a session. */
export async function startCompany(options: PeerOptions = {}): Promise<Company> {
  const settings: unknown[] = []
  const notes: string[] = []
  const onSettings = (some: unknown) => {
    settings.push(some)
  }
  const doer = await startPeer({ firewall: { rules: [] }, onSettings, ...options })
  const other = await startPeer()
  doer.handle('/echo/1', (body) => body)
  other.handle('/echo/1', (body) => bytes(`${text(body)}, and back`))
  other.handle(VERIFY_PROTOCOL, (hash) => new Uint8Array([Buffer.compare(hash, KNOWN_HASH) === 0 ? 1 : 0]))
  other.handle('/note/1', (body) => {
    notes.push(text(body))
    return new Uint8Array(0)
  })
  doer.known.learn(other.id, other.addresses, 'told')
  await doer.connect(other.id)
  return { doer, other, settings, notes }
}

export interface TaskRow {
  readonly name: string
  readonly task: (company: Company) => KnownTask
  /** What comes of it; nothing without. */
  readonly value?: unknown
  /** What is to be seen then. */
  readonly look?: (company: Company) => unknown
}

/** The other asks the doer for an echo: what it may, it may by a task. */
const asks = ({ doer, other }: Company) => outcomeOf(other.request(doer.id, '/echo/1', bytes('hello')))

const ends = ({ other }: Company) => once(other, 'sessionEnd')

/** One after the other: each leaves a company in which the next can be done. */
export const TASK_ROWS: readonly TaskRow[] = [
  { name: 'ping', task: ({ other }) => ({ kind: 'ping', peer: other.id }), value: expect.any(Number) },
  {
    name: 'send',
    task: ({ other }) => ({ kind: 'send', peer: other.id, protocol: '/note/1', body: bytes('sent') }),
    // The session has it, and brings it before what is asked next.
    look: async ({ doer, other, notes }) => {
      await doer.request(other.id, '/echo/1', bytes('x'))
      expect(notes).toEqual(['sent'])
    },
  },
  {
    name: 'send-data',
    task: ({ other }) => ({ kind: 'send-data', peer: other.id, protocol: '/note/1', body: bytes('data') }),
    look: ({ notes }) => expect(notes).toEqual(['sent', 'data']),
  },
  {
    name: 'request-data',
    task: ({ other }) => ({ kind: 'request-data', peer: other.id, protocol: '/echo/1', body: bytes('out') }),
    value: bytes('out, and back'),
  },
  {
    name: 'synchronise',
    task: ({ other }) => ({ kind: 'synchronise', peer: other.id, protocol: '/echo/1', have: bytes('1 to 5') }),
    value: bytes('1 to 5, and back'),
  },
  {
    name: 'verify a signature',
    task: ({ other }) => {
      const message = bytes('I was here')
      return { kind: 'verify', peer: other.id, message, signature: other.identity.sign(message) }
    },
    value: true,
  },
  {
    name: 'verify a signature that is of another',
    task: ({ doer, other }) => {
      const message = bytes('I was here')
      return { kind: 'verify', peer: other.id, message, signature: doer.identity.sign(message) }
    },
    value: false,
  },
  {
    name: 'verify a hash',
    task: ({ other }) => ({ kind: 'verify', peer: other.id, hash: KNOWN_HASH }),
    value: true,
  },
  {
    name: 'verify a hash that nobody knows',
    task: ({ other }) => ({ kind: 'verify', peer: other.id, hash: OTHER_HASH }),
    value: false,
    look: async (company) => expect(await asks(company)).toBe('ERR_PEERLINE_DENIED'),
  },
  {
    name: 'authorise for one protocol',
    task: ({ other }) => ({ kind: 'authorise', peer: other.id, protocol: '/echo/1' }),
    look: async (company) => {
      const { doer, other } = company
      expect(await asks(company)).toBe('answered')
      expect(await outcomeOf(other.request(doer.id, PING_PROTOCOL, bytes('x')))).toBe('ERR_PEERLINE_DENIED')
    },
  },
  {
    name: 'revoke for one protocol',
    task: ({ other }) => ({ kind: 'revoke', peer: other.id, protocol: '/echo/1' }),
    look: async (company) => expect(await asks(company)).toBe('ERR_PEERLINE_DENIED'),
  },
  {
    name: 'authorise for a time',
    task: ({ other }) => ({ kind: 'authorise', peer: other.id, until: Date.now() + 3_600_000 }),
    look: async (company) => {
      expect(await asks(company)).toBe('answered')
      const [rule] = company.doer.firewall.list().filter(({ subject }) => subject === company.other.id)
      expect(rule?.expiresAt).toBeGreaterThan(Date.now())
    },
  },
  {
    name: 'revoke',
    task: ({ other }) => ({ kind: 'revoke', peer: other.id }),
    look: async (company) => {
      expect(await asks(company)).toBe('ERR_PEERLINE_DENIED')
      expect(company.doer.firewall.list().filter(({ subject }) => subject === company.other.id)).toEqual([])
    },
  },
  {
    name: 'update-settings',
    task: () => ({ kind: 'update-settings', settings: { colour: 'red', size: 3, spare: null } }),
    look: ({ settings }) => expect(settings).toEqual([{ colour: 'red', size: 3, spare: null }]),
  },
  {
    name: 'assign-identifier to another',
    task: ({ other }) => ({ kind: 'assign-identifier', peer: other.id, identifier: 'the other' }),
    look: ({ doer, other }) => expect(doer.known.get(other.id)?.name).toBe('the other'),
  },
  {
    name: 'assign-identifier',
    task: ({ doer }) => ({ kind: 'assign-identifier', peer: doer.id, identifier: 'the doer' }),
    look: ({ doer }) => expect(doer.identifier.name).toBe('the doer'),
  },
  {
    name: 'disconnect',
    task: ({ other }) => ({ kind: 'disconnect', peer: other.id }),
    look: async ({ doer, other }) => {
      expect(doer.sessions.filter(({ peer }) => peer === other.id)).toEqual([])
      await doer.connect(other.id)
    },
  },
  {
    name: 'block',
    task: ({ other }) => ({ kind: 'block', peer: other.id, why: 'too loud' }),
    look: async (company) => {
      const { doer, other } = company
      const [session] = other.sessions.filter(({ peer }) => peer === doer.id)
      if (session !== undefined) await ends(company)
      const [there, back] = [other.connect(doer.id, { addresses: doer.addresses }), doer.connect(other.id)]
      expect(await Promise.all([outcomeOf(there), outcomeOf(back)])).toEqual(Array(2).fill('ERR_PEERLINE_DENIED'))
      expect(doer.bans.list()).toMatchObject([{ target: other.id, why: 'too loud' }])
    },
  },
  {
    name: 'unblock',
    task: ({ other }) => ({ kind: 'unblock', peer: other.id }),
    value: true,
    look: ({ doer, other }) => doer.connect(other.id),
  },
  {
    name: 'block addresses',
    task: () => ({ kind: 'block', addresses: '192.0.2.0/24', until: Date.now() + 3_600_000 }),
    look: ({ doer }) => expect(doer.bans.isBannedAddress('192.0.2.7')).toBe(true),
  },
  {
    name: 'unblock addresses',
    task: () => ({ kind: 'unblock', addresses: '192.0.2.0/24' }),
    value: true,
    look: ({ doer }) => expect(doer.bans.isBannedAddress('192.0.2.7')).toBe(false),
  },
]
