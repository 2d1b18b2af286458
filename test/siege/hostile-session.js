/** A session of an attacker who is let in: real keys and records, and whatever frames it likes. */
import { FrameWriter, readFrames } from '../../dist/session/frame.js'
import { Opener, readNumber, Sealer } from '../../dist/session/record.js'
import { framed } from './line.js'

/** The number of the path on which the handshake ran. */
const FIRST_PATH = 0

const nothing = () => {}

export class HostileSession {
  line
  #sealer
  #opener

  constructor(line, keys) {
    this.line = line
    this.#sealer = new Sealer(keys.send)
    this.#opener = new Opener(keys.receive)
    line.onMessage = (message) => this.#answerPing(message)
    line.onCut = () => void this.ordered((frames) => frames.close('', ''))
  }

  /** Seals what `write` writes, and sends it. */
  ordered(write, body) {
    return this.line.write(framed(...this.#sealer.ordered(written(write), body)))
  }

  loose(write) {
    return this.line.write(framed(...this.#sealer.loose(written(write), FIRST_PATH)))
  }

  /** Bytes that are no frames. */
  raw(bytes) {
    return this.line.write(framed(...this.#sealer.ordered(bytes, undefined)))
  }

  /** It stays, but acknowledges nothing. */
  #answerPing(message) {
    const number = readNumber(message)
    if (number === undefined || !number.loose) return
    const frames = this.#opener.open(message, number, FIRST_PATH)
    if (frames === undefined) return
    const visitor = { onPing: (token) => void this.loose((writer) => writer.pong(token)) }
    for (const name of ['onAck', 'onPong', 'onDatagram', 'onCandidates', 'onClose']) visitor[name] = nothing
    readFrames(frames, visitor, () => false)
  }
}

function written(write) {
  const frames = new FrameWriter(65_536)
  write(frames)
  return Buffer.from(frames.take())
}

/** Dials with an offer; undefined when it is refused. */
export async function join({ source, offer }, { lines, counts }) {
  const line = await lines.open(source)
  const made = offer()
  await line.write(framed(made.message))
  const message = await line.next()
  if (message === undefined) return undefined
  try {
    const session = new HostileSession(line, made.complete(message).keys)
    counts.sessions = (counts.sessions ?? 0) + 1
    return session
  } catch {
    counts.denied = (counts.denied ?? 0) + 1
    line.drop()
    return undefined
  }
}
