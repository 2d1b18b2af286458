/**
 * Some hundred hostile peers in one process. Each has an identity and an address of its own, and lives one attack after
 * another as fast as it is let.
 */
import { readdirSync } from 'node:fs'
import os from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { createOffer } from '../../dist/handshake/index.js'
import { Identity } from '../../dist/identity/index.js'
import { attacks } from './attacks.js'
import { answer } from './child.js'
import { Lines } from './line.js'

/** Of the defender and the friend this machine has two processes that matter; the attackers get what these leave. */
const NICENESS = 19

/** ms between two lives of one attacker, so that a refused one does not spin. */
const BREATH_MS = 1

/** Offers made before an attack, for each identity: making them costs as much as opening them. */
const OFFERS = 3

/** ms, the most that is taken: so they serve throughout an attack. */
const LIFETIME_MS = 300_000

const EMPTY = new Uint8Array(0)

let peers = []
let to
let run
let burning = false

/** ms of a spin, between which this process hears. */
const SPIN_MS = 20

answer({
  start({ first, count, to: id }) {
    // A priority is that of a thread on Linux: those that compile and collect garbage have their own.
    for (const thread of readdirSync('/proc/self/task')) os.setPriority(Number(thread), NICENESS)
    to = id
    peers = Array.from({ length: count }, (_, at) => {
      const index = first + at
      return { index, identity: Identity.generate(), source: `127.${10 + (index >> 8)}.${index & 255}.7`, offers: [] }
    })
    return peers.map(({ identity }) => identity.peerId)
  },
  prepare() {
    for (const peer of peers) {
      while (peer.offers.length < OFFERS) {
        peer.offers.push(createOffer(peer.identity, to, { body: EMPTY, lifetimeMs: LIFETIME_MS }))
      }
    }
  },
  /** Takes what processor time is left, and touches nobody: so much the attacks alone would cost the defender. */
  burn() {
    const spin = () => {
      if (!burning) return
      for (const end = performance.now() + SPIN_MS; performance.now() < end; );
      setImmediate(spin)
    }
    burning = true
    spin()
  },
  quench() {
    burning = false
  },
  begin({ attack, oneAddress, address, ...known }) {
    const lines = new Lines(address)
    const world = { ...known, lines, counts: { lives: 0, failed: 0 } }
    const live = async (peer) => {
      const { index, identity, offers } = peer
      const source = oneAddress ? '127.250.0.1' : peer.source
      const offer = (body = EMPTY) =>
        (body.length === 0 ? offers.pop() : undefined) ?? createOffer(identity, to, { body, lifetimeMs: LIFETIME_MS })
      // They do not all begin in the same instant.
      await sleep(Math.random() * 200)
      while (!lines.closed) {
        world.counts.lives++
        await attacks[attack]({ index, identity, source, offer }, world).catch(() => world.counts.failed++)
        await sleep(BREATH_MS)
      }
    }
    run = { world, lives: peers.map(live) }
  },
  async end() {
    const { world, lives } = run
    world.lines.close()
    await Promise.all(lives)
    return { ...world.counts, ...world.lines.counts }
  },
})
