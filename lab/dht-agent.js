/**
 * A node of a DHT, or a peer that is found by one:
 *
 *   node   { bootstrap, host }                  -> { at }         nothing but a node
 *   seen   { of }                               -> { record, ms } of a node: once the record of this peer is there
 *   serve  {}                                   -> { url }        a rendezvous
 *   start  { dht?, rendezvous?, listen? }       -> { id, addresses }
 *   tell   { dht, rendezvous?, addresses? }     -> { nodes, ms }  publishes where this peer is, by hand
 *   meet   { dht, to }                          -> { ms, answer } finds a peer, and asks it something, by hand
 *   dial   { to }                               -> { ms, answer, path } by its id alone
 */

import { Dht } from '../dist/discovery/dht.js'
import { signDhtRecord } from '../dist/discovery/dht-item.js'
import { Peer } from '../dist/index.js'
import { Server } from '../dist/server/index.js'
import { serve } from './agent.js'

const ASK = '/lab/hello/1'
const HOUR_MS = 3_600_000

let peer
let node

const hello = async (to) => Buffer.from(await peer.request(to, ASK, Buffer.from('hello'))).toString()

serve({
  async node({ bootstrap, host }) {
    node = await Dht.open({ bootstrap, host, port: 6_881 })
    return { at: node.address }
  },

  async seen({ of }) {
    const began = performance.now()
    let record
    while (record === undefined) record = await node.find(of)
    return { record, ms: performance.now() - began }
  },

  async serve() {
    const server = await Server.create({ listen: ':4400' })
    return { url: server.url }
  },

  async start({ dht, rendezvous = [], listen = [':4400'] }) {
    const common = { rendezvous, listen, lan: false, portMapping: false, firewall: { allow: 'all' } }
    peer = await Peer.create({ ...common, ...(dht === undefined ? {} : { dht }) })
    peer.handle(ASK, (body) => Buffer.concat([Buffer.from(body), Buffer.from(' yourself')]))
    if (rendezvous.length > 0) await peer.online({ signal: AbortSignal.timeout(10_000) })
    return { id: peer.id, addresses: peer.addresses }
  },

  async tell({ dht, rendezvous = [], addresses = [] }) {
    const began = performance.now()
    node = await Dht.open({ ...dht, identity: peer.identity, addresses: addresses.length > 0 })
    const content = { sequence: Date.now(), expiresAt: Date.now() + HOUR_MS, rendezvous, addresses }
    const nodes = await node.publish(signDhtRecord(peer.identity, content, { addresses: true }))
    return { nodes, ms: performance.now() - began }
  },

  async meet({ dht, to }) {
    const began = performance.now()
    node = await Dht.open(dht)
    const record = await node.find(to)
    const foundMs = performance.now() - began
    if (record === undefined) return { foundMs }
    peer.known.learn(to, record.addresses, 'record')
    const answer = await hello(to)
    return { foundMs, ms: performance.now() - began, answer }
  },

  async dial({ to }) {
    const began = performance.now()
    const answer = await hello(to)
    return { ms: performance.now() - began, answer, path: (await peer.connect(to)).path }
  },
})
