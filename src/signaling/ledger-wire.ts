/**
 * What the messages of a ledger's topics hold where they carry offers and answers. The envelope around them is
 * `ledger/envelope.ts`.
 *
 *     to the callee's stdin     OFFER    offer …               signed with a key of that moment: the offer says, sealed, who it is
 *     from its stdout           ANSWER   tag 16 | answer …     signed by the callee
 *
 *     tag       the first 16 bytes of SHA-256 of the offer that is answered
 *
 * The answer goes to the callee's own topic: a caller needs none, and nobody else learns who has called.
 */
import { createHash } from 'node:crypto'
import { concatBytes, copyBytes, toHex } from '../bytes/index.ts'
import { MAX_ENVELOPE_BYTES } from '../ledger/envelope.ts'
import type { Ledger } from '../ledger/ledger.ts'
import { OFFER_TAG_BYTES } from '../ledger/trouble.ts'
import { MAX_SIGNAL_BYTES } from './signaling.ts'

/** What the answer to this offer will name it by: 16 bytes. */
export function tagOf(offer: Uint8Array): Uint8Array {
  return new Uint8Array(createHash('sha256').update(offer).digest()).slice(0, OFFER_TAG_BYTES)
}

export function encodeAnswer(tag: Uint8Array, answer: Uint8Array): Uint8Array {
  return concatBytes([tag, answer])
}

/** Reads the payload of an ANSWER, the tag in hex; undefined for what is none. The answer keeps its own memory. */
export function readAnswer(payload: Uint8Array): { readonly tag: string; readonly answer: Uint8Array } | undefined {
  if (payload.length < OFFER_TAG_BYTES) return undefined
  return { tag: toHex(payload.subarray(0, OFFER_TAG_BYTES)), answer: copyBytes(payload.subarray(OFFER_TAG_BYTES)) }
}

/** Bytes of the largest signal that a ledger carries, be it an offer or an answer. */
export function maxSignalBytes({ maxMessageBytes }: Ledger): number {
  return Math.min(MAX_SIGNAL_BYTES, maxMessageBytes - MAX_ENVELOPE_BYTES - OFFER_TAG_BYTES)
}
