import { setImmediate as turn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { createOffer, ReplayCache } from '../handshake/index.ts'
import { Identity } from '../identity/index.ts'
import { FramedPath, type Pipe, type PipeHandler } from '../path/index.ts'
import { Acceptor } from './acceptor.ts'

/** A connection of somebody who may say something. */
class Wire implements Pipe {
  readonly remote: string
  readonly writable = true
  readonly ownsChunks = false
  handler: PipeHandler | undefined
  ended = false

  constructor(host: number) {
    this.remote = `198.51.100.${host}:4400`
  }

  say(message: Uint8Array): void {
    const framed = Buffer.alloc(4 + message.length)
    framed.writeUInt32BE(message.length)
    framed.set(message, 4)
    this.handler!.data(framed)
  }

  start(handler: PipeHandler): void {
    this.handler = handler
  }
  write(): boolean {
    return true
  }
  pause(): void {}
  resume(): void {}
  end(): void {
    this.ended = true
  }
  destroy(): void {
    this.ended = true
  }
}

const us = Identity.generate()

/** An acceptor that lets nobody in, with room for so many. */
function acceptorOf(room: number): { accept: (host: number) => Wire; asked: string[] } {
  const asked: string[] = []
  let taken = 0
  const acceptor = new Acceptor({
    identity: us,
    replay: new ReplayCache(),
    mayCome: () => true,
    count: () => {
      if (taken >= room) throw new PeerlineError('ERR_PEERLINE_BUSY', 'full')
      taken++
      let held = true
      return {
        establish: () => {},
        release: () => {
          if (held) taken--
          held = false
        },
      }
    },
    admit: async (from) => {
      asked.push(from)
      throw new PeerlineError('ERR_PEERLINE_DENIED', 'nobody')
    },
    tellRefusals: true,
    knows: () => false,
    findSession: () => undefined,
    newSession: () => {
      throw new Error('nobody was let in')
    },
    resume: async () => undefined,
  })
  const accept = (host: number) => {
    const wire = new Wire(host)
    void acceptor.accept(new FramedPath('tcp', wire))
    return wire
  }
  return { accept, asked }
}

const offerOf = (identity: Identity) => createOffer(identity, us.peerId, { body: new Uint8Array(0) }).message

test('who says nothing gives way to who comes later and speaks', async () => {
  const { accept, asked } = acceptorOf(2)
  const [first, second] = [accept(1), accept(2)]
  const somebody = Identity.generate()
  const third = accept(3)
  expect([first.ended, second.ended, third.ended]).toEqual([true, false, false])
  third.say(offerOf(somebody))
  for (let turns = 0; turns < 5 && asked.length === 0; turns++) await turn()
  expect(asked).toEqual([somebody.peerId])
})

test('between two handshakes the event loop turns', async () => {
  const { accept, asked } = acceptorOf(8)
  const wires = [1, 2, 3].map((host) => accept(host))
  for (const wire of wires) wire.say(offerOf(Identity.generate()))
  const seen: number[] = []
  for (let turns = 0; turns < 6; turns++) {
    await turn()
    seen.push(asked.length)
  }
  expect(seen.at(-1)).toBe(3)
  for (const [at, count] of seen.entries()) expect(count - (seen[at - 1] ?? 0)).toBeLessThanOrEqual(1)
})
