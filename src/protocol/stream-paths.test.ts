import { describe, expect, it } from 'vitest'
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { noise, type Side, useWorlds, World } from '../session/memory-path.compliance.ts'
import { serveStreamRequest } from './serve-stream.ts'
import { requestStream } from './stream-request.ts'

const from = 'asker' as PeerId
let world: World
useWorlds(() => world)

async function* chunks(body: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < body.length; at += 10_000) yield body.subarray(at, at + 10_000)
}

async function all(answer: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const read: Uint8Array[] = []
  for await (const chunk of answer) read.push(chunk)
  return Buffer.concat(read)
}

describe('a streamed request', () => {
  it('loses and doubles nothing when its path changes in the middle', async () => {
    for (const at of [3, 8, 15, 30]) {
      world = new World({ onStream: (stream) => serveStreamRequest(stream, (body) => body, { from }) })
      const link = await world.open()
      const until = world.delivered + at
      world.beforeDelivery = () => {
        if (world.delivered < until || link.ended) return
        world.beforeDelivery = undefined
        link.cut()
        world.connect('relay')
      }
      const body = noise(600_000)
      const answer = requestStream(world.sessions[0], '/echo/1', chunks(body)).then(all)
      expect(Buffer.compare(await world.settled(answer), body)).toBe(0)
      expect(link.ended).toBe(true)
      world.stop()
      await world.pass(1_100)
    }
  })

  it.each<Side>([0, 1])('whose session ends at side %s fails at both', async (side) => {
    let signal: AbortSignal | undefined
    let left = false
    world = new World({
      onStream: (stream) =>
        serveStreamRequest(
          stream,
          async function* (_body, context) {
            signal = context.signal
            try {
              for (;;) yield new Uint8Array(1_000)
            } finally {
              left = true
            }
          },
          { from },
        ),
    })
    await world.open()
    const answer = await world.settled(requestStream(world.sessions[0], '/bulk/1', chunks(noise(10))))
    const failed = (async () => {
      await answer.next()
      world.sessions[side].abort(new PeerlineError('ERR_PEERLINE_LIMIT', 'enough'))
      return all(answer)
    })().catch((error: unknown) => error)
    expect(await world.settled(failed)).toMatchObject({ code: 'ERR_PEERLINE_LIMIT', executed: 'yes' })
    await world.pass(1_100)
    expect([signal?.aborted, left]).toEqual([true, true])
  })
})
