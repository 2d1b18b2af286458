/** Nobody gets in unless allowed: here somebody is asked. And a refusal is a typed error. */
import { isPeerlineError, Peer } from 'peerline'

const friend = await Peer.create({ listen: [] })
const stranger = await Peer.create({ listen: [] })
const host = await Peer.create({
  listen: ['127.0.0.1:0'],
  firewall: {
    approve: async ({ from, how }) => {
      console.log(`${from.slice(0, 8)}… asks to come in (${how})`)
      return from === friend.id
    },
  },
})
host.handle('/secret/1', () => new TextEncoder().encode('the key is under the mat'))

for (const [name, peer] of [
  ['friend', friend],
  ['stranger', stranger],
]) {
  try {
    await peer.connect(host.id, { addresses: host.addresses })
    const secret = await peer.request(host.id, '/secret/1', new Uint8Array(0))
    console.log(`${name}: ${new TextDecoder().decode(secret)}`)
  } catch (error) {
    if (!isPeerlineError(error)) throw error
    console.log(`${name}: ${error.code}. ${error.recover}`)
  }
}

await Promise.all([friend.close(), stranger.close(), host.close()])
