/** Two peers, one server: dial by public key, ask, answer. */
import { Peer } from 'peerline'
import { Server } from 'peerline/server'

const server = await Server.create({ listen: '127.0.0.1:0' })

// Bob answers Alice, whom he lets in; each of them could run on another machine.
const alice = await Peer.create({ rendezvous: [server.url] })
const bob = await Peer.create({ rendezvous: [server.url], firewall: { allow: [alice.id] } })
bob.handle('/greet/1', (name, { from }) => {
  return new TextEncoder().encode(`Hello ${new TextDecoder().decode(name)}, you are ${from.slice(0, 8)}…`)
})
await bob.online()

const reply = await alice.request(bob.id, '/greet/1', new TextEncoder().encode('Alice'))
console.log(new TextDecoder().decode(reply))

await Promise.all([alice.close(), bob.close()])
await server.close()
