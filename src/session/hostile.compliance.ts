/**
 * For tests: who holds the keys of session 0 of a `World` and does with them what a session never would. Session 1 is real.
 */
import { writeAttach } from './attach.ts'
import { type FrameVisitor, FrameWriter, readFrames } from './frame.ts'
import { Link, testKeys, World, type WorldOptions } from './memory-path.compliance.ts'
import { Opener, readNumber, Sealer } from './record.ts'

export class Hostile {
  readonly world: World
  readonly link = new Link('tcp', 'hostile')
  readonly keys = testKeys(true)
  readonly sealer = new Sealer(this.keys.send)
  readonly #opener = new Opener(this.keys.receive)

  constructor(options: WorldOptions = {}) {
    this.world = new World(options)
    const end = this.link.ends[1]
    this.world.sessions[1].acceptAttach(
      end,
      writeAttach(this.keys.sessionId, { pathNumber: 2, received: 0 }, this.keys.attachSend),
    )
  }

  send(write: (frames: FrameWriter) => void, body?: Uint8Array): void {
    const frames = new FrameWriter()
    write(frames)
    for (let batch = frames.take(); batch !== undefined; batch = frames.take()) {
      this.link.ends[1].receive(new Uint8Array(Buffer.concat(this.sealer.ordered(batch, body))))
    }
  }

  loose(write: (frames: FrameWriter) => void): void {
    const frames = new FrameWriter()
    write(frames)
    this.link.ends[1].receive(new Uint8Array(Buffer.concat(this.sealer.loose(frames.take()!, 2))))
  }

  /** The frames that session 1 has sent, by name and fields. */
  async frames(): Promise<unknown[][]> {
    await this.world.quiet()
    const seen: unknown[][] = []
    const visitor = new Proxy({} as FrameVisitor, {
      get:
        (_, name) =>
        (...fields: unknown[]) =>
          seen.push([name, ...fields]),
    })
    for (let message = this.link.ends[1].shift(); message !== undefined; message = this.link.ends[1].shift()) {
      const number = readNumber(message)
      const frames = number === undefined ? undefined : this.#opener.open(message, number, 2)
      if (frames !== undefined) readFrames(frames, visitor, () => false)
    }
    return seen
  }
}
