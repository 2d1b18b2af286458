/**
 * Paths through a relay: circuits.
 *
 * Each side opens its own connection to the relay and says which circuit it wants; the relay checks the token, joins
 * the two connections and copies bytes from then on, blind.
 *
 *     side 0 (minted the token)        relay                     side 1 (was given it)
 *     |-- CIRCUIT token ------------------>|<------------------ CIRCUIT token --|
 *     |<-- JOINED -------------------------|-------------------------- JOINED ->|
 *     |== framed messages, copied, not read ====================================|
 *
 *     CIRCUIT = version, kind, reservation 16, circuit 16, side 1, expires 8 (ms since the epoch), MAC 32
 *     MAC     = HMAC-SHA256(secret of the reservation, 'peerline/1 circuit' and all fields before it)
 *
 * - The peer with the reservation mints both tokens itself; the relay learns no identities from them.
 * - Either side may send before JOINED: the relay holds back its reading until both are there.
 * - A token opens one side of one circuit once, before it expires.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { copyBytes, MessageKind, PROTOCOL_VERSION, readPreamble } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
import { FramedPath } from './framing.ts'
import type { PathHandler } from './path.ts'
import type { Pipe } from './pipe.ts'

/** Bytes of a CIRCUIT message. */
export const CIRCUIT_BYTES = 2 + 16 + 16 + 1 + 8 + 32
const MAC_BYTES = 32
const LABEL = 'peerline/1 circuit'

/** Why a relay refuses a circuit; the byte after version and kind of a REFUSED message. */
export const RefusedCode = { UNKNOWN: 1, TOKEN: 2, EXPIRED: 3, QUOTA: 4, BUSY: 5, ABSENT: 6 } as const

/** Which end of a circuit: 0 minted the token, 1 was given it. */
export type CircuitSide = 0 | 1

/** What a CIRCUIT message says. */
export interface CircuitClaim {
  /** 16 bytes. */
  readonly reservation: Uint8Array
  /** 16 bytes. */
  readonly circuit: Uint8Array
  readonly side: CircuitSide
  /** ms since the epoch. */
  readonly expiresAt: number
}

/** Makes the two CIRCUIT messages of a new circuit: `[own, theirs]`. */
export function mintCircuit(reservation: Uint8Array, secret: Uint8Array, expiresAt: number): [Uint8Array, Uint8Array] {
  const circuit = randomBytes(16)
  const mint = (side: CircuitSide): Uint8Array => {
    const token = Buffer.alloc(CIRCUIT_BYTES)
    token[0] = PROTOCOL_VERSION
    token[1] = MessageKind.CIRCUIT
    token.set(reservation, 2)
    token.set(circuit, 18)
    token[34] = side
    token.writeBigUInt64BE(BigInt(expiresAt), 35)
    token.set(mac(token, secret), CIRCUIT_BYTES - MAC_BYTES)
    return token
  }
  return [mint(0), mint(1)]
}

function mac(token: Uint8Array, secret: Uint8Array): Uint8Array {
  return createHmac('sha256', secret)
    .update(LABEL)
    .update(token.subarray(0, CIRCUIT_BYTES - MAC_BYTES))
    .digest()
}

/**
 * Reads a CIRCUIT message; its MAC is checked by {@link verifyCircuit} once the reservation's secret is found.
 * @throws PeerlineError `ERR_PEERLINE_PROTOCOL`
 */
export function readCircuit(token: Uint8Array): CircuitClaim {
  const side = token[34]
  if (token.length !== CIRCUIT_BYTES || (side !== 0 && side !== 1)) {
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'a circuit message is malformed')
  }
  const view = Buffer.from(token.buffer, token.byteOffset, token.length)
  return {
    reservation: copyBytes(token.subarray(2, 18)),
    circuit: copyBytes(token.subarray(18, 34)),
    side,
    expiresAt: Number(view.readBigUInt64BE(35)),
  }
}

/** True when the token was minted with `secret`. */
export function verifyCircuit(token: Uint8Array, secret: Uint8Array): boolean {
  return (
    token.length === CIRCUIT_BYTES && timingSafeEqual(mac(token, secret), token.subarray(CIRCUIT_BYTES - MAC_BYTES))
  )
}

/** The words for a refusal by a relay. */
export function refusalError(relay: string, code: number): PeerlineError {
  switch (code) {
    case RefusedCode.ABSENT:
      return new PeerlineError('ERR_PEERLINE_TIMEOUT', `${relay}: the other side did not come`)
    case RefusedCode.QUOTA:
      return new PeerlineError('ERR_PEERLINE_LIMIT', `${relay}: the reservation's quota is used up`)
    case RefusedCode.BUSY:
      return new PeerlineError('ERR_PEERLINE_BUSY', `${relay}: the relay is full`)
    case RefusedCode.EXPIRED:
      return new PeerlineError('ERR_PEERLINE_EXPIRED', `${relay}: the circuit's token has expired`)
    default:
      return new PeerlineError('ERR_PEERLINE_DENIED', `${relay}: the relay refuses the circuit`)
  }
}

/** A path through a relay: framed messages, after the relay's own first one. */
export class RelayPath extends FramedPath {
  /** True once the relay has joined both sides. */
  joined = false
  readonly #relay: string

  /** Sends `token` on `pipe` at once. */
  constructor(pipe: Pipe, relay: string, token: Uint8Array) {
    super('relay', pipe)
    this.#relay = relay
    super.send([token])
  }

  override get remote(): string {
    return `relay ${this.#relay}`
  }

  override start(handler: PathHandler): void {
    if (this.joined) return super.start(handler)
    super.start({
      message: (message) => this.#answer(message, handler),
      drain: () => handler.drain(),
      close: (error) => handler.close(error),
    })
  }

  /** A relay that ends before it has joined both sides leaves no circuit behind, however orderly it does so. */
  protected override cutShort(): PeerlineError | undefined {
    if (this.joined) return super.cutShort()
    return new PeerlineError('ERR_PEERLINE_UNREACHABLE', `${this.#relay} ended before it joined the circuit`)
  }

  #answer(message: Uint8Array, handler: PathHandler): void {
    try {
      const { kind } = readPreamble(message)
      if (kind === MessageKind.REFUSED && message.length === 3) throw refusalError(this.#relay, message[2]!)
      if (kind !== MessageKind.JOINED || message.length !== 2) {
        throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `${this.#relay} answered a circuit with something else`)
      }
    } catch (error) {
      this.destroy(error as PeerlineError)
      return
    }
    this.joined = true
    super.start(handler)
  }
}
