/**
 * Servers and a handful of peers in one process, over real sockets on loopback, and what is done to them in each round:
 *
 *     connect ─ transfers, some MB and small, both ways, hashes compared; requests ─ close        several pairs at once
 *                    └ until all of this has been done: connections cut, addresses new and old ones gone, a server
 *                      started anew, another network
 *
 * - One server and most of the peers live as long as the soak, so that what leaks in them is not thrown away with them.
 * - All that is chosen comes from a seed. Every wait has a deadline; what passes it, or goes wrong, ends the soak.
 */
import { createHash, randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { Identity, Peer, request } from '../../dist/index.js'
import { Server } from '../../dist/server/index.js'
import { Chance } from './chance.js'
import { Ground } from './ground.js'

const HOST = '127.0.0.1'

/** Peers; the first ones are never started anew. */
const PEERS = 6
const LASTING_PEERS = 4

/** Sessions at once in a round. */
const PAIRS = 4

/** ms for anything of a round, twice the default reconnect window: what takes longer hangs. */
const DEED_MS = 120_000

/** ms that a close in order may take before it is cut: all data of a cycle has arrived by then. */
const CLOSE_MS = 15_000

/** ms between attempts to dial and to be online. */
const AGAIN_MS = 20

/** Bytes of the largest transfer, and of the block that all of them are taken from. */
const BULK_BYTES = 4 * 2 ** 20
const BLOCK_BYTES = 8 * 2 ** 20

/** Bytes of one write: larger than a record. */
const WRITE_BYTES = 96 * 1024

/** Requests at once in a cycle. */
const REQUESTS = 20

/** Blows to the network in one round, at most. */
const BLOWS = 2

/**
 * ms of blows, and of peace after them. A server that is lost again and again for 2 minutes, and never had for 10 s, is
 * dialled twice a minute from then on, for that is no restart any more: the soak would wait for it most of the time.
 */
const STORM_MS = 95_000
const PEACE_MS = 20_000

/** What a transfer meets when the other side is closed, or cut off for good. */
const ENDS = ['ERR_PEERLINE_CLOSED', 'ERR_PEERLINE_PATH_LOST', 'ERR_PEERLINE_RESET', 'success']

/**
 * What a dial meets in the moment in which a rendezvous is lost, goes, or is dialled anew and cut off again, or when the
 * other side has not come back to it yet.
 */
const LATER = new Set(
  ['OFFLINE', 'CLOSED', 'PATH_LOST', 'UNREACHABLE', 'WRONG_PEER'].map((name) => `ERR_PEERLINE_${name}`),
)

const TAKE = '/soak/take/1'
const ECHO = '/soak/echo/1'
const NEVER = '/soak/never/1'

/** The code that `work` fails with, or "success", must be one of `codes`. */
async function failsWith(codes, work) {
  const outcome = await work.then(
    () => 'success',
    (error) => error.code,
  )
  if (!codes.includes(outcome)) throw new Error(`${outcome} instead of ${codes.join(' or ')}`)
}

const sha256 = (bytes) => createHash('sha256').update(bytes).digest()

const portOf = (address) => Number(address.slice(address.lastIndexOf(':') + 1))

export class World {
  /** What was done so far. */
  counts = {
    cycles: 0,
    bytes: 0,
    requests: 0,
    cuts: 0,
    moves: 0,
    networks: 0,
    serverRestarts: 0,
    peerRestarts: 0,
    pathChanges: 0,
    reconnects: 0,
    abandoned: 0,
  }
  ground = new Ground()
  #chance
  #udp
  #webrtc
  #ways
  /** The first one lives as long as the soak. */
  #servers = []
  #serverIdentities = [Identity.generate(), Identity.generate()]
  #peers = []
  #began = performance.now()
  /** What is being done. */
  #deeds = new Set()
  /** When each server that a peer has lost is dialled again, monotonic ms. */
  #dialledAt = new Map()
  /** Peers that have gone to another address: their number. */
  #house = 1
  #block = randomBytes(BLOCK_BYTES)

  constructor({ seed, udp, webrtc }) {
    this.#chance = new Chance(seed)
    this.#udp = udp
    this.#webrtc = webrtc
    this.#ways = ['auto', 'auto', 'auto', 'relay', 'direct', ...(udp ? ['udp'] : []), ...(webrtc ? ['webrtc'] : [])]
  }

  async start() {
    for (const identity of this.#serverIdentities) {
      this.#servers.push(await Server.create({ listen: `${HOST}:0`, identity }))
    }
    for (let at = 0; at < PEERS; at++) this.#peers.push(await this.#join(Identity.generate()))
    await this.whole()
  }

  async close() {
    await Promise.all(this.#peers.map((peer) => peer.close()))
    await Promise.all(this.#servers.map((server) => server.close()))
    this.ground.leave()
  }

  /** Every peer is registered at every server. */
  get isWhole() {
    return this.#peers.every(({ rendezvous }) => rendezvous.every(({ online }) => online))
  }

  /** Waits until it is whole. */
  async whole() {
    const look = async (state) => {
      while (!this.isWhole && !state.late) await sleep(AGAIN_MS)
    }
    const state = { late: false }
    await this.#deed('registering', look(state)).finally(() => {
      state.late = true
    })
  }

  /** Says what was being done when it failed. */
  async #deed(name, work) {
    const deed = { name, began: performance.now() }
    this.#deeds.add(deed)
    let timer
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no end after ${DEED_MS / 1_000} s`)), DEED_MS)
    })
    try {
      return await Promise.race([work, late])
    } catch (error) {
      throw new Error(`${name}: ${error.code ?? ''} ${error.message}`, { cause: error })
    } finally {
      clearTimeout(timer)
      this.#deeds.delete(deed)
    }
  }

  /** What has been under way for `ms` or longer, for people. */
  slow(ms) {
    const now = performance.now()
    const seconds = (span) => `${Math.round(Math.max(0, span) / 1_000)} s`
    const slow = [...this.#deeds].filter(({ began }) => now - began >= ms)
    const said = slow.map(({ name, began }) => `${name} for ${seconds(now - began)}`)
    const lost = [...this.#dialledAt.values()]
    if (said.length > 0 && lost.length > 0)
      said.push(`lost servers are dialled within ${seconds(Math.max(...lost) - now)}`)
    return said
  }

  /** Sessions between peers. */
  get sessions() {
    const ids = new Set(this.#peers.map(({ id }) => id))
    return this.#peers.flatMap(({ sessions }) => sessions).filter(({ peer }) => ids.has(peer)).length
  }

  async #join(identity) {
    const peer = await Peer.create({
      identity,
      rendezvous: this.#servers.map(({ url }) => url),
      listen: [`${HOST}:0`],
      firewall: { allow: 'all' },
      // Sessions that are opened to be introduced by stay open, and every one here is counted.
      askPeers: false,
      udp: this.#udp,
      webrtc: this.#webrtc ? {} : false,
    })
    const lost = (rendezvous) => `${peer.id} ${rendezvous}`
    peer.addEventListener('online', ({ detail }) => this.#dialledAt.delete(lost(detail.rendezvous)))
    peer.addEventListener('offline', ({ detail: { rendezvous, retryMs } }) => {
      this.#dialledAt.set(lost(rendezvous), performance.now() + retryMs)
    })
    peer.handle(ECHO, (body) => body)
    peer.handle(NEVER, (_, { signal }) => new Promise((_, reject) => signal.addEventListener('abort', reject)))
    peer.handleStream(TAKE, async (stream) => {
      const hash = createHash('sha256')
      for await (const chunk of stream) hash.update(chunk)
      await stream.end(hash.digest())
    })
    return peer
  }

  // ---- one round ----

  async round() {
    const chance = this.#chance.fork()
    const bonds = await Promise.all(this.#pairs(chance).map((pair) => this.#connect(chance.pick(this.#ways), ...pair)))
    const roaming = { over: false }
    await Promise.all([
      ...bonds.map((bond) => this.#deed(`transfers by ${bond.via}`, this.#transfers(chance.fork(), bond, roaming))),
      ...bonds.map((bond) => this.#deed(`requests by ${bond.via}`, this.#requests(chance.fork(), bond))),
      this.#deed('roaming', this.#roam(chance.fork(), bonds)).finally(() => {
        roaming.over = true
      }),
    ])
    await Promise.all(
      bonds.map(async (bond) => {
        const own = chance.fork()
        if (own.oneIn(3)) await this.#deed(`giving up a stream by ${bond.via}`, this.#abandon(bond))
        await this.#deed(`closing by ${bond.via}`, this.#end(own, bond))
      }),
    )
    this.counts.cycles += bonds.length
    if (chance.oneIn(4)) await this.#deed('starting a peer anew', this.#restart(chance.fork()))
  }

  /** Different pairs: of two that dialled each other there would be one session only. */
  #pairs(chance) {
    const pairs = this.#peers.flatMap((one, at) => this.#peers.slice(at + 1).map((other) => [one, other]))
    const some = Array.from({ length: PAIRS }, () => pairs.splice(chance.below(pairs.length), 1)[0])
    return some.map((pair) => (chance.oneIn(2) ? pair : pair.reverse()))
  }

  async #connect(via, from, to) {
    const dial = async (signal) => {
      for (;;) {
        try {
          return await from.connect(to.id, { via, signal })
        } catch (error) {
          if (!LATER.has(error.code) || signal.aborted) throw error
          await sleep(AGAIN_MS)
        }
      }
    }
    const session = await this.#deed(`connecting by ${via}`, dial(AbortSignal.timeout(DEED_MS)))
    const other = to.sessions.find(({ id }) => id === session.id)
    session.addEventListener('path', () => this.counts.pathChanges++)
    session.addEventListener('reconnected', () => this.counts.reconnects++)
    return { via, from, to, session, other }
  }

  /** Several at once, either way, from nothing to some MB, and again until the paths have changed. */
  async #transfers(chance, { session, other }, roaming) {
    do {
      const sizes = [0, chance.below(100), chance.below(5_000), chance.below(200_000), chance.below(BULK_BYTES)]
      const transfers = sizes.map((size) =>
        this.#transfer(chance.oneIn(2) ? session : other, size, chance.below(BLOCK_BYTES - size)),
      )
      await Promise.all(transfers)
    } while (!roaming.over)
  }

  async #transfer(session, size, start) {
    const bytes = this.#block.subarray(start, start + size)
    const stream = await session.open(TAKE)
    for (let at = 0; at < size; at += WRITE_BYTES) {
      await stream.write(bytes.subarray(at, Math.min(at + WRITE_BYTES, size)))
    }
    await stream.end()
    const answer = []
    for await (const chunk of stream) answer.push(chunk)
    if (!Buffer.concat(answer).equals(sha256(bytes))) throw new Error(`${size} bytes arrived as others`)
    this.counts.bytes += size
  }

  async #requests(chance, { session }) {
    const bodies = Array.from({ length: REQUESTS }, () => this.#block.subarray(0, chance.below(3_000)))
    const answered = bodies.map(async (body) => {
      const answer = await request(session, ECHO, body, { timeoutMs: DEED_MS })
      if (!Buffer.from(answer).equals(body)) throw new Error('another echo came')
    })
    const stop = new AbortController()
    const aborted = failsWith(['ERR_PEERLINE_ABORTED'], request(session, NEVER, bodies[0], { signal: stop.signal }))
    const late = failsWith(['ERR_PEERLINE_TIMEOUT'], request(session, NEVER, bodies[1], { timeoutMs: 30 }))
    setImmediate(() => stop.abort())
    await Promise.all([...answered, aborted, late])
    this.counts.requests += REQUESTS + 2
  }

  // ---- what happens to the network meanwhile ----

  async #roam(chance, bonds) {
    if ((performance.now() - this.#began) % (STORM_MS + PEACE_MS) >= STORM_MS) return
    for (let blows = 1 + chance.below(BLOWS); blows > 0; blows--) {
      await sleep(chance.below(60))
      await this.#strike(chance, bonds)
      // What was struck is in use again: the next blow, or the end, comes after it.
      await Promise.all(bonds.map(({ session, other }) => this.#proven(session, other)))
    }
  }

  #strike(chance, bonds) {
    const direct = new Set(this.#peers.flatMap(({ addresses }) => addresses.map(portOf)))
    switch (chance.below(8)) {
      case 0:
      case 1:
        this.counts.cuts += this.ground.cut(({ remotePort }) => direct.has(remotePort))
        return
      case 2:
        this.counts.cuts += this.ground.cut(({ remotePort }) => !direct.has(remotePort)) // those with servers
        return
      case 3:
        this.counts.cuts += this.ground.cut(() => true)
        return
      case 4:
        this.ground.network = chance.below(255)
        this.counts.networks++
        return
      case 5:
        return this.#restartServer()
      default:
        return this.#move(chance.pick(bonds).to)
    }
  }

  /** Another address, and soon after the old ones are gone. */
  async #move(peer) {
    const old = peer.addresses.map(portOf).filter((port) => this.ground.isListening(port))
    this.#house = (this.#house % 250) + 1
    await peer.listen(`127.0.1.${this.#house}:0`)
    for (const port of old) this.counts.cuts += this.ground.forget(port)
    this.counts.moves++
  }

  /** Resolves when what is sent now has been answered, either way. */
  async #proven(session, other) {
    const body = this.#block.subarray(0, 100)
    await Promise.all([session, other].map((side) => request(side, ECHO, body, { timeoutMs: DEED_MS })))
  }

  // ---- ends ----

  /** Streams given up in the middle, at this side. */
  async #abandon({ session }) {
    const stream = await session.open(TAKE)
    const writing = stream.write(this.#block)
    await new Promise(setImmediate)
    stream.reset()
    await failsWith(ENDS, writing)
    await stream.closed
    this.counts.abandoned++
  }

  /** In order, by either side or both at once, or abruptly. */
  async #end(chance, { session, other }) {
    const signal = AbortSignal.timeout(CLOSE_MS)
    switch (chance.below(4)) {
      case 0:
        await session.close({ signal })
        break
      case 1:
        await other.close({ signal })
        break
      case 2:
        await Promise.all([session.close({ signal }), other.close({ signal })])
        break
      default: {
        // With something on its way.
        const stream = await session.open(TAKE)
        const writing = failsWith(ENDS, stream.write(this.#block))
        await Promise.all([session.close({ signal: AbortSignal.timeout(AGAIN_MS) }), writing])
      }
    }
    await Promise.all([session.closed, other.closed])
  }

  /** With somebody's data on its way to it. */
  async #restart(chance) {
    const at = LASTING_PEERS + chance.below(PEERS - LASTING_PEERS)
    const old = this.#peers[at]
    const { session } = await this.#connect('auto', this.#peers[chance.below(LASTING_PEERS)], old)
    const stream = await session.open(TAKE)
    const writing = failsWith(ENDS, stream.write(this.#block))
    await Promise.all([old.close({ signal: AbortSignal.timeout(AGAIN_MS) }), writing, session.closed])
    this.#peers[at] = await this.#join(old.identity)
    this.counts.peerRestarts++
  }

  async #restartServer() {
    const listen = new URL(this.#servers[1].url.replace(/^ws/, 'http')).host
    await this.#servers[1].close()
    this.#servers[1] = await Server.create({ listen, identity: this.#serverIdentities[1] })
    this.counts.serverRestarts++
  }
}
