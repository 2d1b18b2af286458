/**
 * A byte pipe: what a socket or a WebSocket is to a path. Bytes in order, back-pressure both ways, one end.
 */
import type { PeerlineError } from '../errors.ts'

/**
 * Bytes waiting in user space before a pipe asks its writer to wait: 16 records of 64 KiB. Below about 512 KiB
 * the writer and the kernel take turns and bulk data loses a third; above 1 MiB nothing is gained but delay.
 */
export const PIPE_HIGH_WATER_BYTES = 1_048_576

/** What a pipe tells its owner. */
export interface PipeHandler {
  data(chunk: Uint8Array): void
  drain(): void
  /** Called once; `error` is absent when the other side ended in order. */
  close(error: PeerlineError | undefined): void
}

/** Bytes in order between two ends. */
export interface Pipe {
  /** Where the other end is, for people. */
  readonly remote: string
  /** False while the writer should wait for `drain`, and after the end. */
  readonly writable: boolean
  /** True when each chunk it delivers has its memory to itself, so that whoever is done with one may free it. */
  readonly ownsChunks: boolean
  /** Starts delivery to `handler`, or hands the pipe to another one. */
  start(handler: PipeHandler): void
  /** Writes the parts as one; false: wait for `drain`. */
  write(parts: readonly Uint8Array[]): boolean
  pause(): void
  resume(): void
  /** Inside `data`, when `turns.over`: takes the rest of the chunk back, and hands it on again. Absent: it takes no turns. */
  takeBack?(rest: Uint8Array): void
  /** Ends after what was written has gone out. */
  end(): void
  /** Ends at once. */
  destroy(): void
}
