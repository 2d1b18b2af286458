/**
 * Frames: what a record carries, one after another to its end.
 *
 *     OPEN       01  stream, length, protocol (UTF-8)       opens a stream for a named protocol
 *     RESET      02  stream, code                           the writer gives up
 *     STOP       03  stream, code                           the reader gives up
 *     WINDOW     04  stream, offset                         the writer may send up to this offset
 *     ACK        05  number                                 every ordered record below this number has come
 *     PING       06  token 8                                answered at once, on the same path
 *     PONG       07  token 8
 *     CANDIDATES 08  length, CBOR                           more ways in which the sender may be reached
 *     CLOSE      09  length, code, length, message          the session ends; nothing follows
 *     DATAGRAM   0a  length, bytes                          a message that may be lost; in loose records only
 *     DATA       10  stream, length, bytes
 *     DATA+FIN   11  the last bytes of the stream
 *     DATA       12  stream, bytes to the end of the record (13: and FIN)
 *
 * Integers are variable-length (RFC 9000 section 16). Stream numbers of the session's initiator are even, the
 * responder's odd, each counted up from its first. Anything else is an error of protocol and ends the session.
 */
import { Cursor, writeVarint } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'

export const FrameType = {
  OPEN: 0x01,
  RESET: 0x02,
  STOP: 0x03,
  WINDOW: 0x04,
  ACK: 0x05,
  PING: 0x06,
  PONG: 0x07,
  CANDIDATES: 0x08,
  CLOSE: 0x09,
  DATAGRAM: 0x0a,
  DATA: 0x10,
} as const

const DATA_FIN = 0x01
const DATA_TO_END = 0x02

/** Bytes of the longest protocol name. */
export const MAX_PROTOCOL_BYTES = 128
/** Bytes of one CANDIDATES frame: 16 candidates of 128 bytes leave as much again to spare. */
export const MAX_CANDIDATES_BYTES = 4_096
/**
 * Bytes of one datagram: what a record of any path holds beside the rest (`MAX_MESSAGE_BYTES`), the same as a piece of a
 * stream. RFC 9221 section 3 recommends that as good as every size is taken.
 */
export const MAX_DATAGRAM_BYTES = 65_536
/** Bytes of the longest DATAGRAM header: type, length. */
export const MAX_DATAGRAM_HEADER_BYTES = 1 + 4
/** Bytes of the longest code and message in a CLOSE frame. */
const MAX_CLOSE_CODE_BYTES = 64
const MAX_CLOSE_MESSAGE_BYTES = 256
/** Bytes of the longest DATA header: type, stream, length. */
export const MAX_DATA_HEADER_BYTES = 1 + 8 + 4
/** Bytes of the longest ACK frame. */
const MAX_ACK_BYTES = 1 + 8

/** Takes the frames of one record. */
export interface FrameVisitor {
  onOpen(stream: number, protocol: string): void
  onData(stream: number, data: Uint8Array, fin: boolean): void
  onReset(stream: number, code: number): void
  onStop(stream: number, code: number): void
  onWindow(stream: number, offset: number): void
  onAck(number: number): void
  onPing(token: Uint8Array): void
  onPong(token: Uint8Array): void
  onCandidates(bytes: Uint8Array): void
  onClose(code: string, message: string): void
  onDatagram(data: Uint8Array): void
}

/** Keeps a byte order mark: dropping it would give one name two encodings. */
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const encoder = new TextEncoder()

/** Protocol names seen lately, so that a stream per request costs no decoding: bounded, per process. */
const names = new Map<string, string>()
const MAX_NAMES = 256

function readText(cursor: Cursor, max: number, what: string): string {
  const length = cursor.readVarint()
  if (length > max) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `${what} of ${length} bytes`)
  const bytes = cursor.readBytes(length)
  const latin = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1')
  const known = names.get(latin)
  if (known !== undefined) return known
  let text: string
  try {
    text = decoder.decode(bytes)
  } catch (cause) {
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `${what} is not UTF-8`, { cause })
  }
  if (names.size < MAX_NAMES && length <= MAX_PROTOCOL_BYTES) names.set(latin, text)
  return text
}

/**
 * Hands each frame of `record` to `visitor`, until the end, or until `stopped()`.
 * @throws PeerlineError `ERR_PEERLINE_PROTOCOL` on anything malformed
 */
export function readFrames(record: Uint8Array, visitor: FrameVisitor, stopped: () => boolean): void {
  const cursor = new Cursor(record)
  while (cursor.remaining > 0 && !stopped()) {
    const type = cursor.readUint8()
    if ((type & ~(DATA_FIN | DATA_TO_END)) === FrameType.DATA) {
      const stream = cursor.readVarint()
      const length = (type & DATA_TO_END) === 0 ? cursor.readVarint() : cursor.remaining
      visitor.onData(stream, cursor.readBytes(length), (type & DATA_FIN) !== 0)
      continue
    }
    switch (type) {
      case FrameType.OPEN:
        visitor.onOpen(cursor.readVarint(), readText(cursor, MAX_PROTOCOL_BYTES, 'a protocol name'))
        break
      case FrameType.RESET:
        visitor.onReset(cursor.readVarint(), cursor.readVarint())
        break
      case FrameType.STOP:
        visitor.onStop(cursor.readVarint(), cursor.readVarint())
        break
      case FrameType.WINDOW:
        visitor.onWindow(cursor.readVarint(), cursor.readVarint())
        break
      case FrameType.ACK:
        visitor.onAck(cursor.readVarint())
        break
      case FrameType.PING:
        visitor.onPing(cursor.readBytes(8))
        break
      case FrameType.PONG:
        visitor.onPong(cursor.readBytes(8))
        break
      case FrameType.CANDIDATES: {
        const length = cursor.readVarint()
        if (length > MAX_CANDIDATES_BYTES) {
          throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `candidates of ${length} bytes`)
        }
        visitor.onCandidates(cursor.readBytes(length))
        break
      }
      case FrameType.CLOSE:
        visitor.onClose(
          readText(cursor, MAX_CLOSE_CODE_BYTES, 'a code'),
          readText(cursor, MAX_CLOSE_MESSAGE_BYTES, 'a message'),
        )
        break
      case FrameType.DATAGRAM: {
        const length = cursor.readVarint()
        if (length > MAX_DATAGRAM_BYTES) {
          throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `a datagram of ${length} bytes`)
        }
        visitor.onDatagram(cursor.readBytes(length))
        break
      }
      default:
        throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `unknown frame 0x${type.toString(16)}`)
    }
  }
}

/** Encoded protocol names, for the same reason. */
const encodedNames = new Map<string, Uint8Array>()

function encodeName(text: string): Uint8Array {
  let bytes = encodedNames.get(text)
  if (bytes === undefined) {
    bytes = encoder.encode(text)
    if (encodedNames.size < MAX_NAMES) encodedNames.set(text, bytes)
  }
  return bytes
}

/** @throws PeerlineError `ERR_PEERLINE_INVALID` when the name is empty or too long */
export function checkProtocol(protocol: string): void {
  const { length } = encodeName(protocol)
  if (length === 0 || length > MAX_PROTOCOL_BYTES) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `a protocol name has 1 to ${MAX_PROTOCOL_BYTES} bytes`)
  }
}

/** Cuts a text to at most `max` bytes of UTF-8. */
function clip(text: string, max: number): Uint8Array {
  const bytes = encoder.encode(text)
  if (bytes.length <= max) return bytes
  return encoder.encode(new TextDecoder().decode(bytes.subarray(0, max - 3)).replace(/\uFFFD$/, ''))
}

/** Bytes of a batch of frames: what is gathered before it is sealed as one record. */
const BATCH_BYTES = 16_384

/** Batches that no session uses now: taken up and put back every turn, by all sessions of the process. */
const spares: Buffer[] = []
const MAX_SPARES = 16

/** Gathers frames into batches; each batch becomes one record, or the head of one that carries bulk data. */
export class FrameWriter {
  /** Full batches, waiting. */
  readonly #full: Uint8Array[] = []
  #fullBytes = 0
  #batch: Buffer | undefined
  #length = 0
  readonly #batchBytes: number

  constructor(batchBytes: number = BATCH_BYTES) {
    this.#batchBytes = batchBytes
  }

  /** Bytes that wait to be sealed. */
  get bytes(): number {
    return this.#fullBytes + this.#length
  }

  /** True when small data may still join the present batch, with its header. */
  fits(dataLength: number): boolean {
    return this.#full.length === 0 && this.#length + MAX_DATA_HEADER_BYTES + dataLength <= this.#batchBytes
  }

  /** The next batch to seal, or undefined. It stays valid until the next frame is written. */
  take(): Uint8Array | undefined {
    const full = this.#full.shift()
    if (full !== undefined) {
      this.#fullBytes -= full.length
      return full
    }
    if (this.#length === 0) return undefined
    const batch = this.#batch!.subarray(0, this.#length)
    this.#length = 0
    return batch
  }

  /** Lets go of the memory when nothing waits: an idle session holds no batch, a busy one takes it up again. */
  release(): void {
    if (this.#length > 0 || this.#batch === undefined) return
    if (this.#batch.length === BATCH_BYTES && spares.length < MAX_SPARES) spares.push(this.#batch)
    this.#batch = undefined
  }

  open(stream: number, protocol: string): void {
    const name = encodeName(protocol)
    this.#room(1 + 8 + 2 + name.length)
    this.#byte(FrameType.OPEN)
    this.#varint(stream)
    this.#varint(name.length)
    this.#bytes(name)
  }

  data(stream: number, data: Uint8Array, fin: boolean): void {
    this.#room(MAX_DATA_HEADER_BYTES + data.length)
    this.#byte(FrameType.DATA | (fin ? DATA_FIN : 0))
    this.#varint(stream)
    this.#varint(data.length)
    this.#bytes(data)
  }

  /** The header of data that fills the rest of the record; the data itself is sealed from where it lies. */
  dataToEnd(stream: number, fin: boolean): void {
    this.#room(MAX_DATA_HEADER_BYTES)
    this.#byte(FrameType.DATA | DATA_TO_END | (fin ? DATA_FIN : 0))
    this.#varint(stream)
  }

  reset(stream: number, code: number): void {
    this.#two(FrameType.RESET, stream, code)
  }

  stop(stream: number, code: number): void {
    this.#two(FrameType.STOP, stream, code)
  }

  window(stream: number, offset: number): void {
    this.#two(FrameType.WINDOW, stream, offset)
  }

  ack(number: number): void {
    this.#room(MAX_ACK_BYTES)
    this.#byte(FrameType.ACK)
    this.#varint(number)
  }

  ping(token: Uint8Array): void {
    this.#room(9)
    this.#byte(FrameType.PING)
    this.#bytes(token)
  }

  pong(token: Uint8Array): void {
    this.#room(9)
    this.#byte(FrameType.PONG)
    this.#bytes(token)
  }

  candidates(bytes: Uint8Array): void {
    this.#room(3 + bytes.length)
    this.#byte(FrameType.CANDIDATES)
    this.#varint(bytes.length)
    this.#bytes(bytes)
  }

  /** All in one batch, which grows to hold them and an acknowledgement beside. */
  datagrams(all: readonly Uint8Array[]): void {
    let bytes = MAX_ACK_BYTES
    for (const { length } of all) bytes += MAX_DATAGRAM_HEADER_BYTES + length
    this.#room(bytes)
    for (const data of all) {
      this.#byte(FrameType.DATAGRAM)
      this.#varint(data.length)
      this.#bytes(data)
    }
  }

  close(code: string, message: string): void {
    const codeBytes = clip(code, MAX_CLOSE_CODE_BYTES)
    const messageBytes = clip(message, MAX_CLOSE_MESSAGE_BYTES)
    this.#room(1 + 2 + codeBytes.length + 2 + messageBytes.length)
    this.#byte(FrameType.CLOSE)
    this.#varint(codeBytes.length)
    this.#bytes(codeBytes)
    this.#varint(messageBytes.length)
    this.#bytes(messageBytes)
  }

  #two(type: number, first: number, second: number): void {
    this.#room(1 + 8 + 8)
    this.#byte(type)
    this.#varint(first)
    this.#varint(second)
  }

  /** Makes room for a frame of at most `bytes`; a frame never spans two batches. */
  #room(bytes: number): void {
    if (this.#batch !== undefined && this.#length + bytes > this.#batch.length) {
      if (this.#length > 0) {
        this.#full.push(this.#batch.subarray(0, this.#length))
        this.#fullBytes += this.#length
      }
      this.#batch = undefined
      this.#length = 0
    }
    if (this.#batch !== undefined) return
    const spare = bytes <= BATCH_BYTES && this.#batchBytes === BATCH_BYTES ? spares.pop() : undefined
    this.#batch = spare ?? Buffer.allocUnsafe(Math.max(this.#batchBytes, bytes))
  }

  #byte(value: number): void {
    this.#batch![this.#length++] = value
  }

  #varint(value: number): void {
    this.#length = writeVarint(this.#batch!, this.#length, value)
  }

  #bytes(bytes: Uint8Array): void {
    this.#batch!.set(bytes, this.#length)
    this.#length += bytes.length
  }
}
