/**
 * The handshake of the Noise Protocol Framework, revision 34 (https://noiseprotocol.org), suite 25519_AESGCM_SHA256.
 *
 *     IK: the initiator knows the responder       XX: nobody knows anybody
 *       <- s                                        -> e
 *       ...                                         <- e, ee, s, es
 *       -> e, es, s, ss                             -> s, se
 *       <- e, ee, se
 *
 * What IK gives (section 7.7): the first message is readable by the responder alone, and proves the initiator, but it can
 * be replayed, and who steals the responder's static key later can read it. From the second message on there is
 * forward secrecy. What uses this room adds expiry and a replay cache for the first message, see `offer.ts`.
 *
 * Invariants:
 * - every failure is ERR_PEERLINE_HANDSHAKE, and after one every call throws: there is no half state to go on from;
 * - a message out of turn is a failure too;
 * - no message, sent or received, has more than 65,535 bytes (section 3).
 *
 * Proven with the published vectors in `noise.vectors.json`.
 */

import { concatBytes, copyBytes } from '../bytes/bytes.ts'
import { Cursor } from '../bytes/cursor.ts'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { generateKeyPair, KEY_BYTES, type KeyPair, x25519 } from '../identity/curve.ts'
import { SymmetricState } from './symmetric-state.ts'

/** Bytes: the largest Noise message (section 3). */
export const MAX_NOISE_BYTES = 65_535

export type NoisePattern = 'IK' | 'XX'

type Token = 'e' | 's' | 'ee' | 'es' | 'se' | 'ss'

const MESSAGES: Readonly<Record<NoisePattern, readonly (readonly Token[])[]>> = {
  IK: [
    ['e', 'es', 's', 'ss'],
    ['e', 'ee', 'se'],
  ],
  XX: [['e'], ['e', 'ee', 's', 'es'], ['s', 'se']],
}

export interface NoiseOptions {
  readonly pattern: NoisePattern
  readonly initiator: boolean
  /** Bytes that both sides must agree on; another prologue fails like a forged message. */
  readonly prologue: Uint8Array
  readonly staticKey: KeyPair
  /** The responder's X25519 static key: needed by the initiator of IK, and by nobody else. */
  readonly remoteStatic?: Uint8Array
  /** A fixed ephemeral key, for published test vectors only. Using one twice gives the messages away. */
  readonly ephemeral?: KeyPair
}

/** One side of one handshake. */
export class NoiseHandshake {
  readonly pattern: NoisePattern
  readonly initiator: boolean
  readonly #options: NoiseOptions
  #symmetric: SymmetricState
  readonly #static: KeyPair
  #ephemeral: KeyPair | undefined
  #remoteStatic: Uint8Array | undefined
  #remoteEphemeral: Uint8Array | undefined
  /** Messages written and read so far. */
  #step = 0
  #dead = false

  constructor(options: NoiseOptions) {
    const { pattern, initiator, prologue, staticKey, remoteStatic, ephemeral } = options
    const known = pattern === 'IK' && initiator
    if (known !== (remoteStatic !== undefined) || (remoteStatic !== undefined && remoteStatic.length !== KEY_BYTES)) {
      throw failure('the initiator of IK, and only it, needs a remote static key of 32 bytes')
    }
    this.#options = options
    this.pattern = pattern
    this.initiator = initiator
    this.#static = staticKey
    this.#remoteStatic = remoteStatic === undefined ? undefined : copyBytes(remoteStatic)
    this.#ephemeral = ephemeral
    this.#symmetric = new SymmetricState(`Noise_${pattern}_25519_AESGCM_SHA256`)
    this.#symmetric.mixHash(prologue)
    // the pre-message of IK: <- s
    if (pattern === 'IK') this.#symmetric.mixHash(remoteStatic ?? staticKey.publicKey)
  }

  /** The X25519 static key of the other side. It is proven once {@link complete}, and in IK once message 1 was read. */
  get remoteStatic(): Uint8Array | undefined {
    this.#checkAlive()
    return this.#remoteStatic?.slice()
  }

  /** True once the last message was written or read, on a handshake that did not fail. */
  get complete(): boolean {
    return !this.#dead && this.#step === MESSAGES[this.pattern].length
  }

  /** The handshake hash: the same on both sides and in no other handshake (section 11.2). Only once complete. */
  get hash(): Uint8Array {
    this.#checkComplete()
    return this.#symmetric.hash
  }

  /** The next message of this side, with `payload` sealed as far as the pattern has keys by then. */
  writeMessage(payload: Uint8Array): Uint8Array {
    return this.#attempt(() => {
      const parts: Uint8Array[] = []
      for (const token of this.#takeTurn(true)) {
        if (token === 'e') {
          this.#ephemeral ??= generateKeyPair()
          parts.push(this.#ephemeral.publicKey)
          this.#symmetric.mixHash(this.#ephemeral.publicKey)
        } else if (token === 's') {
          parts.push(this.#symmetric.encryptAndHash(this.#static.publicKey))
        } else this.#mix(token)
      }
      parts.push(this.#symmetric.encryptAndHash(payload))
      const message = concatBytes(parts)
      if (message.length > MAX_NOISE_BYTES) throw failure(`the payload makes a message of ${message.length} bytes`)
      return message
    })
  }

  /** The payload of the other side's next message. */
  readMessage(message: Uint8Array): Uint8Array {
    return this.#attempt(() => {
      if (message.length > MAX_NOISE_BYTES) throw failure(`a message of ${message.length} bytes is too long`)
      const cursor = new Cursor(message)
      for (const token of this.#takeTurn(false)) {
        if (token === 'e') {
          this.#remoteEphemeral = copyBytes(cursor.readBytes(KEY_BYTES))
          this.#symmetric.mixHash(this.#remoteEphemeral)
        } else if (token === 's') {
          this.#remoteStatic = this.#symmetric.decryptAndHash(cursor.readBytes(KEY_BYTES + this.#symmetric.overhead))
        } else this.#mix(token)
      }
      return this.#symmetric.decryptAndHash(cursor.readRest())
    })
  }

  /** The raw 32-byte keys of the transport messages of this side and of the other (section 5.2, Split). */
  split(): { send: Uint8Array; receive: Uint8Array } {
    this.#checkComplete()
    const [initiators, responders] = this.#symmetric.split()
    return this.initiator ? { send: initiators, receive: responders } : { send: responders, receive: initiators }
  }

  /**
   * A secret of `length` bytes for another use, the same on both sides: HKDF-SHA256 (RFC 5869) over the final chaining
   * key, with the handshake hash as salt and `label` as info. Tells nothing of the keys of {@link split} or of other labels.
   */
  exportSecret(label: string, length = 32): Uint8Array {
    this.#checkComplete()
    return this.#symmetric.exportSecret(label, length)
  }

  /**
   * A copy to try a message on. Only for reading the last message of the pattern: two copies that each wrote one would
   * use one ephemeral key, and the same nonces, twice.
   */
  clone(): NoiseHandshake {
    this.#checkAlive()
    const left = MESSAGES[this.pattern].length - this.#step
    if (left !== 1 || this.#isMyTurn()) throw failure('only a handshake that waits for its last message is copied')
    const copy = new NoiseHandshake(this.#options)
    copy.#symmetric = this.#symmetric.clone()
    copy.#ephemeral = this.#ephemeral
    copy.#remoteStatic = this.#remoteStatic
    copy.#remoteEphemeral = this.#remoteEphemeral
    copy.#step = this.#step
    return copy
  }

  #mix(token: 'ee' | 'es' | 'se' | 'ss'): void {
    // The first letter is the initiator's key, the second the responder's (section 5.3).
    const mine = this.initiator ? token[0] : token[1]
    const theirs = this.initiator ? token[1] : token[0]
    const own = mine === 'e' ? this.#ephemeral : this.#static
    const other = theirs === 'e' ? this.#remoteEphemeral : this.#remoteStatic
    if (own === undefined || other === undefined) throw failure('a key of the handshake is missing')
    this.#symmetric.mixKey(x25519(own.privateKey, other))
  }

  #isMyTurn(): boolean {
    return (this.#step % 2 === 0) === this.initiator
  }

  #takeTurn(writing: boolean): readonly Token[] {
    const tokens = MESSAGES[this.pattern][this.#step]
    if (tokens === undefined) throw failure('the handshake is over')
    if (this.#isMyTurn() !== writing) throw failure(`it is the ${writing ? 'other' : 'own'} side's turn`)
    this.#step++
    return tokens
  }

  #attempt(act: () => Uint8Array): Uint8Array {
    this.#checkAlive()
    try {
      return act()
    } catch (error) {
      this.#dead = true
      this.#ephemeral = undefined
      const said = asPeerlineError(error, 'ERR_PEERLINE_HANDSHAKE', 'the handshake failed')
      throw said.code === 'ERR_PEERLINE_HANDSHAKE' ? said : failure(`the handshake failed: ${said.message}`, said)
    }
  }

  #checkAlive(): void {
    if (this.#dead) throw failure('the handshake has failed before')
  }

  #checkComplete(): void {
    this.#checkAlive()
    if (!this.complete) throw failure('the handshake is not complete')
  }
}

function failure(message: string, cause?: unknown): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_HANDSHAKE', message, { cause })
}
