/**
 * A peer of node-datachannel in a home: WebRTC as an application has it, with a broker that it is already connected to.
 *
 *   start   { name, broker: { host, port }, iceServers }  -> { id }
 *   dial    { to, deadlineMs, directMs }                  -> as timeDial() gives it
 *   forget  {}                                            -> every connection is closed
 *
 * Signaling is trickled: the offer goes out at once, every candidate when it is found.
 */

import { once } from 'node:events'
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import { PeerConnection } from 'node-datachannel'
import { serve } from '../../lab/agent.js'
import { PING, timeDial } from './dial.js'

const ONLINE_MS = 10_000

let self
let iceServers
let broker
let count = 0
/** By the number of the dial, which the dialer gives. */
const ends = new Map()

const signal = (message) => broker.write(`${JSON.stringify(message)}\n`)

/**
 * Left to itself, the answering end sends its DTLS hello when its ICE is done, before the offering end's is: it is lost,
 * and resent a second later. So the offering end, which is done last, is made the active one.
 */
const offeredActive = (sdp) => sdp.replace('a=setup:actpass', 'a=setup:active')

function createEnd(dial, to) {
  const connection = new PeerConnection(dial, { iceServers })
  connection.onLocalDescription((sdp, type) =>
    signal({ to, dial, type, sdp: type === 'offer' ? offeredActive(sdp) : sdp }),
  )
  connection.onLocalCandidate((candidate, mid) => signal({ to, dial, candidate, mid }))
  ends.set(dial, connection)
  return connection
}

function close(dial) {
  ends.get(dial)?.close()
  ends.delete(dial)
}

function onMessage({ from, dial, type, sdp, candidate, mid }) {
  if (type === 'offer') {
    createEnd(dial, from).onDataChannel((channel) => channel.onMessage((data) => channel.sendMessageBinary(data)))
  }
  const connection = ends.get(dial)
  if (connection === undefined) return // a candidate of a dial that was given up
  if (sdp === undefined) connection.addRemoteCandidate(candidate, mid)
  else connection.setRemoteDescription(sdp, type)
}

/** Neither end is at the TURN server: not ours, nor the other's, whatever type ICE found it to be. */
function isDirect(connection) {
  const pair = connection.getSelectedCandidatePair()
  if (pair === null) return false
  const servers = iceServers.map(({ hostname }) => hostname)
  return [pair.local, pair.remote].every(({ type, address }) => type !== 'relay' && !servers.includes(address))
}

serve({
  async start({ name, broker: { host, port }, iceServers: servers }) {
    self = name
    iceServers = servers
    broker = connect({ host, port })
    broker.setNoDelay(true)
    const lines = createInterface({ input: broker })
    signal({ name })
    await once(lines, 'line', { signal: AbortSignal.timeout(ONLINE_MS) })
    lines.on('line', (line) => onMessage(JSON.parse(line)))
    return { id: name }
  },

  async dial({ to, ...limits }) {
    const dial = `${self}-${count++}`
    const connection = createEnd(dial, to)
    return timeDial(
      () =>
        new Promise((resolve, reject) => {
          connection.onStateChange((state) => {
            if (state === 'failed' || state === 'closed') reject(new Error(`the connection is ${state}`))
          })
          const channel = connection.createDataChannel('echo')
          channel.onOpen(() => channel.sendMessageBinary(PING))
          channel.onMessage(() => resolve({ isDirect: () => isDirect(connection) }))
        }),
      limits,
    )
  },

  forget() {
    for (const dial of [...ends.keys()]) close(dial)
  },
})
