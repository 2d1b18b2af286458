import { describe, expect, it } from 'vitest'
import type { PeerId } from '../identity/index.ts'
import type { Stream } from '../session/index.ts'
import { noise, useWorlds, World } from '../session/memory-path.compliance.ts'
import type { RequestHandler } from './handler-context.ts'
import { Replies } from './replies.ts'
import { request } from './request.ts'
import { serveRequest } from './serve-request.ts'

const from = 'asker' as PeerId
const BODY = new Uint8Array([1, 2, 3])

describe('while paths and sessions change', () => {
  let world: World
  useWorlds(() => world)

  it('a request whose answer was lost with its session is executed once, and answered on the next', async () => {
    const replies = new Replies()
    let executed = 0
    const handler: RequestHandler = () => Uint8Array.of(++executed)
    const onStream = (stream: Stream) => serveRequest(stream, handler, { from, replies })
    world = new World({ onStream })
    const link = await world.open()
    // The request arrives; nothing comes back any more.
    link.dead[0] = true
    const asked = request(world.sessions[0], '/pay/1', BODY, { key: 'k', timeoutMs: 2_000 })
    const outcome = asked.catch((error: unknown) => error)
    await world.run(() => executed === 1)
    expect(await world.settled(outcome)).toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT', executed: 'unknown' })
    world.stop()
    await world.pass(20)
    world = new World({ onStream })
    await world.open()
    const again = request(world.sessions[0], '/pay/1', BODY, { key: 'k' })
    expect(await world.settled(again)).toEqual(Uint8Array.of(1))
    expect(executed).toBe(1)
    replies.close()
    await world.pass(40)
  })

  it('a request goes on over a path that changes in the middle of it, at whatever message', async () => {
    for (let at = 1; at <= 8; at++) {
      const replies = new Replies()
      let executed = 0
      const handler: RequestHandler = (body) => {
        executed++
        return body
      }
      world = new World({ onStream: (stream) => serveRequest(stream, handler, { from, replies }) })
      const link = await world.open()
      const until = world.delivered + at
      world.beforeDelivery = () => {
        if (world.delivered < until || link.ended) return
        world.beforeDelivery = undefined
        link.cut()
        world.connect('relay')
      }
      const body = noise(100_000)
      const asked = request(world.sessions[0], '/pay/1', body, { key: 'k' })
      expect(Buffer.compare(await world.settled(asked), body)).toBe(0)
      expect(executed).toBe(1)
      replies.close()
      world.stop()
      await world.pass(20)
    }
  })
})
