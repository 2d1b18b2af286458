/** hyperdht 6 with a small DHT of its own on loopback; the third process holds the DHT's nodes, not the data. */

import { opened, streamPipe } from '../lib/pipe.js'

const HOST = '127.0.0.1'
const DHT_NODES = 3 // the fewest with which announce and lookup go their ordinary way

async function createNode(bootstrap) {
  const { default: HyperDHT } = await import('hyperdht')
  const node = new HyperDHT({ bootstrap, host: HOST, ephemeral: true, firewalled: false })
  await node.fullyBootstrapped()
  return node
}

export const hyperdht = {
  async third() {
    const { default: createTestnet } = await import('hyperdht/testnet.js')
    const testnet = await createTestnet(DHT_NODES, { host: HOST })
    return { info: { bootstrap: testnet.bootstrap }, close: () => testnet.destroy() }
  },
  async listen(context, accept) {
    const node = await createNode(context.third.bootstrap)
    const server = node.createServer((stream) => accept(streamPipe(stream)))
    await server.listen()
    return { info: { publicKey: Uint8Array.from(server.publicKey) }, close: () => node.destroy() }
  },
  async dial(context) {
    const node = await createNode(context.third.bootstrap)
    const publicKey = Buffer.from(context.server.publicKey)
    return {
      async connect() {
        const stream = node.connect(publicKey)
        await opened(stream, 'open')
        return streamPipe(stream)
      },
      close: () => node.destroy(),
    }
  },
}
