/** A stream of bytes with back-pressure, and the session moving from the relay to a direct path under it. */
import { Peer } from 'peerline'
import { Server } from 'peerline/server'

const server = await Server.create({ listen: '127.0.0.1:0' })
const sender = await Peer.create({ rendezvous: [server.url], listen: [] })
const receiver = await Peer.create({ rendezvous: [server.url], listen: [], firewall: { allow: [sender.id] } })
receiver.handleStream('/count/1', async (stream) => {
  let bytes = 0
  for await (const chunk of stream) bytes += chunk.length
  await stream.end(new TextEncoder().encode(String(bytes)))
})
await receiver.online()

const session = await sender.connect(receiver.id)
console.log(`open on ${session.path}`)
session.addEventListener('path', ({ detail }) =>
  console.log(`moved from ${detail.from} to ${detail.to}: ${detail.reason}`),
)
const moved = new Promise((resolve) => session.addEventListener('path', resolve, { once: true }))

const stream = await session.open('/count/1')
const chunk = new Uint8Array(65_536)
for (let sent = 0; sent < 64; sent++) await stream.write(chunk)
// The receiver gets an address of its own, in the middle of the transfer.
await receiver.listen('127.0.0.1:0')
await moved
for (let sent = 0; sent < 64; sent++) await stream.write(chunk)
await stream.end()
for await (const answer of stream) console.log(`the receiver counted ${new TextDecoder().decode(answer)} bytes`)

await Promise.all([sender.close(), receiver.close()])
await server.close()
