/**
 * hyperdht in the public part of the lab, for lab/chaos-contract.md: a DHT of its own and a blind relay.
 *
 *   port to port + 5   UDP on each address of the machine: nodes of the DHT, the first of them the bootstrapper
 *   port + 6           UDP: the blind relay, its key kept in a file
 *
 * Where there are two servers, each has its own nodes; peers that know both are announced on both.
 */

import { readFile, writeFile } from 'node:fs/promises'
import BlindRelay from 'blind-relay'
import HyperDHT from 'hyperdht'
import { obey, say } from '../lab/chaos-kit.js'

/** Of each address: a peer passes over five when it asks four more what its NAT does, and two of them are on one server. */
const NODES = 6

const SEED_BYTES = 32

/** As public nodes are set up: they know that they can be reached, and stay in others' tables. */
const PUBLIC = { ephemeral: false, firewalled: false }

async function keyPairOf(folder) {
  const file = `${folder}/seed`
  try {
    return HyperDHT.keyPair(await readFile(file))
  } catch (error) {
    if (error.code !== 'ENOENT') throw error
  }
  const seed = crypto.getRandomValues(Buffer.alloc(SEED_BYTES))
  await writeFile(file, seed)
  return HyperDHT.keyPair(seed)
}

async function startRelay(node, keyPair) {
  await node.fullyBootstrapped()
  const service = new BlindRelay.Server({
    createStream: (options) => node.createRawStream({ ...options, framed: true }),
  })
  const server = node.createServer({ shareLocalAddress: false }, (stream) => {
    stream.on('error', () => {})
    service.accept(stream, { id: stream.remotePublicKey }).on('error', () => {})
  })
  await server.listen(keyPair)
}

await obey({
  async serve({ host, hosts, port, folder }) {
    const bootstrap = [{ host, port }]
    await HyperDHT.bootstrapper(port, host).fullyBootstrapped()
    const places = hosts.flatMap((each) => Array.from({ length: NODES }, (_, at) => ({ host: each, port: port + at })))
    await Promise.all(
      places.slice(1).map((place) => new HyperDHT({ ...PUBLIC, ...place, bootstrap }).fullyBootstrapped()),
    )
    const keyPair = await keyPairOf(folder)
    await startRelay(new HyperDHT({ ...PUBLIC, host, port: port + NODES, bootstrap }), keyPair)
    say('serving', { server: { bootstrap, relay: { key: keyPair.publicKey.toString('hex'), host } } })
  },
})
