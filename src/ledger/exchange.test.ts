import { afterEach, describe, expect, test } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { MessageStream, type Stream, StreamCode } from '../session/index.ts'
import { type SessionPair, sessionPair } from '../session/session-pair.compliance.ts'
import { Exchange } from './exchange.ts'
import { frame } from './ledger-node.compliance.ts'

const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })

let pair: SessionPair
afterEach(async () => {
  for (const session of [pair.a, pair.b]) session.abort(new PeerlineError('ERR_PEERLINE_CLOSED', 'the test is over'))
  await pair.close()
})

/** A question, and the stream at whose other end it comes. */
async function ask(signal = new AbortController().signal): Promise<{ exchange: Exchange; node: Stream }> {
  let come: (stream: Stream) => void
  const node = new Promise<Stream>((resolve) => {
    come = resolve
  })
  pair = await sessionPair({ onStreamB: (stream) => come(stream) })
  const exchange = await Exchange.open(pair.a, '/test/1', { question: 1 }, { signal, maxBytes: 1_000 })
  return { exchange, node: await node }
}

describe('a question', () => {
  test('is asked as control messages are, and its answers are read one by one, in whatever pieces they come', async () => {
    const { exchange, node } = await ask()
    const asked = new Promise((resolve) => {
      new MessageStream(node, { maxBytes: 100, onMessage: resolve, onEnd: () => {} })
    })
    expect(await asked).toEqual({ question: 1 })
    const answers = Buffer.concat([frame({ n: 1 }), frame({ n: 2, more: new Uint8Array(900) }), frame(3)])
    for (const byte of answers.subarray(0, 30)) await node.write(Uint8Array.of(byte))
    await node.write(answers.subarray(30))
    await node.end()
    expect(await exchange.next(5_000)).toEqual({ n: 1 })
    expect(await exchange.next(5_000)).toEqual({ n: 2, more: new Uint8Array(900) })
    expect(await exchange.next(5_000)).toBe(3)
    expect(await exchange.next(5_000)).toBeUndefined()
    await exchange.end()
    await node.closed
  })

  test('takes no answer that is announced too large, before any of it has come', async () => {
    const { exchange, node } = await ask()
    await node.write(Uint8Array.of(0, 0, 3, 233))
    await expect(exchange.next(5_000)).rejects.toEqual(code('ERR_PEERLINE_TOO_LARGE'))
  })

  test.each([
    ['in the middle of a length', frame(1).subarray(0, 2)],
    ['after the length', frame(1).subarray(0, 4)],
    ['in the middle of an answer', frame([1, 2]).subarray(0, 6)],
  ])('notices that the node ended %s', async (_, bytes) => {
    const { exchange, node } = await ask()
    await node.end(bytes)
    await expect(exchange.next(5_000)).rejects.toEqual(code('ERR_PEERLINE_PROTOCOL'))
  })

  test.each([
    ['is closed', StreamCode.CANCELLED, 'ERR_PEERLINE_UNREACHABLE'],
    ['is busy', StreamCode.BUSY, 'ERR_PEERLINE_BUSY'],
    ['has none', StreamCode.NO_PROTOCOL, 'ERR_PEERLINE_NO_PROTOCOL'],
  ])('ends with a reason when the node %s', async (_, reset, expected) => {
    const { exchange, node } = await ask()
    node.reset(reset)
    await expect(exchange.next(5_000)).rejects.toEqual(code(expected))
  })

  test('ends when the session does, and none is asked in it after that', async () => {
    const { exchange } = await ask()
    const answer = expect(exchange.next()).rejects.toEqual(code('ERR_PEERLINE_UNREACHABLE'))
    await pair.b.close()
    await answer
    const options = { signal: new AbortController().signal, maxBytes: 10 }
    await expect(Exchange.open(pair.a, '/test/1', 1, options)).rejects.toEqual(code('ERR_PEERLINE_UNREACHABLE'))
  })

  test('gives its stream up when the signal fires, when its time is over, and when it is closed', async () => {
    const cancel = new AbortController()
    const cancelled = await ask(cancel.signal)
    const answer = expect(cancelled.exchange.next()).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
    cancel.abort()
    await answer
    await expect(cancelled.node.write(new Uint8Array(1)).then(() => cancelled.node.stopped)).resolves.toBeUndefined()
    await pair.close()
    const late = await ask()
    await expect(late.exchange.next(10)).rejects.toEqual(code('ERR_PEERLINE_TIMEOUT'))
    await late.node.stopped
    await pair.close()
    const left = await ask()
    left.exchange.close()
    await left.node.stopped
    await pair.close()
    const before = await ask(AbortSignal.abort()).catch((error: unknown) => error)
    expect(before).toEqual(code('ERR_PEERLINE_ABORTED'))
  })
})
