/**
 * Peerline for chaos-contract.md: one peer, one busy stream and some idle ones in one session. What the session does by
 * itself is all there is: nothing here dials again.
 */
import { Peer } from '../dist/index.js'
import { CHUNK, digestOf, Meter, now, obey, say, source } from './chaos-kit.js'

const BUSY = '/lab/chaos/1'
const IDLE = '/lab/chaos-idle/1'

/** ms to be known at every server, and to have a session. */
const ONLINE_MS = 20_000

/** ms that the idle streams have to end after the busy one has failed. */
const STREAMS_MS = 2_000

/** ms between looks at what has happened to paths, and what was tried: the session remembers the last of each. */
const HISTORY_MS = 100

let peer
/** How each stream of the transfer ended: 'end', or the code of an error. */
const ends = []
/** Settle when the idle streams have ended. */
const idling = []
/** What the busy stream is to carry, once `receive` has said so. */
let expected
let over = false

/** Tells how a session is doing, and what happens to its paths. */
function follow(session) {
  const began = now()
  const state = (name) => say('state', { state: name, path: session.path ?? null, session: session.id })
  state(session.state)
  session.addEventListener('open', () => state('open'))
  session.addEventListener('path', () => state(session.state))
  session.addEventListener('close', () => state('closed'))
  for (const name of ['reconnecting', 'reconnected']) session.addEventListener(name, () => state(session.state))
  const told = new WeakSet()
  const tell = () => {
    for (const event of session.pathHistory) {
      if (told.has(event)) continue
      told.add(event)
      const { atMs, kind, remote, what, detail } = event
      say('trace', { at: began + atMs, text: `${kind} ${what} ${remote}${detail === undefined ? '' : ` (${detail})`}` })
    }
    for (const attempt of session.why().attempts) {
      if (told.has(attempt)) continue
      told.add(attempt)
      const { round, way, targets, outcome, detail, ms } = attempt
      say('trace', {
        text: `round ${round}, ${way} to ${targets.join(' ')}: ${outcome}, ${detail}, ${Math.round(ms)} ms`,
      })
    }
  }
  const timer = setInterval(tell, HISTORY_MS)
  session.addEventListener('close', () => {
    clearInterval(timer)
    tell()
  })
}

/** Waits for the end of a stream that carries nothing. */
function watchIdle(stream) {
  return (async () => {
    for await (const _ of stream);
  })().then(
    () => ends.push('end'),
    ({ code }) => ends.push(code),
  )
}

/** The transfer has failed: tells it when the other streams have ended too, or have had their time. */
async function fail(error, found) {
  if (over) return
  over = true
  const at = now()
  ends.push(error.code)
  let timer
  const patience = new Promise((resolve) => {
    timer = setTimeout(resolve, STREAMS_MS)
  })
  await Promise.race([Promise.all(idling), patience])
  clearTimeout(timer)
  const streams = {}
  for (const end of ends) streams[end] = (streams[end] ?? 0) + 1
  say('failed', { at, code: error.code ?? 'none', message: error.message, ...found, streams })
}

async function receive(stream) {
  const { bytes, seed } = expected
  const meter = new Meter(seed, bytes, (progress) => say('progress', progress))
  try {
    for await (const chunk of stream) meter.take(chunk)
    const found = meter.end()
    over = true
    say('done', found)
    // The other side learns that all of it was taken.
    await stream.end(Buffer.from(found.sha256))
  } catch (error) {
    if (over) say('trace', { text: `after the end: ${error.message}` })
    else await fail(error, meter.end())
  }
}

async function send(stream, { bytes, seed }, idle) {
  const content = source(seed)
  let sent = 0
  try {
    while (sent < bytes) {
      const chunk = content.next(Math.min(CHUNK, bytes - sent))
      await stream.write(chunk)
      sent += chunk.length
    }
    await stream.end()
    let digest = ''
    for await (const chunk of stream) digest += Buffer.from(chunk).toString()
    if (digest !== digestOf(seed, bytes)) throw new Error('the other side took other bytes')
    over = true
    say('done', { bytes, sha256: digest, differsAt: null })
    for (const one of idle) await one.end()
  } catch (error) {
    await fail(error, { bytes: sent })
  }
}

await obey({
  async start({ servers, via, reconnectMs }) {
    peer = await Peer.create({ rendezvous: servers, firewall: { allow: 'all' }, via, reconnectMs })
    const online = new Set()
    let tell
    const everywhere = new Promise((resolve) => {
      tell = resolve
    })
    peer.addEventListener('online', ({ detail }) => {
      say('trace', { text: `online at ${detail.rendezvous}` })
      if (online.add(detail.rendezvous).size === servers.length) tell()
    })
    peer.addEventListener('offline', ({ detail: { rendezvous, error, retryMs } }) => {
      say('trace', { text: `offline at ${rendezvous}, again in ${Math.round(retryMs)} ms: ${error.message}` })
    })
    peer.addEventListener('session', ({ detail }) => follow(detail.session))
    const timer = setTimeout(() => {
      throw new Error(`online at ${online.size} of ${servers.length} servers after ${ONLINE_MS} ms`)
    }, ONLINE_MS)
    await everywhere
    clearTimeout(timer)
    await peer.settled()
    say('ready', { id: peer.id })
  },

  receive(command) {
    expected = command
    peer.handleStream(BUSY, receive)
    peer.handleStream(IDLE, async (stream) => {
      const idle = watchIdle(stream)
      idling.push(idle)
      await idle
      await stream.end().catch(() => {})
    })
    say('receiving')
  },

  async send({ to, bytes, seed, idle: count }) {
    const session = await peer.connect(to, { signal: AbortSignal.timeout(ONLINE_MS) })
    const idle = []
    for (let at = 0; at < count; at++) idle.push(await session.open(IDLE))
    for (const stream of idle) idling.push(watchIdle(stream))
    const stream = await session.open(BUSY)
    say('sending')
    void send(stream, { bytes, seed }, idle)
  },

  async stop() {
    await peer?.close({ signal: AbortSignal.timeout(1_000) })
    process.exit(0)
  },
})
