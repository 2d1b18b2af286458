/**
 * Two sessions for all tests of a file. After each test both are open and have no streams; after the last it shows that no
 * rejection was left unhandled.
 */
import { afterAll, afterEach, beforeAll, expect, vi } from 'vitest'
import type { Session, Stream } from '../session/index.ts'
import { type SessionPair, sessionPair } from '../session/session-pair.compliance.ts'

export interface ServedPair {
  /** The side that asks. */
  readonly a: Session
  readonly b: Session
  /** What `b` does with streams of `a`. */
  onStream: (stream: Stream) => void
}

export function useServedPair(): ServedPair {
  const unhandled = vi.fn()
  let pair: SessionPair
  const served: ServedPair = {
    get a() {
      return pair.a
    },
    get b() {
      return pair.b
    },
    onStream: () => {},
  }
  beforeAll(async () => {
    process.on('unhandledRejection', unhandled)
    pair = await sessionPair({ onStreamB: (stream) => served.onStream(stream) })
  })
  afterEach(async () => {
    expect([pair.a.state, pair.b.state]).toEqual(['open', 'open'])
    await vi.waitFor(() => expect([pair.a.streams, pair.b.streams]).toEqual([0, 0]))
  })
  afterAll(async () => {
    await pair.close()
    process.off('unhandledRejection', unhandled)
    expect(unhandled).not.toHaveBeenCalled()
  })
  return served
}
