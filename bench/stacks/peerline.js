/** Peerline itself, as built in ../../dist: a direct session, and the same through a relay in a third process. */

import { emptyPipe } from '../lib/pipe.js'

const ECHO_PROTOCOL = '/bench/echo/1'
const REQUEST_PROTOCOL = '/bench/req/1'

async function load(file) {
  try {
    return await import(new URL(`../../dist/${file}`, import.meta.url).href)
  } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error
    throw new Error(`dist/${file} cannot be loaded, run npm run build first: ${error.message}`)
  }
}

async function createPeer(options) {
  const { Peer } = await load('index.js')
  return Peer.create({ rendezvous: [], firewall: { allow: 'all' }, ...options })
}

/** As an application would: every bulk write awaited, small ones left to the stream. */
function peerlinePipe(stream, close) {
  let written = Promise.resolve()
  const pipe = emptyPipe({
    send(bytes) {
      written = stream.write(bytes)
      written.catch((error) => pipe.onClose(error))
      return false
    },
    drained: () => written,
    async close() {
      pipe.onClose = () => {}
      await close()
    },
  })
  const read = async () => {
    try {
      for await (const chunk of stream) pipe.onData(chunk.byteLength, chunk[0])
      pipe.onClose(new Error('the stream ended'))
    } catch (error) {
      pipe.onClose(error)
    }
  }
  void read()
  return pipe
}

async function serveOn(peer, accept) {
  peer.handleStream(ECHO_PROTOCOL, (stream) => accept(peerlinePipe(stream, () => stream.end())))
  peer.handle(REQUEST_PROTOCOL, async (bytes) => bytes)
  return { info: { id: peer.id, addresses: peer.addresses }, close: () => peer.close() }
}

/**
 * A peer keeps one session with another and connect() returns it while it lives. So each idle session gets a dialing
 * peer of its own, made before memory is first read: the figure is the session's, not the peer's.
 */
async function dialWith(create, server, connectOptions) {
  const peers = [await create()]
  const sessionAt = (index) => peers[index].connect(server.id, connectOptions)
  return {
    async prepareIdle(count) {
      while (peers.length < count) peers.push(await create())
    },
    async connect(index) {
      const session = await sessionAt(index)
      return peerlinePipe(await session.open(ECHO_PROTOCOL), () => session.close())
    },
    async openRequests() {
      const { request } = await load('index.js')
      const session = await sessionAt(0)
      return { request: (bytes) => request(session, REQUEST_PROTOCOL, bytes), close: () => session.close() }
    },
    close: () => Promise.all(peers.map((peer) => peer.close())),
  }
}

export const direct = {
  async listen(_context, accept) {
    return serveOn(await createPeer({ listen: ['127.0.0.1:0'] }), accept)
  },
  async dial({ server }) {
    return dialWith(() => createPeer({ listen: [] }), server, { addresses: server.addresses, via: 'direct' })
  },
}

export const relayed = {
  async third() {
    const { Server } = await load('server/index.js')
    const server = await Server.create({ listen: '127.0.0.1:0', relay: { bytesPerSecond: Number.POSITIVE_INFINITY } })
    return { info: { url: server.url }, close: () => server.close() }
  },
  async listen({ third }, accept) {
    return serveOn(await createPeer({ listen: [], rendezvous: [third.url] }), accept)
  },
  async dial({ third, server }) {
    return dialWith(() => createPeer({ listen: [], rendezvous: [third.url] }), server, { via: 'relay' })
  },
}
