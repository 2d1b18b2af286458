/**
 * What tests of paths and pipes share: a handler that writes down what it is told, messages to send, and a wait that
 * counts turns of the event loop instead of time.
 */
import { expect } from 'vitest'
import { isPeerlineError, type PeerlineError } from '../errors.ts'
import type { PathHandler } from './path.ts'

/** A handler that keeps what it was told, and says when it was told something after the end. */
export class Recorder implements PathHandler {
  readonly messages: Uint8Array[] = []
  readonly closes: (PeerlineError | undefined)[] = []
  drains = 0
  lateCalls = 0
  /** Runs inside `message`. */
  onMessage: ((message: Uint8Array) => void) | undefined
  onDrain: (() => void) | undefined
  readonly #waiting = new Set<() => void>()

  message(message: Uint8Array): void {
    this.#told()
    this.messages.push(Uint8Array.from(message))
    this.onMessage?.(message)
    this.#wake()
  }

  drain(): void {
    this.#told()
    this.drains++
    this.onDrain?.()
    this.#wake()
  }

  close(error: PeerlineError | undefined): void {
    this.#told()
    this.closes.push(error)
    this.#wake()
  }

  /** Waits until `done()`; the deadline is the test's own. */
  until(done: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      const look = (): void => {
        if (!done()) return
        this.#waiting.delete(look)
        resolve()
      }
      this.#waiting.add(look)
      look()
    })
  }

  count(messages: number): Promise<void> {
    return this.until(() => this.messages.length >= messages)
  }

  /** Waits for the end: the code it came with, or `in order`. */
  async end(): Promise<string> {
    await this.until(() => this.closes.length > 0)
    const error = this.closes[0]
    if (error === undefined) return 'in order'
    return isPeerlineError(error) ? error.code : `not one of our errors: ${String(error)}`
  }

  #told(): void {
    if (this.closes.length > 0) this.lateCalls++
  }

  #wake(): void {
    for (const look of this.#waiting) look()
  }
}

/** Lets everything that is under way in this process move on by `n` turns of the event loop. */
export async function turns(n: number): Promise<void> {
  for (let i = 0; i < n; i++) await new Promise((resolve) => setImmediate(resolve))
}

/** Turns without any change after which nothing moves any more: on loopback a byte needs two per hop. */
export const QUIET_TURNS = 30

/** Waits until `value()` stays the same. */
export async function quiet(value: () => number): Promise<void> {
  for (let last = Number.NaN, same = 0; same < QUIET_TURNS; await turns(1)) {
    same = value() === last ? same + 1 : 0
    last = value()
  }
}

/** A message of `size` bytes that differs from every other one. */
export function sample(size: number, seed = size): Buffer {
  const message = Buffer.alloc(size)
  for (let i = 0; i < size; i++) message[i] = seed * 131 + i * 31 + (i >> 8)
  return message
}

/** `messages` as they look on the pipe. */
export function framed(...messages: readonly Uint8Array[]): Buffer {
  return Buffer.concat(messages.flatMap((message) => [lengthOf(message.length), message]))
}

/** The length that stands before a message of `bytes` bytes. */
export function lengthOf(bytes: number): Buffer {
  const head = Buffer.alloc(4)
  head.writeUInt32BE(bytes)
  return head
}

/** Compares without printing megabytes. */
export function expectSame(got: readonly Uint8Array[], want: readonly Uint8Array[]): void {
  expect(got.map((message) => message.length)).toEqual(want.map((message) => message.length))
  expect(got.findIndex((message, i) => Buffer.compare(message, want[i]!) !== 0)).toBe(-1)
}
