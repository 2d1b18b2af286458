/**
 * An order: what an authority wants one peer to do, signed.
 *
 *   order   = a signed statement, see statement.ts, with the prefix "peerline order 1" 0x00
 *   payload = CBOR { to 32 bytes, sequence, issued, expires, task bytes }
 *
 * - It is checked in a fixed order: size, shape of the envelope, signature, recipient, expiry. The task stays bytes: whoever
 *   reads it does so when all of that, and the right to give orders (authorities.ts), has been looked at.
 * - It is for one recipient, so it cannot be shown to another.
 * - `sequence` grows with every order of an authority to a recipient; the holder of the last one refuses copies.
 *
 * Limits: a task of 64 KiB, a life of a day.
 */
import { PeerlineError } from '../errors.ts'
import { type Identity, type PeerId, PUBLIC_KEY_BYTES, peerIdFromPublicKey, publicKeyOf } from '../identity/index.ts'
import { claimedSigner, kindOf, type Life, openStatement, signStatement } from './statement.ts'

/** Bytes of a task: settings and short messages; goods travel as streams. */
export const MAX_TASK_BYTES = 65_536

/** ms, a day: long enough for a peer that is off at night; how long a sequence must be remembered. */
export const MAX_ORDER_LIFE_MS = 24 * 3_600_000

/** ms that an order lives by default: it is given to peers that are there, and may be tried a few times. */
const ORDER_LIFE_MS = 300_000

const KIND = kindOf('order', {
  // beside the task: a key, three numbers, and names
  maxPayloadBytes: MAX_TASK_BYTES + 128,
  maxLifeMs: MAX_ORDER_LIFE_MS,
})

/** A verified order. */
export interface Order extends Life {
  /** Who gives it: proven, but not by that allowed to. */
  readonly from: PeerId
  readonly to: PeerId
  /** 1 or more; above that of every earlier order of `from` to `to`. */
  readonly sequence: number
  /** Not decoded. */
  readonly task: Uint8Array
}

export interface SignOrderOptions {
  readonly to: PeerId
  /** 1 or more; above that of every earlier order to `to`. */
  readonly sequence: number
  /** At most 65,536 bytes. */
  readonly task: Uint8Array
  /** ms, whole, up to a day. @default 300_000 */
  readonly lifeMs?: number
  /** ms since 1970. @default Date.now() */
  readonly now?: number
}

/**
 * Signs an order.
 * @throws PeerlineError `ERR_PEERLINE_INVALID` for a recipient, a sequence or a life that is none; `ERR_PEERLINE_TOO_LARGE`
 */
export function signOrder(identity: Identity, options: SignOrderOptions): Uint8Array {
  const { to, sequence, task, lifeMs = ORDER_LIFE_MS, now = Date.now() } = options
  if (!Number.isSafeInteger(sequence) || sequence < 1) {
    throw new PeerlineError(
      'ERR_PEERLINE_INVALID',
      `the sequence of an order is a whole number from 1, not ${sequence}`,
    )
  }
  if (!(task instanceof Uint8Array)) throw new PeerlineError('ERR_PEERLINE_INVALID', 'the task of an order is bytes')
  if (task.length > MAX_TASK_BYTES) {
    const message = `the task of an order has ${task.length} bytes, the limit is ${MAX_TASK_BYTES}`
    throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', message)
  }
  const issuedAt = Math.floor(now)
  return signStatement(identity, KIND, {
    to: publicKeyOf(to),
    sequence,
    task,
    issuedAt,
    expiresAt: issuedAt + lifeMs,
  })
}

/** Who is said to have given an order: not proven. @throws PeerlineError as {@link openOrder}, but for what is inside */
export function claimedAuthority(bytes: Uint8Array): PeerId {
  return claimedSigner(bytes, KIND)
}

/**
 * Opens an order that was given to `self`. Whether who gave it may do so is not asked here: see `Authorities.verify`.
 *
 * @param options.now ms since 1970. @default Date.now()
 * @throws PeerlineError `ERR_PEERLINE_TOO_LARGE`; `ERR_PEERLINE_VERSION`; `ERR_PEERLINE_RECORD` when it is malformed or its
 *   signature is wrong; `ERR_PEERLINE_WRONG_PEER` when it is for another; `ERR_PEERLINE_EXPIRED`, also for one from the future
 */
export function openOrder(bytes: Uint8Array, options: { self: PeerId; now?: number }): Order {
  const { self, now = Date.now() } = options
  return openStatement(bytes, KIND, {
    now,
    read: (f) => ({
      to: peerIdFromPublicKey(f.bytes('to', { length: PUBLIC_KEY_BYTES })),
      sequence: f.integer('sequence', { min: 1 }),
      task: f.bytes('task', { max: MAX_TASK_BYTES }),
    }),
    check: ({ to }) => {
      if (to === self) return
      const recover = 'Sign an order for each recipient.'
      throw new PeerlineError('ERR_PEERLINE_WRONG_PEER', 'the order is for another peer', { recover })
    },
  })
}
