import { getEventListeners } from 'node:events'
import { PassThrough } from 'node:stream'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { inLines, type PastedKind, readPasted, writePasted } from '../bytes/pasted-text.ts'
import { PasteReader } from './paste-reader.ts'

const BODY = Uint8Array.from({ length: 200 }, (_, at) => at)
const OFFER = inLines(writePasted('offer', BODY))
const ANSWER = inLines(writePasted('answer', BODY))
const fails = (code: string) => expect.objectContaining({ code: `ERR_PEERLINE_${code}` })

const open: PasteReader[] = []
function terminal() {
  const input = new PassThrough()
  const reader = new PasteReader(input)
  open.push(reader)
  const wrong: string[] = []
  const cancel = new AbortController()
  const next = async (kind: PastedKind) => {
    const options = { signal: cancel.signal, onWrong: ({ message }: Error) => void wrong.push(message) }
    return readPasted(kind, await reader.next(kind, options), { maxBytes: 4_096 })
  }
  return { input, reader, wrong, cancel, next }
}

afterEach(() => {
  vi.useRealTimers()
  for (const reader of open.splice(0)) reader.close()
})

describe('what is pasted into a terminal', () => {
  test('is a text, in however many lines and whatever stands around it', async () => {
    const { input, next, wrong } = terminal()
    const offer = next('offer')
    input.write(`Hi, here it is:\n\n${OFFER.replaceAll('\n', '\r\n')}\r\n`)
    expect(await offer).toEqual(BODY)
    const again = next('offer')
    input.write(`${OFFER.replaceAll('\n', '')}\n`)
    expect(await again).toEqual(BODY)
    expect(wrong).toEqual(['this is no offer: one begins with "peerline-offer:"'])
  })

  test('may have come before it is asked for', async () => {
    const { input, next } = terminal()
    input.write(`${OFFER}\n${ANSWER}\n`)
    input.end()
    expect([await next('offer'), await next('answer')]).toEqual([BODY, BODY])
    for (let time = 0; time < 2; time++) await expect(next('offer')).rejects.toEqual(fails('CLOSED'))
  })

  test('is said to be wrong when no more of it comes, and may be pasted again', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const { input, next, wrong } = terminal()
    const answer = next('answer')
    const pasted = async (text: string) => {
      input.write(text)
      // until the lines have been read
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
    }
    await pasted(`${OFFER}\n`)
    vi.advanceTimersByTime(999)
    expect(wrong).toEqual([])
    vi.advanceTimersByTime(1)
    expect(wrong).toEqual(['this is an offer, and an answer is wanted'])
    await pasted(`${ANSWER.slice(0, -20)}\n`)
    await pasted('\n\n') // whoever is done says so
    expect(wrong).toHaveLength(2)
    expect(wrong[1]).toMatch(/^the answer is not whole/)
    await pasted(`${ANSWER.slice(-20)}\n`) // the rest of it
    expect(await answer).toEqual(BODY)
    expect([wrong.length, vi.getTimerCount()]).toEqual([2, 0])
  })

  test('is waited for no longer than until the input ends or the command does', async () => {
    const one = terminal()
    const ended = expect(one.next('offer')).rejects.toEqual(fails('CLOSED'))
    one.input.end(`${OFFER.slice(0, -1)}\n`)
    await ended
    expect(one.wrong).toHaveLength(1)
    const two = terminal()
    const stopped = expect(two.next('offer')).rejects.toEqual(fails('ABORTED'))
    two.cancel.abort()
    await stopped
    await expect(two.next('offer')).rejects.toEqual(fails('ABORTED'))
    expect(getEventListeners(two.cancel.signal, 'abort')).toEqual([])
  })

  test('of any size takes bounded room', async () => {
    const { input, next, wrong } = terminal()
    const offer = next('offer')
    for (let line = 0; line < 2_000; line++) input.write(`${line === 0 ? 'peerline-offer:' : ''}${'y'.repeat(64)}\n`)
    input.write(`\n${OFFER}\n`)
    expect(await offer).toEqual(BODY)
    expect(wrong).toHaveLength(1)
  })
})
