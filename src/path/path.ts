/**
 * A path: one open pipe of whole messages between two peers, whatever carries it.
 *
 * Contract that every kind keeps (see `path.compliance.ts`, which every kind must pass):
 * - messages arrive whole, in order, at most once; nothing is delivered before `start` or while paused;
 * - `send` takes one message in parts and never splits its promise: it arrives whole or the path ends;
 * - `send` answers false when the caller should wait for `drain`; the message is taken all the same;
 * - `close` is called once on the handler, whoever ended the path, and nothing is called after it;
 * - a message over the limit, or an empty one, ends the path with `ERR_PEERLINE_TOO_LARGE` or `ERR_PEERLINE_PROTOCOL`.
 *
 * A path knows nothing of keys: what travels on it is sealed above it.
 */
import type { PeerlineError } from '../errors.ts'

/** What carries a path. */
export type PathKind = 'tcp' | 'udp' | 'webrtc' | 'relay'

/** Bytes of the largest message: one record of 64 KiB of data with its frames, number and tag. */
export const MAX_MESSAGE_BYTES = 66_560

/**
 * Bytes of the largest message before a session has taken the path: an offer of at most 16 KiB and its preamble.
 * What a stranger can make us hold is bounded by this.
 */
export const MAX_FIRST_MESSAGE_BYTES = 17_408

/** What a path tells its owner. */
export interface PathHandler {
  /** One whole message. Its bytes hold until the call returns: who keeps them copies them. */
  message(message: Uint8Array): void
  /** The path takes more, after `send` had answered false. */
  drain(): void
  /** The path has ended; `error` is absent when the other side ended it in order. */
  close(error: PeerlineError | undefined): void
}

/** One open pipe of whole messages. */
export interface Path {
  readonly kind: PathKind
  /** Where the other end is, for people: `198.51.100.7:4400`, `relay ws://…`. */
  readonly remote: string
  /** False between a `send` that answered false and the next `drain`, and after the end. */
  readonly writable: boolean
  /** Largest message taken from the other side, bytes. Starts at {@link MAX_FIRST_MESSAGE_BYTES}. */
  maxMessageBytes: number
  /** Starts delivery to `handler`, or hands the path to another handler from the next message on. */
  start(handler: PathHandler): void
  /** Sends one message, given in parts; false: wait for `drain`. After the end it does nothing. */
  send(parts: readonly Uint8Array[]): boolean
  /** Stops delivery after the present message; the other side comes to wait. */
  pause(): void
  resume(): void
  /** Ends the path when what was sent has gone out. */
  close(): void
  /** Ends the path at once. */
  destroy(error?: PeerlineError): void
}
