/** js-libp2p 3: tcp, Noise, yamux, nothing else. Each pipe is a new connection with one stream. */

import '../lib/polyfill.js'
import { emptyPipe } from '../lib/pipe.js'

const PROTOCOL = '/bench/1'
const MANY = 100_000 // lifts the connection and rate limits, which are made for strangers, out of the way

async function createNode(listen) {
  const [{ createLibp2p }, { tcp }, { noise }, { yamux }] = await Promise.all([
    import('libp2p'),
    import('@libp2p/tcp'),
    import('@libp2p/noise'),
    import('@libp2p/yamux'),
  ])
  return createLibp2p({
    addresses: { listen },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    connectionManager: {
      maxConnections: MANY,
      maxIncomingPendingConnections: MANY,
      inboundConnectionThreshold: MANY,
    },
    connectionMonitor: { enabled: false },
  })
}

function libp2pPipe(stream, close) {
  const pipe = emptyPipe({
    send: (bytes) => stream.send(bytes),
    // the event, not onDrain(): that one spins after the first drain
    drained: () =>
      stream.writableNeedsDrain
        ? new Promise((resolve) => stream.addEventListener('drain', resolve, { once: true }))
        : Promise.resolve(),
    async close() {
      pipe.onClose = () => {}
      await close()
    },
  })
  stream.addEventListener('message', ({ data }) => {
    pipe.onData(data.byteLength, data instanceof Uint8Array ? data[0] : data.get(0))
  })
  stream.addEventListener('close', ({ error }) => pipe.onClose(error ?? new Error('the stream was closed')))
  return pipe
}

export const libp2p = {
  async listen(_context, accept) {
    const node = await createNode(['/ip4/127.0.0.1/tcp/0'])
    await node.handle(PROTOCOL, (stream, connection) => accept(libp2pPipe(stream, () => connection.close())))
    return { info: { address: node.getMultiaddrs()[0].toString() }, close: () => node.stop() }
  },
  async dial(context) {
    const node = await createNode([])
    const { multiaddr } = await import('@multiformats/multiaddr')
    const address = multiaddr(context.server.address)
    return {
      async connect() {
        const connection = await node.dial(address, { force: true })
        const stream = await connection.newStream(PROTOCOL)
        return libp2pPipe(stream, () => connection.close())
      },
      close: () => node.stop(),
    }
  },
}
