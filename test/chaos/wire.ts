/**
 * What passes between the two sides, as anybody on the way could see it: the numbers of records are in plain text. From
 * those follows what a session must never do, whatever it means by it.
 *
 * - A number is sealed once: what is sent again is, bit for bit, what was sent before. Numbers leave no gap.
 * - Nothing but what is loose goes on a path that is full, so that no buffer grows beyond its bound and one record.
 * - Of what was sent, no more than the session's bound has not come to the other side.
 */
import { MAX_MESSAGE_BYTES } from '../../src/path/index.ts'
import { MAX_IN_FLIGHT_BYTES } from '../../src/session/outbox.ts'
import { readNumber } from '../../src/session/record.ts'
import type { Coverage } from './coverage.ts'
import { other, type Side } from './lane.ts'
import type { SimPath } from './sim-link.ts'
import type { Complain } from './traffic.ts'

/** Bytes of loose records that may lie in a buffer above its bound: an attach message, a few pings. */
const LOOSE_BYTES = 4_096

/** What one side has sent. */
class Sent {
  /** The first part of each record. */
  readonly heads: Uint8Array[] = []
  readonly bytes: number[] = []
  readonly received: boolean[] = []
  lastLoose = -1
  /** Of all records, those that have not come. */
  outstandingBytes = 0
  /** The first that has not. */
  next = 0
  epoch = 0
  /** The latest key with which anything came. */
  epochCome = 0
}

export class Wire {
  readonly #sent: readonly [Sent, Sent] = [new Sent(), new Sent()]
  readonly #complain: Complain
  readonly #coverage: Coverage
  /** The most that was outstanding at once, bytes. */
  peakBytes = 0

  constructor(complain: Complain, coverage: Coverage) {
    this.#complain = complain
    this.#coverage = coverage
  }

  /** A record goes out; its number, negative for one that is loose. */
  onSend(path: SimPath, parts: readonly Uint8Array[], bytes: number): number {
    const { side } = path
    const sent = this.#sent[side]
    const number = readNumber(parts[0]!)
    if (path.queuedBytes > path.link.shape.bufferBytes + MAX_MESSAGE_BYTES + LOOSE_BYTES) {
      this.#complain(`${path.remote}: ${path.queuedBytes} bytes lie in the buffer of ${side}`)
    }
    if (number === undefined) {
      this.#complain(`${path.remote}: ${side} sent what is no record`)
      return 0
    }
    const { count, loose, epoch } = number
    if (epoch !== sent.epoch) {
      if (epoch === sent.epoch + 1) {
        sent.epoch = epoch
        this.#coverage.count('new keys')
      } else if (loose || epoch > sent.epoch) this.#complain(`${side} went from key ${sent.epoch} to ${epoch}`)
    }
    if (loose) {
      if (count <= sent.lastLoose) this.#complain(`${side} used the loose number ${count} twice`)
      sent.lastLoose = count
      return -1 - count
    }
    this.#coverage.count('records')
    if (!path.writable) this.#complain(`${path.remote}: ${side} sent record ${count} though the path was full`)
    if (count < sent.heads.length) {
      this.#coverage.count('resent records')
      const same = sent.bytes[count] === bytes && Buffer.compare(sent.heads[count]!, parts[0]!) === 0
      if (!same) this.#complain(`${side} sealed record ${count} twice`)
      return count
    }
    if (count > sent.heads.length) this.#complain(`${side} left out record ${sent.heads.length}`)
    sent.heads[count] = parts[0]!
    sent.bytes[count] = bytes
    sent.outstandingBytes += bytes
    this.peakBytes = Math.max(this.peakBytes, sent.outstandingBytes)
    if (sent.outstandingBytes > MAX_IN_FLIGHT_BYTES + MAX_MESSAGE_BYTES) {
      this.#complain(`${side} has ${sent.outstandingBytes} bytes on their way`)
    }
    return count
  }

  /** True when `side` cannot know the key of a record any more, or it was none. */
  isStale(side: Side, message: Uint8Array): boolean {
    const number = readNumber(message)
    return number === undefined || number.epoch + 1 < this.#sent[other(side)].epochCome
  }

  /** A record comes to `side`. */
  onArrival(side: Side, message: Uint8Array): number {
    const number = readNumber(message)
    if (number === undefined) return 0
    const { count, loose, epoch } = number
    const sent = this.#sent[other(side)]
    sent.epochCome = Math.max(sent.epochCome, epoch)
    if (loose) return -1 - count
    if (sent.received[count] === true) {
      this.#coverage.count('duplicates received')
      return count
    }
    sent.received[count] = true
    sent.outstandingBytes -= sent.bytes[count] ?? 0
    if (count > sent.next) this.#coverage.count('records ahead of their turn')
    while (sent.received[sent.next] === true) sent.next++
    return count
  }
}
