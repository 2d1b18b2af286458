/**
 * A peer on a local network without any server:
 *
 *   start  { signaling, discovery? } -> { id, listening }  `signaling`: answer offers on the network; `discovery`: options of it
 *   dial   { to }                    -> { ms, answer }      by its id alone
 *   meet   { to }                    -> { foundMs, ms, by, addresses, answer }   found on the network, then dialled there
 *   lost   { of }                    -> { reason }          once it has gone
 */
import { LanDiscovery } from '../dist/discovery/index.js'
import { Peer } from '../dist/index.js'
import { serve } from './agent.js'

const ASK = '/lab/hello/1'

let peer
let discovery
let started

/** Settles with the detail of the first such event of a peer. */
const event = (name, id) =>
  new Promise((resolve) => {
    discovery.addEventListener(name, ({ detail }) => {
      if (detail.peer === id) resolve(detail)
    })
  })

const hello = async (to) => Buffer.from(await peer.request(to, ASK, Buffer.from('hello'))).toString()

serve({
  async start({ signaling, discovery: options }) {
    started = performance.now()
    peer = await Peer.create({ lan: signaling, portMapping: false, firewall: { allow: 'all' } })
    peer.handle(ASK, (body) => Buffer.concat([Buffer.from(body), Buffer.from(' yourself')]))
    if (options !== undefined) {
      discovery = await LanDiscovery.open({ identity: peer.identity, listening: () => peer.addresses, ...options })
      discovery.addEventListener('found', ({ detail }) => peer.known.learn(detail.peer, detail.addresses, 'lan'))
    }
    return { id: peer.id, listening: peer.addresses }
  },

  async dial({ to }) {
    const began = performance.now()
    const answer = await hello(to)
    return { ms: performance.now() - began, answer }
  },

  async meet({ to }) {
    const { addresses, by } = discovery.peers.find((one) => one.peer === to) ?? (await event('found', to))
    const foundMs = performance.now() - started
    const answer = await hello(to)
    return { foundMs, ms: performance.now() - started, by, addresses, answer }
  },

  async lost({ of }) {
    const { reason } = await event('lost', of)
    return { reason }
  },

  async stop() {
    await discovery?.close()
    await peer.close()
  },
})
