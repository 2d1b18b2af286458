import { afterEach, describe, expect, test, vi } from 'vitest'
import { FramedPath } from '../path/index.ts'
import { MemoryPipe, settled } from '../server/memory-pipe.compliance.ts'
import { FIRST_MESSAGE_MS, firstMessage } from './first-message.ts'

const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })
const framed = (text: string) => Buffer.concat([Uint8Array.of(0, 0, 0, text.length), Buffer.from(text)])
const BOTH = Buffer.concat([framed('first'), framed('second'), framed('third')])

afterEach(() => {
  vi.useRealTimers()
})

/** Takes what comes on a path from now on. */
function rest(path: FramedPath): string[] {
  const got: string[] = []
  path.start({ message: (message) => got.push(Buffer.from(message).toString()), drain: () => {}, close: () => {} })
  path.resume()
  return got
}

describe('the first message of a path', () => {
  test('leaves what stands behind it to the next owner, wherever the bytes were cut, and whoever had read some', async () => {
    for (let read = 0; read <= BOTH.length; read++) {
      for (const cut of [read, read + 1, read + 5, BOTH.length]) {
        const [near, far] = MemoryPipe.pair()
        const path = new FramedPath('tcp', near, BOTH.subarray(0, read))
        for (const part of [BOTH.subarray(read, cut), BOTH.subarray(cut)]) if (part.length > 0) far.write([part])
        expect(Buffer.from(await firstMessage(path)).toString()).toBe('first')
        await settled()
        const got = rest(path)
        await settled()
        expect([read, cut, got]).toEqual([read, cut, ['second', 'third']])
        path.destroy()
      }
    }
  })

  test('may be followed by another first one', async () => {
    const [near] = MemoryPipe.pair()
    const path = new FramedPath('tcp', near, BOTH)
    for (const text of ['first', 'second', 'third']) expect(Buffer.from(await firstMessage(path)).toString()).toBe(text)
  })

  test('that does not come in time ends the path', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const [near, far] = MemoryPipe.pair()
    const failed = expect(firstMessage(new FramedPath('tcp', near))).rejects.toEqual(code('ERR_PEERLINE_TIMEOUT'))
    // A byte now and then does not help.
    for (let part = 0; part < 10; part++) {
      far.write([BOTH.subarray(part, part + 1).fill(0, 0, part < 3 ? 1 : 0)])
      vi.advanceTimersByTime(FIRST_MESSAGE_MS / 20)
    }
    vi.advanceTimersByTime(FIRST_MESSAGE_MS / 2)
    await failed
    expect(near.ended).toBe(true)
    expect(vi.getTimerCount()).toBe(0)
  })

  test('of a path that ends, or is given up, is a typed error', async () => {
    const [near, far] = MemoryPipe.pair()
    const ended = firstMessage(new FramedPath('tcp', near))
    far.end()
    await expect(ended).rejects.toEqual(code('ERR_PEERLINE_UNREACHABLE'))
    const [other] = MemoryPipe.pair()
    const cancel = new AbortController()
    const cancelled = firstMessage(new FramedPath('tcp', other), { signal: cancel.signal })
    cancel.abort()
    await expect(cancelled).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
    expect(other.ended).toBe(true)
  })

  test('above the limit for strangers is refused at its announcement', async () => {
    const [near, far] = MemoryPipe.pair()
    const path = new FramedPath('tcp', near)
    far.write([Uint8Array.of(0, 0, 0x44, 1)])
    await expect(firstMessage(path)).rejects.toEqual(code('ERR_PEERLINE_TOO_LARGE'))
  })
})
