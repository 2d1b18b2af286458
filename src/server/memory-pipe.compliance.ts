/**
 * Two ends of a byte pipe in memory, for tests: what one writes the other reads, in order, as promises settle.
 *
 * - A reader that is paused is told nothing; its writer is asked to wait from {@link MemoryPipe.highWater} bytes on.
 * - An end in order is seen once everything before it was read, and ends both sides, as TCP without half-close.
 */
import type { PeerlineError } from '../errors.ts'
import type { Pipe, PipeHandler } from '../path/index.ts'

export class MemoryPipe implements Pipe {
  readonly ownsChunks = false
  readonly remote = 'memory'
  /** Bytes that may wait for this end's reader before the other end is asked to wait. */
  highWater = 65_536
  paused = false
  /** Ended or destroyed here. */
  ended = false
  /** True when the end was told, or would be if anybody listened. */
  closed = false
  /** Bytes this end has written. */
  written = 0
  /** Largest number of bytes that waited for this end's reader. */
  mostWaiting = 0
  #other: MemoryPipe | undefined
  #handler: PipeHandler | undefined
  #waiting: Uint8Array[] = []
  #waitingBytes = 0
  #otherEnded = false
  #blocked = false
  #error: PeerlineError | undefined

  static pair(): [MemoryPipe, MemoryPipe] {
    const [a, b] = [new MemoryPipe(), new MemoryPipe()]
    a.#other = b
    b.#other = a
    return [a, b]
  }

  get writable(): boolean {
    const other = this.#other!
    return !this.ended && !this.closed && other.#waitingBytes < other.highWater
  }

  start(handler: PipeHandler): void {
    this.#handler = handler
    if (this.closed) queueMicrotask(() => handler.close(this.#error))
    else this.#soon()
  }

  write(parts: readonly Uint8Array[]): boolean {
    if (this.ended || this.closed) return false
    const other = this.#other!
    for (const part of parts) {
      other.#waiting.push(new Uint8Array(part))
      other.#waitingBytes += part.length
      this.written += part.length
    }
    other.mostWaiting = Math.max(other.mostWaiting, other.#waitingBytes)
    other.#soon()
    this.#blocked = !this.writable
    return this.writable
  }

  pause(): void {
    this.paused = true
  }

  resume(): void {
    this.paused = false
    this.#soon()
  }

  end(): void {
    if (this.ended) return
    this.ended = true
    this.#other!.#otherEnded = true
    this.#other!.#soon()
  }

  destroy(): void {
    this.end()
    this.#close(undefined)
  }

  #soon(): void {
    queueMicrotask(() => this.#read())
  }

  #read(): void {
    while (this.#handler !== undefined && !this.paused && !this.closed) {
      const chunk = this.#waiting.shift()
      if (chunk === undefined) break
      this.#waitingBytes -= chunk.length
      this.#handler.data(chunk)
      this.#other!.#drain()
    }
    if (!this.#otherEnded || this.#waiting.length > 0 || this.paused || this.closed) return
    this.#close(undefined)
    this.#other!.#close(undefined)
  }

  #drain(): void {
    if (!this.#blocked || !this.writable) return
    this.#blocked = false
    this.#handler?.drain()
  }

  #close(error: PeerlineError | undefined): void {
    if (this.closed) return
    this.closed = true
    this.ended = true
    this.#error = error
    this.#waiting = []
    // Never from inside the call that ended it, as with sockets.
    queueMicrotask(() => this.#handler?.close(this.#error))
  }
}

/** Lets everything that only waits for promises happen; real and fake timers stand still. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 200; turn++) await Promise.resolve()
}
