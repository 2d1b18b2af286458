import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import type { SessionKeys } from '../handshake/index.ts'
import { Identity } from '../identity/index.ts'
import type { Session } from '../session/index.ts'
import { Bonds } from './bonds.ts'

const SOMEBODY = Identity.generate().peerId

class Ended extends EventTarget {
  readonly peer = SOMEBODY
  readonly id: string

  constructor(id: string) {
    super()
    this.id = id
  }

  end(error?: PeerlineError): void {
    this.dispatchEvent(new CustomEvent('close', { detail: { error } }))
  }
}

function add(bonds: Bonds, id: string): Ended {
  const session = new Ended(id)
  const keys = {} as SessionKeys
  bonds.add(
    {
      session: session as unknown as Session,
      keys,
      ways: new Set(),
      relays: undefined,
      joins: true,
      addresses: [],
      signaled: [],
      hidden: false,
      upgrade: undefined,
    },
    true,
  )
  return session
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance'] })
})
afterEach(() => {
  vi.useRealTimers()
})

test('how a session ended is known for a while, and no longer', () => {
  const bonds = new Bonds()
  const [first, second] = [add(bonds, 'a'), add(bonds, 'b')]
  expect([bonds.size, bonds.of(SOMEBODY).length, bonds.ending('a')]).toEqual([2, 2, undefined])
  first.end()
  second.end(new PeerlineError('ERR_PEERLINE_PATH_LOST', 'gone'))
  expect([bonds.size, bonds.of(SOMEBODY).length, bonds.filed.length]).toEqual([0, 0, 0])
  expect(bonds.ending('a')).toMatchObject({ peer: SOMEBODY, code: 'ERR_PEERLINE_CLOSED' })
  vi.advanceTimersByTime(89_000)
  expect(bonds.ending('b')).toMatchObject({ code: 'ERR_PEERLINE_PATH_LOST', message: 'gone' })
  vi.advanceTimersByTime(1_000)
  expect([bonds.ending('a'), bonds.ending('b')]).toEqual([undefined, undefined])
})

test('no more than 4,096 of them are kept, the latest', () => {
  const bonds = new Bonds()
  for (let at = 0; at < 5_000; at++) add(bonds, `${at}`).end()
  const kept = Array.from({ length: 5_000 }, (_, at) => bonds.ending(`${at}`) !== undefined)
  expect(kept.indexOf(true)).toBe(5_000 - 4_096)
  expect(kept.lastIndexOf(false)).toBe(5_000 - 4_097)
})
