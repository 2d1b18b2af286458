import { expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import type { Session } from '../session/index.ts'
import type { Output } from './output.ts'
import { tellOfPaths } from './session-news.ts'

test('what becomes of a session is told to people and to machines, until nobody wants to know', () => {
  const session = Object.assign(new EventTarget(), { peer: 'abc' })
  const out = { event: vi.fn(), say: vi.fn() }
  const over = new AbortController()
  const onPath = () => ' at last'
  tellOfPaths(session as unknown as Session, out as unknown as Output, { who: 'x: ', signal: over.signal, onPath })
  const happens = (type: string, detail: object) => session.dispatchEvent(new CustomEvent(type, { detail }))
  happens('path', { from: 'relay', to: 'tcp', reason: 'better' })
  happens('reconnecting', { error: new PeerlineError('ERR_PEERLINE_TIMEOUT', 'tcp x does not answer any more') })
  happens('reconnected', { path: 'relay', afterMs: 1_250 })
  happens('reconnecting', { error: undefined })
  over.abort()
  happens('reconnected', { path: 'relay', afterMs: 1 })
  expect(out.event.mock.calls.flat()).toEqual([
    { event: 'path', peer: 'abc', from: 'relay', to: 'tcp', reason: 'better' },
    { event: 'reconnecting', peer: 'abc', reason: 'ERR_PEERLINE_TIMEOUT' },
    { event: 'reconnected', peer: 'abc', path: 'relay', afterMs: 1_250 },
    { event: 'reconnecting', peer: 'abc', reason: null },
  ])
  expect(out.say.mock.calls.flat()).toEqual([
    'x: path: relay to tcp (better) at last',
    'x: reconnecting: tcp x does not answer any more',
    'x: reconnected by relay after 1.3 s',
    'x: reconnecting',
  ])
})
