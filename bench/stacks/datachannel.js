/** node-datachannel: WebRTC data channels, one message per write; the parent process carries the signaling. */

import { emptyPipe } from '../lib/pipe.js'

const HIGH_WATER_BYTES = 1024 * 1024 // SCTP needs a queue to work from; less makes it stall
const LOW_WATER_BYTES = 256 * 1024
// On loopback DTLS is sometimes done before the library has stored the answer's fingerprint, and the offering end then
// refuses it: 1 connect in 300. It is dialled again, and the time for both counts.
const CONNECT_ATTEMPTS = 3

function channelPipe(channel, close) {
  let wake = () => {}
  const pipe = emptyPipe({
    send(bytes) {
      channel.sendMessageBinary(bytes)
      return channel.bufferedAmount() < HIGH_WATER_BYTES
    },
    drained: () =>
      new Promise((resolve) => {
        wake = resolve
        if (channel.bufferedAmount() <= LOW_WATER_BYTES) resolve()
      }),
    close() {
      pipe.onClose = () => {}
      close()
    },
  })
  channel.setBufferedAmountLowThreshold(LOW_WATER_BYTES)
  channel.onBufferedAmountLow(() => wake())
  channel.onMessage((data) => pipe.onData(data.byteLength, data[0]))
  channel.onError((error) => pipe.onClose(new Error(error)))
  channel.onClosed(() => pipe.onClose(new Error('the channel was closed')))
  return pipe
}

/**
 * One end of a connection: what it has to tell goes to the other end under `id`, what comes from there goes to take().
 *
 * Left to itself, the answering end sends its DTLS hello before the offering end's ICE is done: it is lost and resent
 * after a second, in half of all connects on loopback. So the offering end, whose ICE is done last, is made the active one.
 */
function createEnd({ PeerConnection }, id, context) {
  const connection = new PeerConnection(id, { iceServers: [], bindAddress: '127.0.0.1' })
  let described = false
  const early = [] // candidates that overtook their description
  const addCandidate = ({ candidate, mid }) => {
    if (connection.state() !== 'closed') connection.addRemoteCandidate(candidate, mid)
  }
  connection.onLocalDescription((sdp, type) => {
    context.signal({ id, sdp: type === 'offer' ? sdp.replace('a=setup:actpass', 'a=setup:active') : sdp, type })
  })
  connection.onLocalCandidate((candidate, mid) => context.signal({ id, candidate, mid }))
  return {
    connection,
    take(message) {
      if (message.sdp === undefined) {
        if (described) addCandidate(message)
        else early.push(message)
        return
      }
      connection.setRemoteDescription(message.sdp, message.type)
      described = true
      for (const one of early.splice(0)) addCandidate(one)
    },
  }
}

export const datachannel = {
  async listen(context, accept) {
    const library = await import('node-datachannel')
    const ends = new Map()
    const closeEnd = (id) => {
      ends.get(id)?.connection.close()
      ends.delete(id)
    }
    context.onSignal((message) => {
      const { id, over } = message
      if (over) return closeEnd(id)
      if (!ends.has(id)) {
        const end = createEnd(library, id, context)
        ends.set(id, end)
        end.connection.onDataChannel((channel) => accept(channelPipe(channel, () => closeEnd(id))))
      }
      ends.get(id).take(message)
    })
    return { close: () => library.cleanup() }
  },
  async dial(context) {
    const library = await import('node-datachannel')
    const ends = new Map()
    let count = 0
    context.onSignal((message) => ends.get(message.id)?.take(message))
    const tryToConnect = async () => {
      const id = `bench-${count++}`
      const end = createEnd(library, id, context)
      const { connection } = end
      ends.set(id, end)
      const close = () => {
        ends.delete(id)
        context.signal({ id, over: true })
        connection.close()
      }
      const channel = connection.createDataChannel('bench')
      try {
        await new Promise((resolve, reject) => {
          channel.onOpen(resolve)
          channel.onError((error) => reject(new Error(error)))
          connection.onStateChange((state) => {
            if (state === 'failed' || state === 'closed') reject(new Error(`the connection is ${state}`))
          })
        })
      } catch (error) {
        close()
        throw error
      }
      return channelPipe(channel, close)
    }
    return {
      async connect() {
        for (let attempt = 1; ; attempt += 1) {
          try {
            return await tryToConnect()
          } catch (error) {
            if (attempt === CONNECT_ATTEMPTS) throw error
          }
        }
      },
      close: () => library.cleanup(),
    }
  },
}
