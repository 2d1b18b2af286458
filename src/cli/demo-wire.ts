/**
 * What the processes of `peerline demo` say to each other, over Node's own channel between parent and child.
 */
import type { PathKind } from '../path/index.ts'
import type { PathChange, SignalingAttempt } from '../session/index.ts'

/** Parent to child. */
export type Order =
  /** Server: begin. */
  | { readonly order: 'serve' }
  /**
   * Peer: come online, by a server, and then it does not listen; or by a ledger, and then it does. `directory`: take files of
   * `allow` and put them there.
   */
  | {
      readonly order: 'join'
      readonly url?: string
      readonly ledger?: string
      readonly directory?: string
      readonly allow?: string
    }
  /** Peer: listen on loopback. */
  | { readonly order: 'listen' }
  /** Peer: send a file. */
  | { readonly order: 'send'; readonly to: string; readonly file: string; readonly bytesPerSecond: number }
  /** End in order. */
  | { readonly order: 'stop' }

/** Child to parent. `atMs`: on the clock of all processes of the machine. */
export type News =
  | { readonly news: 'serving'; readonly url: string }
  | { readonly news: 'joined'; readonly peerId: string }
  | { readonly news: 'listening'; readonly address: string }
  | {
      readonly news: 'connected'
      readonly path: PathKind
      readonly found: readonly SignalingAttempt[]
      readonly atMs: number
    }
  /** `doneBytes`: handed to the path so far at the sender, arrived at the receiver. */
  | {
      readonly news: 'progress'
      readonly doneBytes: number
      readonly totalBytes: number
      readonly path: PathKind | null
    }
  | {
      readonly news: 'path'
      readonly from: PathKind
      readonly to: PathKind
      readonly reason: PathChange['reason']
      readonly doneBytes: number
      readonly atMs: number
    }
  | { readonly news: 'received'; readonly path: string; readonly sha256: string; readonly atMs: number }
  | { readonly news: 'sent'; readonly sha256: string; readonly byPath: Partial<Record<PathKind, number>> }
  | { readonly news: 'failed'; readonly code: string; readonly message: string }

/** ms since 1970, to the microsecond: the same in every process. */
export function wallMs(): number {
  return performance.timeOrigin + performance.now()
}
