/**
 * The least STUN server that ICE is content with: every binding request over UDP and IPv4 is told where it came from.
 *
 *    0                   16                  32
 *   +-------------------+-------------------+
 *   | type              | length            |
 *   | magic cookie 0x2112A442               |
 *   | transaction id, 12 bytes              |
 *   | attributes: XOR-MAPPED-ADDRESS        |
 *   +---------------------------------------+
 *
 * RFC 8489 section 5 and 14.2. For the lab: it answers anybody.
 */

import { createSocket } from 'node:dgram'
import { once } from 'node:events'

const BINDING_REQUEST = 0x0001
const BINDING_SUCCESS = 0x0101
const COOKIE = 0x2112a442
const HEADER_BYTES = 20
const XOR_MAPPED_ADDRESS = 0x0020
const ADDRESS_BYTES = 8 // of IPv4
const FAMILY_V4 = 1

function answer(request, { address, port }) {
  const response = Buffer.alloc(HEADER_BYTES + 4 + ADDRESS_BYTES)
  request.copy(response, 4, 4, HEADER_BYTES) // the cookie and the transaction id
  response.writeUInt16BE(BINDING_SUCCESS, 0)
  response.writeUInt16BE(4 + ADDRESS_BYTES, 2)
  response.writeUInt16BE(XOR_MAPPED_ADDRESS, HEADER_BYTES)
  response.writeUInt16BE(ADDRESS_BYTES, HEADER_BYTES + 2)
  response.writeUInt8(FAMILY_V4, HEADER_BYTES + 5)
  response.writeUInt16BE(port ^ (COOKIE >>> 16), HEADER_BYTES + 6)
  const number = Buffer.from(address.split('.').map(Number)).readUInt32BE()
  response.writeUInt32BE((number ^ COOKIE) >>> 0, HEADER_BYTES + 8)
  return response
}

/** Answers on one port until the process ends. */
export async function startStun(host, port) {
  const socket = createSocket('udp4')
  socket.on('message', (request, from) => {
    if (request.length < HEADER_BYTES) return
    if (request.readUInt16BE(0) !== BINDING_REQUEST || request.readUInt32BE(4) !== COOKIE) return
    socket.send(answer(request, from), from.port, from.address)
  })
  socket.bind(port, host)
  await once(socket, 'listening')
}
