/**
 * What comes on the paths: records are opened, their frames handed on, and acknowledged.
 *
 * - An acknowledgement goes to where the data came from, see `PathSet.ackPath`; it rides on a record that goes there
 *   anyway, when there is one.
 * - What may be lost, or repeated, comes in loose records, and nothing else does: acknowledgements, pings and datagrams.
 */
import { PeerlineError } from '../errors.ts'
import { type FrameVisitor, readFrames } from './frame.ts'
import { ACK_DELAY_MS, Inbox } from './inbox.ts'
import type { MemoryShare } from './memory-budget.ts'
import type { Outbox } from './outbox.ts'
import type { PathSet } from './path-set.ts'
import type { PathState } from './paths.ts'
import { readNumber } from './record.ts'
import type { StreamTable } from './stream-table.ts'

export interface ReceiverHost {
  readonly key: Uint8Array
  readonly memory: MemoryShare
  readonly paths: () => PathSet
  readonly outbox: () => Outbox
  readonly streams: () => StreamTable
  /** Streams that the other side opens are refused. */
  readonly closing: () => boolean
  readonly closed: () => boolean
  /** Everything below `number` has arrived at the other side. */
  readonly onAck: (number: number) => void
  /** A pong came on the path. */
  readonly onPong: (path: PathState) => void
  readonly onCandidates: (bytes: Uint8Array) => void
  /** The bytes hold until the call returns. */
  readonly onDatagram: (data: Uint8Array) => void
  readonly onClose: (code: string, message: string) => void
}

export class Receiver {
  readonly #host: ReceiverHost
  readonly #inbox: Inbox
  readonly #visitor: FrameVisitor
  readonly #looseVisitor: FrameVisitor
  #ackTimer: ReturnType<typeof setTimeout> | undefined
  /** The path whose record is being read. */
  #reading: PathState | undefined

  constructor(host: ReceiverHost) {
    this.#host = host
    const deliver = (frames: Uint8Array) => {
      host.streams().recordBytes = frames.length
      readFrames(frames, this.#visitor, host.closed)
    }
    this.#inbox = new Inbox(host.key, deliver, host.memory)
    this.#visitor = {
      onOpen: (id, protocol) => host.streams().onOpen(id, protocol, host.closing()),
      onData: (id, data, fin) => host.streams().onData(id, data, fin),
      onReset: (id, code) => host.streams().onReset(id, code),
      onStop: (id, code) => host.streams().onStop(id, code),
      onWindow: (id, offset) => host.streams().find(id)?.onWindow(offset),
      onAck: host.onAck,
      onPing: () => unexpected('ping'),
      onPong: () => unexpected('pong'),
      onCandidates: (bytes) => host.onCandidates(new Uint8Array(bytes)),
      onClose: host.onClose,
      onDatagram: () => unexpected('datagram'),
    }
    this.#looseVisitor = {
      onOpen: () => unexpected('open'),
      onData: () => unexpected('data'),
      onReset: () => unexpected('reset'),
      onStop: () => unexpected('stop'),
      onWindow: () => unexpected('window'),
      onAck: host.onAck,
      onPing: (token) => host.paths().onPing(this.#reading!, token),
      onPong: (token) => {
        const path = this.#reading!
        host.paths().onPong(path, token)
        host.onPong(path)
      },
      onCandidates: () => unexpected('candidates'),
      onClose: () => unexpected('close'),
      onDatagram: host.onDatagram,
    }
  }

  /** The first ordered record that has not come. */
  get next(): number {
    return this.#inbox.next
  }

  // ---- records ----

  /** One message of a path that has been attached. */
  onRecord(state: PathState, message: Uint8Array): void {
    const paths = this.#host.paths()
    const number = readNumber(message)
    if (number === undefined) return paths.spoilt(state)
    if (number.loose) {
      if (number.count <= state.lastLoose) return paths.spoilt(state)
      const frames = this.#inbox.openLoose(message, number, state.number)
      if (frames === 'stale') return
      if (frames === 'forged') return paths.spoilt(state)
      state.lastLoose = number.count
      paths.heard(state)
      this.#reading = state
      readFrames(frames, this.#looseVisitor, this.#host.closed)
      this.#reading = undefined
      return
    }
    const arrival = this.#inbox.accept(message, number)
    if (arrival === 'forged' || arrival === 'overflow') return paths.spoilt(state)
    if (arrival === 'taken') paths.heard(state, message.length)
    else paths.heardAgain(state)
    if (!this.#host.closed()) this.ackSoon()
  }

  // ---- acknowledgements ----

  /** The acknowledgement that may ride on a record about to go out on `path`. */
  takeAck(path: PathState): number | undefined {
    return this.#host.paths().ackPath === path ? this.#inbox.takeAck() : undefined
  }

  /** Sends the acknowledgement that is due, if any, by itself. */
  sendAck(): void {
    const path = this.#host.paths().ackPath
    // A path that is full has other things to say first; the acknowledgement rides on one of them.
    if (path === undefined || !path.path.writable) return
    const ack = this.#inbox.takeAck()
    if (ack !== undefined) this.#host.outbox().sendLoose(path, (frames) => frames.ack(ack))
  }

  /** Sends it now when much has come, else in a moment. */
  ackSoon(): void {
    if (this.#inbox.ackUrgent) return this.sendAck()
    if (this.#ackTimer !== undefined || !this.#inbox.ackDue) return
    this.#ackTimer = setTimeout(() => {
      this.#ackTimer = undefined
      this.sendAck()
    }, ACK_DELAY_MS)
    this.#ackTimer.unref?.()
  }

  /** A path was lost, and perhaps an acknowledgement with it. */
  ackAgain(): void {
    this.#inbox.ackAgain()
  }

  clear(): void {
    clearTimeout(this.#ackTimer)
    this.#inbox.clear()
  }
}

function unexpected(frame: string): never {
  throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `a ${frame} frame in the wrong kind of record`)
}
