/**
 * The datagrams of UDP hole punching. All have the same length, so that an answer is never larger than what asked for it.
 *
 *     0        8      9     10       12      16          24         40
 *     +--------+------+-----+--------+-------+-----------+----------+
 *     | tag    | type | how | rtt    | id    | cookie    | MAC      |
 *     +--------+------+-----+--------+-------+-----------+----------+
 *
 *     type     1 probe: do you hear me here?   2 answer: yes
 *              3 nominate: let us take this pair   4 accept: it is taken
 *     how      what the sender knows of how the pair was found: 0 direct, 1 predicted, 2 birthday
 *     rtt      nominate: the sender's round trip, 0.1 ms, 2 bytes BE; else 0
 *     id       the sender's udx stream, 4 bytes BE: the same in all datagrams of one side
 *     cookie   probe: anything; the others give back what they answer, a nomination gives 0
 *     MAC      HMAC-SHA256 of all before it, truncated to 16 bytes (RFC 2104 section 5)
 *
 * The keys come from the secret by HMAC-SHA256, one for each direction and attempt: a datagram that is reflected, or
 * repeated from an earlier attempt, is nothing. The tag tells the datagrams of an attempt from all others on the port; its
 * first two bits are 10, which neither STUN nor udx begins with.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { PeerlineError } from '../errors.ts'

export const PROBE_BYTES = 40
export const COOKIE_BYTES = 8

/** Bytes of the secret that both sides share. */
export const PUNCH_SECRET_BYTES = 32

export const ProbeType = { probe: 1, answer: 2, nominate: 3, accept: 4 } as const
export type ProbeType = (typeof ProbeType)[keyof typeof ProbeType]

/** How a pair of addresses was found, the plainest way first. */
export const HOWS = ['direct', 'predicted', 'birthday'] as const
export type How = (typeof HOWS)[number]

/** One datagram, without tag and MAC. */
export interface Probe {
  readonly type: ProbeType
  readonly how: How
  /** ms */
  readonly rttMs: number
  readonly streamId: number
  readonly cookie: Uint8Array
}

const TAG_BYTES = 8
const MAC_BYTES = 16
const MAC_AT = PROBE_BYTES - MAC_BYTES
const MAX_RTT = 0xffff // 6.5 s in units of 0.1 ms; longer ones are told as this

/** Seals and opens the datagrams of one side of one attempt. */
export class ProbeCodec {
  /** What all datagrams of this attempt begin with, both ways. */
  readonly tag: Uint8Array
  readonly #sendKey: Uint8Array
  readonly #receiveKey: Uint8Array

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` */
  constructor(secret: Uint8Array, attempt: number, initiator: boolean) {
    if (secret.length !== PUNCH_SECRET_BYTES) throw invalid(`the secret has ${PUNCH_SECRET_BYTES} bytes`)
    if (!Number.isInteger(attempt) || attempt < 0 || attempt > 0xffffffff) throw invalid('an attempt has 32 bits')
    const derive = (label: string): Buffer => {
      const number = Buffer.alloc(4)
      number.writeUInt32BE(attempt)
      return createHmac('sha256', secret).update(`peerline punch 1 ${label} `).update(number).digest()
    }
    this.tag = derive('tag').subarray(0, TAG_BYTES)
    this.tag[0] = 0x80 | (this.tag[0]! & 0x3f)
    const [forth, back] = [derive('initiator'), derive('responder')]
    this.#sendKey = initiator ? forth : back
    this.#receiveKey = initiator ? back : forth
  }

  seal({ type, how, rttMs, streamId, cookie }: Probe): Uint8Array {
    const bytes = Buffer.alloc(PROBE_BYTES)
    bytes.set(this.tag)
    bytes[8] = type
    bytes[9] = HOWS.indexOf(how)
    bytes.writeUInt16BE(Math.min(Math.round(rttMs * 10), MAX_RTT), 10)
    bytes.writeUInt32BE(streamId, 12)
    bytes.set(cookie, 16)
    bytes.set(mac(this.#sendKey, bytes), MAC_AT)
    return bytes
  }

  /** Reads what the other side sealed; undefined for anything else. */
  open(bytes: Uint8Array): Probe | undefined {
    if (bytes.length !== PROBE_BYTES || !this.tag.every((byte, i) => bytes[i] === byte)) return undefined
    if (!timingSafeEqual(bytes.subarray(MAC_AT), mac(this.#receiveKey, bytes))) return undefined
    const type = bytes[8]!
    const how = HOWS[bytes[9]!]
    if (type < ProbeType.probe || type > ProbeType.accept || how === undefined) return undefined
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    return {
      type: type as ProbeType,
      how,
      rttMs: view.getUint16(10) / 10,
      streamId: view.getUint32(12),
      cookie: Uint8Array.from(bytes.subarray(16, 16 + COOKIE_BYTES)),
    }
  }
}

function mac(key: Uint8Array, bytes: Uint8Array): Buffer {
  return createHmac('sha256', key).update(bytes.subarray(0, MAC_AT)).digest().subarray(0, MAC_BYTES)
}

function invalid(message: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_INVALID', message)
}
