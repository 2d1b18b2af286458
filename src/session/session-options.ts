/**
 * What a session is made with, and what it tells: types alone.
 */
import type { PeerlineError } from '../errors.ts'
import type { SessionKeys } from '../handshake/index.ts'
import type { PeerId } from '../identity/index.ts'
import type { PathKind } from '../path/index.ts'
import type { ByteRate } from './byte-rate.ts'
import type { MemoryBudget } from './memory-budget.ts'
import type { RekeyLimits } from './outbox.ts'
import type { PathChange } from './path-chooser.ts'
import type { PathTiming } from './paths.ts'
import type { Stream } from './stream.ts'
import type { Explanation } from './why.ts'

export type SessionState = 'connecting' | 'open' | 'reconnecting' | 'closing' | 'closed'

export type SessionEvents = {
  /** The first path is proven. */
  open: { readonly path: PathKind }
  /** Another path carries the data from now on. */
  path: PathChange
  /** Paths were proven, or have gone; {@link Session.paths} has the kinds that are left. */
  paths: undefined
  /** Nothing answers on any path: other ways are sought already, and data waits. */
  trouble: undefined
  /** Every path is lost; data waits, and is bounded, until there is another one or the time for that is over. */
  reconnecting: { readonly error: PeerlineError | undefined }
  /** There is a path again, after so many ms. */
  reconnected: { readonly path: PathKind; readonly afterMs: number }
  /** The session has ended; `error` is absent when either side closed it in order. */
  close: { readonly error: PeerlineError | undefined }
  /** The other side tells more ways to reach it; the content is the connecting room's. */
  candidates: Uint8Array
}

/** A direction that is not named has no bound. */
export interface SessionRate {
  readonly in?: ByteRate
  readonly out?: ByteRate
}

/** A stream that is to be opened. */
export interface Opening {
  readonly protocol: string
  readonly signal: AbortSignal | undefined
  /** Opens it. @throws PeerlineError as `Session.open` */
  readonly open: () => Promise<Stream>
}

export interface SessionOptions {
  readonly keys: SessionKeys
  /** The other side. */
  readonly peer: PeerId
  /** Takes streams that the other side opens. */
  readonly onStream: (stream: Stream) => void
  /** Stands before each stream of ours: opens it, or rejects. @default all are opened */
  readonly opening?: ((opening: Opening) => Promise<Stream>) | undefined
  /** Streams open at once in each direction. @default 256 */
  readonly maxStreams?: number
  /** Bytes of streams and datagrams per second, from the other side and to it. @default as many as come */
  readonly rate?: SessionRate | undefined
  /** Memory that all sessions of a peer share. @default no bound but those of this session */
  readonly memory?: MemoryBudget | undefined
  readonly rekey?: RekeyLimits
  /** ms for the first path to be proven. @default 15_000 */
  readonly firstPathMs?: number | undefined
  /**
   * ms without any path before the session fails: another may be on its way. 0 where none will come, as with servers.
   * @default 60_000
   */
  readonly reconnectMs?: number
  /** How soon the end of a path is noticed. */
  readonly timing?: Partial<PathTiming> | undefined
  /** What whoever opens the paths can say about them. */
  readonly explain?: () => Explanation
}
