/**
 * The STUN attributes by which a peer learns about its NAT, RFC 5780 section 7.
 *
 *   request   CHANGE-REQUEST    |  29 bits  |A|B|0|     answer from the other address (A), the other port (B)
 *             RESPONSE-PORT     |  port  | padding |    answer to this port, of the address that the request came from
 *   answer    RESPONSE-ORIGIN   |0|family|port|IP|      where the answer is sent from
 *             OTHER-ADDRESS     |0|family|port|IP|      where it would be sent from with A and B
 *
 * Invariant: reading never throws. What is not well-formed is undefined in an answer, `bad` in a request.
 */

import { bytesToIp, ipToBytes, type SocketAddress } from './address.ts'
import { type StunAttribute, StunAttributeType, type StunMessage, stunAttribute } from './stun.ts'

/** From where a reflector is to answer: what differs from where it was asked. */
export interface Change {
  address: boolean
  port: boolean
}

/** Attributes of requests that only a reflector with another place to answer from understands. */
export const NAT_REQUEST_ATTRIBUTES: readonly number[] = [
  StunAttributeType.changeRequest,
  StunAttributeType.responsePort,
]

const CHANGE_ADDRESS = 0x04
const CHANGE_PORT = 0x02

export function changeRequest({ address, port }: Change): StunAttribute {
  const flags = (address ? CHANGE_ADDRESS : 0) | (port ? CHANGE_PORT : 0)
  return { type: StunAttributeType.changeRequest, value: Uint8Array.of(0, 0, 0, flags) }
}

/** What a request asks for; undefined when it has no CHANGE-REQUEST. Flags of other meanings are passed over. */
export function readChangeRequest(message: StunMessage): Change | 'bad' | undefined {
  const value = stunAttribute(message, StunAttributeType.changeRequest)
  if (value === undefined) return undefined
  if (value.length !== 4) return 'bad'
  return { address: (value[3]! & CHANGE_ADDRESS) !== 0, port: (value[3]! & CHANGE_PORT) !== 0 }
}

export function responsePort(port: number): StunAttribute {
  return { type: StunAttributeType.responsePort, value: Uint8Array.of(port >> 8, port & 0xff, 0, 0) }
}

/** The port asked for; undefined when there is no RESPONSE-PORT. Some count its two bytes of padding, some do not. */
export function readResponsePort(message: StunMessage): number | 'bad' | undefined {
  const value = stunAttribute(message, StunAttributeType.responsePort)
  if (value === undefined) return undefined
  return value.length === 2 || value.length === 4 ? (value[0]! << 8) | value[1]! : 'bad'
}

export function responseOrigin(address: SocketAddress): StunAttribute {
  return { type: StunAttributeType.responseOrigin, value: addressValue(address) }
}

/** Where an answer says it was sent from; the address may be unspecified, when its sender does not know. */
export function readResponseOrigin(message: StunMessage): SocketAddress | undefined {
  return readAddress(stunAttribute(message, StunAttributeType.responseOrigin))
}

export function otherAddress(address: SocketAddress): StunAttribute {
  return { type: StunAttributeType.otherAddress, value: addressValue(address) }
}

/** The other place of a reflector; an unspecified address stands for the one that was asked. */
export function readOtherAddress(message: StunMessage): SocketAddress | undefined {
  return readAddress(stunAttribute(message, StunAttributeType.otherAddress))
}

// The form of MAPPED-ADDRESS, RFC 8489 section 14.1: not masked.
function addressValue({ host, port }: SocketAddress): Uint8Array {
  const ip = ipToBytes(host) ?? new Uint8Array(4)
  return Uint8Array.of(0, ip.length === 4 ? 1 : 2, port >> 8, port & 0xff, ...ip)
}

function readAddress(value: Uint8Array | undefined): SocketAddress | undefined {
  const family = value?.[1] === 1 ? 4 : value?.[1] === 2 ? 6 : undefined
  if (value === undefined || family === undefined || value.length !== (family === 4 ? 8 : 20)) return undefined
  const port = (value[2]! << 8) | value[3]!
  return port === 0 ? undefined : { host: bytesToIp(value.subarray(4)), port, family }
}
