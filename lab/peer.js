/**
 * A peer, or a server, in a host of the lab: what the matrix asks of it.
 *
 *   serve    { listen, reflectors? }       -> { url }
 *   start    { rendezvous, options?, online? } -> { id, ms }    `online: false` does not wait for a rendezvous
 *   settled  {}                            -> once it knows its NAT: { nat, candidates }
 *   dial     { to, via?, directMs, ticks? } -> { firstByteMs, first, directMs, path, paths, why, stallMs }
 *   request  { to, early }                 -> { ms, openMs }    of a cold dial: to the answer, and to the session's first path
 *   bulk     { to, ms, via? }              -> { mbPerSecond, late, paths }    what arrived there, and in the last second
 *   forget   {}                            -> every session with a peer is over
 */
import { Peer } from '../dist/index.js'
import { Server } from '../dist/server/index.js'
import { serve } from './agent.js'

const ECHO = '/lab/echo/1'
const SINK = '/lab/sink/1'
const ASK = '/lab/ask/1'

/** ms between two ticks of a running stream, whose longest gap is the stall. */
const TICK_MS = 5

/** Bytes of one write of bulk data. */
const CHUNK = new Uint8Array(65_536)

let peer
let server
/** Those with other peers; not with the rendezvous. */
const sessions = new Set()

serve({
  async serve({ listen, reflectors = [] }) {
    server = await Server.create({ listen, reflectors })
    return { url: server.url }
  },

  async start({ rendezvous, options = {}, online = true }) {
    const started = performance.now()
    peer = await Peer.create({ rendezvous, firewall: { allow: 'all' }, ...options })
    peer.handleStream(ECHO, async (stream) => {
      for await (const chunk of stream) await stream.write(chunk)
      await stream.end()
    })
    peer.handle(ASK, (body) => body, { replaySafe: true })
    peer.handleStream(SINK, async (stream) => {
      // Tells every 100 ms how much has come since the first byte.
      let bytes = 0
      let since
      const timer = setInterval(() => {
        if (since === undefined) return
        const line = JSON.stringify({ bytes, ms: performance.now() - since })
        stream.write(Buffer.from(`${line}\n`)).catch(() => clearInterval(timer))
      }, 100)
      try {
        for await (const chunk of stream) {
          since ??= performance.now()
          bytes += chunk.length
        }
      } finally {
        clearInterval(timer)
      }
    })
    peer.addEventListener('session', ({ detail: { session } }) => {
      sessions.add(session)
      session.addEventListener('close', () => sessions.delete(session))
    })
    if (online) await peer.online({ signal: AbortSignal.timeout(20_000) })
    return { id: peer.id, ms: performance.now() - started }
  },

  async settled() {
    await peer.settled()
    return { nat: peer.nat, candidates: peer.candidates }
  },

  async dial({ to, via, directMs = 3_000, ticks = false }) {
    const started = performance.now()
    const since = () => performance.now() - started
    const signal = AbortSignal.timeout(30_000)
    const session = await peer.reach(to, { ...(via === undefined ? {} : { via }), signal })
    const events = []
    let direct
    const tellDirect = []
    const onPath = (kind) => {
      events.push({ ms: Math.round(since()), kind })
      if (kind === 'relay' || direct !== undefined) return
      direct = since()
      for (const tell of tellDirect) tell()
    }
    session.addEventListener('open', ({ detail }) => onPath(detail.path))
    session.addEventListener('path', ({ detail }) => onPath(detail.to))
    if (session.path !== undefined) onPath(session.path)
    const stream = await session.open(ECHO, { signal })
    await stream.write(Uint8Array.of(1))
    const echoed = stream[Symbol.asyncIterator]()
    await echoed.next()
    const firstByteMs = since()
    const first = session.path
    let stallMs = 0
    let ticking = ticks
    const ticker = (async () => {
      let last = performance.now()
      const reader = (async () => {
        for (;;) {
          const { done } = await echoed.next()
          if (done) return
          stallMs = Math.max(stallMs, performance.now() - last)
          last = performance.now()
        }
      })()
      while (ticking) {
        await stream.write(Uint8Array.of(2))
        await new Promise((resolve) => setTimeout(resolve, TICK_MS))
      }
      await stream.end()
      await reader
    })()
    if (direct === undefined && directMs > 0) {
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, Math.max(0, directMs - since()))
        tellDirect.push(() => {
          clearTimeout(timer)
          resolve()
        })
      })
    }
    if (ticks) await new Promise((resolve) => setTimeout(resolve, 500))
    ticking = false
    await ticker
    return {
      firstByteMs,
      first,
      directMs: direct ?? null,
      path: session.path,
      paths: session.paths,
      events,
      rttMs: session.rttMs,
      why: session.why(),
      stallMs: ticks ? stallMs : null,
    }
  },

  async request({ to, early }) {
    const started = performance.now()
    await peer.request(to, ASK, Uint8Array.of(1), { replaySafe: early })
    const ms = performance.now() - started
    await peer.connect(to)
    return { ms, openMs: performance.now() - started }
  },

  async bulk({ to, ms, via, warmMs = 1_500 }) {
    const session = await peer.connect(to, via === undefined ? {} : { via })
    // Both kinds of direct path get the time to be there.
    await new Promise((resolve) => setTimeout(resolve, warmMs))
    const stream = await session.open(SINK)
    const started = performance.now()
    const marks = []
    const reader = (async () => {
      let text = ''
      for await (const chunk of stream) {
        text += Buffer.from(chunk).toString()
        const lines = text.split('\n')
        text = lines.pop()
        for (const line of lines) marks.push(JSON.parse(line))
      }
    })().catch(() => {})
    while (performance.now() - started < ms) await stream.write(CHUNK)
    stream.reset(0)
    await Promise.race([reader, new Promise((resolve) => setTimeout(resolve, 500))])
    const at = (wanted) => marks.findLast(({ ms }) => ms <= wanted) ?? { bytes: 0, ms: 0 }
    const last = marks.at(-1) ?? { bytes: 0, ms: 1 }
    const settled = at(3_000)
    return {
      mbPerSecond: last.bytes / 1e6 / (last.ms / 1_000),
      settledMbPerSecond: (last.bytes - settled.bytes) / 1e6 / ((last.ms - settled.ms) / 1_000),
      marks,
      path: session.path,
      paths: session.paths,
      why: session.why(),
    }
  },

  async forget() {
    const open = [...sessions]
    await Promise.all(open.map((session) => session.close({ signal: AbortSignal.timeout(1_000) })))
    return { sessions: open.length }
  },
})
