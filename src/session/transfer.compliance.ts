/**
 * A transfer for tests: random bytes both ways on one stream between the two sessions of a `World`.
 */
import { expect } from 'vitest'
import { readAll, type Side, World, type WorldOptions } from './memory-path.compliance.ts'
import type { Stream } from './stream.ts'

/** Both directions of one stream at once. */
export interface Transfer {
  /** What each side has read to the end. */
  readonly read: [Uint8Array | undefined, Uint8Array | undefined]
  readonly failed: unknown[]
}

async function send(stream: Stream, bytes: Uint8Array, pauseMs: number): Promise<void> {
  let at = 0
  for (const size of SIZES) {
    if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs))
    await stream.write(bytes.subarray(at, at + size))
    at += size
  }
  await stream.end(bytes.subarray(at))
}

/** Small writes and large ones in turn, and some that share a record. */
const SIZES = [10, 5_000, 1, 70_000, 300, 4_096, 4_097] as const
/** Bytes of one direction's payload. */
export const TOTAL = SIZES.reduce<number>((sum, size) => sum + size, 0) + 99

/** A world in which every stream that session 1 is given sends `payload[1]` and reads what session 0 sends. */
export function transferWorld(
  payload: readonly [Uint8Array, Uint8Array],
  { pauseMs = 0, ...options }: WorldOptions & { pauseMs?: number } = {},
): Transfer & { readonly world: World } {
  const transfer: Transfer = { read: [undefined, undefined], failed: [] }
  const run = (stream: Stream, side: Side) => {
    const failed = (error: unknown) => transfer.failed.push(error)
    readAll(stream).then((bytes) => {
      transfer.read[side] = bytes
    }, failed)
    send(stream, payload[side], pauseMs).catch(failed)
  }
  const world = new World({ onStream: run, ...options })
  world.sessions[0].open('/transfer/1').then((stream) => run(stream, 0))
  return Object.assign(transfer, { world })
}

export function arrived({ read, failed }: Transfer): boolean {
  return failed.length > 0 || (read[0] !== undefined && read[1] !== undefined)
}

export function expectExact({ read, failed }: Transfer, payload: readonly [Uint8Array, Uint8Array]): void {
  expect(failed).toEqual([])
  expect(Buffer.compare(read[0]!, payload[1])).toBe(0)
  expect(Buffer.compare(read[1]!, payload[0])).toBe(0)
}
