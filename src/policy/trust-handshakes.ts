/**
 * Ready trust handshakes.
 *
 *   secretHandshake   both sides know a secret
 *       ours    /peerline/trust/1     nonce 32 bytes
 *       theirs  HMAC-SHA256( secret, "peerline trust 1" 0x00 | asker 32 | answerer 32 | nonce 32 )        RFC 2104
 *
 *   vouchedBy         an authority has signed that the peer is trusted
 *       ours    /peerline/voucher/1   empty
 *       theirs  a signed statement, see statement.ts, "peerline voucher 1" 0x00, CBOR { peer 32 bytes, issued, expires }
 *
 *   allOf             each of several
 *
 * - Both keys are those the session has proven, so that an answer serves nobody else: it cannot be fetched from a third peer
 *   that knows the secret, nor be thrown back at who asks, nor used again.
 * - Whoever is let in may ask for an answer, and try guesses on it at leisure: a secret is random, not a word to remember.
 * - The answer says nothing of who asks. That side does its own handshake, or none.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { concatBytes, copyBytes } from '../bytes/index.ts'
import { invalid, PeerlineError } from '../errors.ts'
import { type Identity, type PeerId, PUBLIC_KEY_BYTES, peerIdFromPublicKey, publicKeyOf } from '../identity/index.ts'
import { kindOf, type Life, openStatement, signStatement } from './statement.ts'
import type { ReadyHandshake } from './trust-options.ts'

export const SECRET_PROTOCOL = '/peerline/trust/1'
export const VOUCHER_PROTOCOL = '/peerline/voucher/1'

/** Bytes of a secret: 128 bits cannot be guessed. */
export const MIN_SECRET_BYTES = 16
/** Bytes: a longer one adds nothing, and is a file by mistake. */
const MAX_SECRET_BYTES = 1_024
/** Bytes: never met twice. */
const NONCE_BYTES = 32
/** Bytes of an HMAC-SHA256. */
const MAC_BYTES = 32

const PREFIX = new TextEncoder().encode('peerline trust 1\0')

/** ms, 90 days: it cannot be taken back before its end. */
export const MAX_VOUCHER_LIFE_MS = 90 * 24 * 3_600_000

// bytes: a key, two numbers and names
const VOUCHER = kindOf('voucher', { maxPayloadBytes: 256, maxLifeMs: MAX_VOUCHER_LIFE_MS })
/** Bytes of the largest voucher. */
export const MAX_VOUCHER_BYTES = VOUCHER.maxBytes

/** Handshakes of `allOf`. */
const MAX_PARTS = 16

/**
 * Passes who knows the secret, and proves it to others that we know it.
 * @param secret 16 to 1,024 random bytes; a text counts as UTF-8, and has to be as hard to guess
 * @throws PeerlineError `ERR_PEERLINE_INVALID` for one that is too short or too long
 */
export function secretHandshake(secret: Uint8Array | string): ReadyHandshake {
  const key = secretBytes(secret)
  const proof = (asker: PeerId, answerer: PeerId, nonce: Uint8Array): Uint8Array =>
    createHmac('sha256', key)
      .update(concatBytes([PREFIX, publicKeyOf(asker), publicKeyOf(answerer), nonce]))
      .digest()
  return {
    run: async ({ self, peer, request }) => {
      const nonce = new Uint8Array(randomBytes(NONCE_BYTES))
      const answer = await request(SECRET_PROTOCOL, nonce, { maxResponseBytes: MAC_BYTES })
      return answer.length === MAC_BYTES && timingSafeEqual(answer, proof(self, peer, nonce))
    },
    answers: {
      [SECRET_PROTOCOL]: (nonce, { self, from }) => {
        if (nonce.length !== NONCE_BYTES) {
          throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `${SECRET_PROTOCOL} asks with ${NONCE_BYTES} bytes`)
        }
        return proof(from, self, nonce)
      },
    },
  }
}

function secretBytes(secret: unknown): Uint8Array {
  const bytes = typeof secret === 'string' ? new TextEncoder().encode(secret) : secret
  if (bytes instanceof Uint8Array && bytes.length >= MIN_SECRET_BYTES && bytes.length <= MAX_SECRET_BYTES) {
    return copyBytes(bytes)
  }
  throw invalid(`a secret has ${MIN_SECRET_BYTES} to ${MAX_SECRET_BYTES} random bytes`)
}

/** What an authority says of a peer. */
export interface Voucher extends Life {
  readonly from: PeerId
  readonly peer: PeerId
}

/**
 * Signs that a peer is trusted.
 * @param options `lifeMs`: whole, up to 90 days; `now`: ms since 1970. @default Date.now()
 * @throws PeerlineError `ERR_PEERLINE_INVALID`
 */
export function signVoucher(identity: Identity, options: { peer: PeerId; lifeMs: number; now?: number }): Uint8Array {
  const { peer, lifeMs, now = Date.now() } = options
  const issuedAt = Math.floor(now)
  return signStatement(identity, VOUCHER, { peer: publicKeyOf(peer), issuedAt, expiresAt: issuedAt + lifeMs })
}

/**
 * Opens a voucher. Whether who signed it may vouch for anybody is not asked here.
 * @throws PeerlineError `ERR_PEERLINE_TOO_LARGE`, `ERR_PEERLINE_VERSION`, `ERR_PEERLINE_RECORD`, `ERR_PEERLINE_EXPIRED`
 */
export function openVoucher(bytes: Uint8Array, { now = Date.now() }: { now?: number } = {}): Voucher {
  return openStatement(bytes, VOUCHER, {
    now,
    read: (f) => ({ peer: peerIdFromPublicKey(f.bytes('peer', { length: PUBLIC_KEY_BYTES })) }),
  })
}

/**
 * Passes whom an authority vouches for, and shows our own voucher to others.
 * @param authorities such as `Authorities`
 * @param options `voucher`: ours, as `signVoucher` gave it to our peer id. @default none is shown
 */
export function vouchedBy(
  authorities: { has(peer: PeerId): boolean },
  options: { voucher?: Uint8Array; now?: () => number } = {},
): ReadyHandshake {
  const { voucher, now = Date.now } = options
  return {
    run: async ({ peer, request }) => {
      const bytes = await request(VOUCHER_PROTOCOL, new Uint8Array(0), { maxResponseBytes: MAX_VOUCHER_BYTES })
      const shown = openVoucher(bytes, { now: now() })
      return shown.peer === peer && authorities.has(shown.from)
    },
    answers: voucher === undefined ? {} : { [VOUCHER_PROTOCOL]: () => voucher },
  }
}

/** Passes who passes each of these, one after the other. @throws PeerlineError `ERR_PEERLINE_INVALID` */
export function allOf(...parts: readonly ReadyHandshake[]): ReadyHandshake {
  if (parts.length === 0 || parts.length > MAX_PARTS) throw invalid(`allOf takes 1 to ${MAX_PARTS} handshakes`)
  const answers = parts.flatMap((part) => Object.entries(part.answers))
  if (new Set(answers.map(([protocol]) => protocol)).size < answers.length) {
    throw invalid('two of these handshakes use the same protocol')
  }
  return {
    run: async (context) => {
      for (const { run } of parts) if ((await run(context)) !== true) return false
      return true
    },
    answers: Object.fromEntries(answers),
  }
}
