/**
 * js-libp2p in the public part of the lab, for lab/chaos-contract.md: a circuit relay v2 over TCP, with identify and
 * AutoNAT, its key kept in a file; and a STUN server, since WebRTC needs one and the internet's are not here.
 *
 *   port       TCP: the relay
 *   port + 1   UDP: STUN
 */

import './lib/polyfill.js'
import { readFile, writeFile } from 'node:fs/promises'
import { autoNAT } from '@libp2p/autonat'
import { circuitRelayServer } from '@libp2p/circuit-relay-v2'
import { generateKeyPair, privateKeyFromProtobuf, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { identify, identifyPush } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { createLibp2p } from 'libp2p'
import { obey, say } from '../lab/chaos-kit.js'
import { YAMUX } from './chaos/libp2p.js'
import { startStun } from './chaos/stun.js'

async function keyOf(folder) {
  const file = `${folder}/key`
  try {
    return privateKeyFromProtobuf(await readFile(file))
  } catch (error) {
    if (error.code !== 'ENOENT') throw error
  }
  const key = await generateKeyPair('Ed25519')
  await writeFile(file, privateKeyToProtobuf(key))
  return key
}

await obey({
  async serve({ host, port, folder }) {
    await startStun(host, port + 1)
    const own = [`/ip4/${host}/tcp/${port}`]
    const node = await createLibp2p({
      privateKey: await keyOf(folder),
      // Announced as they are: what is only listened on must first be confirmed by others.
      addresses: { listen: own, announce: own },
      transports: [tcp()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux(YAMUX)],
      services: {
        identify: identify(),
        identifyPush: identifyPush(),
        autoNAT: autoNAT(),
        ping: ping(),
        // By default a relayed connection ends after 128 KiB or two minutes: enough to arrange a direct one, not to carry data.
        relay: circuitRelayServer({ reservations: { applyDefaultLimit: false } }),
      },
    })
    const addresses = node.getMultiaddrs().map((address) => address.toString())
    say('serving', { server: { peer: node.peerId.toString(), addresses, stun: `stun:${host}:${port + 1}` } })
  },
})
