/**
 * One peer, or server, that is brought into a state and closed there. Its process must then end by itself.
 *
 *   node ends-child.js CASE JSON
 *
 *     stdout  { event: 'ready', … }          in the state
 *     stdin   a line                         close now
 *     stdout  { event: 'closed', ms, left }  `left`: what close() left behind
 *             { event: 'settled', outcomes } how each wait ended that was pending: `done`, or the code of its error
 */
import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { PassThrough } from 'node:stream'
import { Peer, ping, pipeTo, receiveFile, request, sendFile, toNodeDuplex, toReadable } from '../../dist/index.js'
import { Server } from '../../dist/server/index.js'

/** ms for handles that are closed already to be gone: a turn or two of the event loop. */
const GONE_MS = 1_000

/** Bytes that no window, queue and socket on the way take at once. */
const MUCH = 64 * 2 ** 20

const [name, json] = process.argv.slice(2)
const args = JSON.parse(json)

const say = (event) => process.stdout.write(`${JSON.stringify(event)}\n`)

/** What keeps the process alive, and the sockets that are open. */
function held() {
  const files = readdirSync('/proc/self/fd').flatMap((file) => {
    try {
      return readlinkSync(`/proc/self/fd/${file}`)
    } catch {
      return [] // the one with which the directory was read
    }
  })
  return [
    ...process.getActiveResourcesInfo(),
    ...files.filter((file) => /^socket:|eventpoll|\.part$/.test(file)),
  ].sort()
}

/** What is in `now` and was not in `before`. */
function more(now, before) {
  const rest = [...before]
  return now.filter((one) => {
    const at = rest.indexOf(one)
    if (at >= 0) rest.splice(at, 1)
    return at < 0
  })
}

const pending = new Map()

/** Keeps an eye on a wait that the close must end. */
function watch(what, promise) {
  const outcome = Promise.resolve(promise).then(
    () => 'done',
    (error) => error.code ?? `bare ${error}`,
  )
  pending.set(what, outcome)
}

function once(target, type) {
  return new Promise((resolve) => target.addEventListener(type, ({ detail }) => resolve(detail), { once: true }))
}

async function makePeer(options = {}) {
  return Peer.create({
    listen: ['127.0.0.1:0'],
    firewall: { allow: 'all' },
    rendezvous: args.url === undefined ? [] : [args.url],
    udp: false,
    webrtc: false,
    lan: false,
    ...args.options,
    ...options,
  })
}

async function makeOnline(options) {
  const peer = await makePeer(options)
  await peer.online()
  return peer
}

async function writeOn(stream) {
  for (;;) await stream.write(new Uint8Array(100_000))
}

async function readOn(stream) {
  for await (const _ of stream);
}

/** Each brings a peer into its state, and answers what is to be closed. */
const cases = {
  async created() {
    return makePeer()
  },

  /** Waits to be registered. `args.until`: the event that says how far it is. */
  async registering() {
    const peer = await makePeer()
    watch('online', peer.online())
    if (args.dials !== undefined) watch('connect', peer.connect(args.dials))
    if (args.until !== undefined) await once(peer, args.until)
    return peer
  },

  async online() {
    const peer = await makeOnline()
    await peer.settled()
    return peer
  },

  async observing() {
    const peer = await makeOnline()
    watch('settled', peer.settled())
    return peer
  },

  /** The peer takes its time to let us in. */
  async dialling() {
    const peer = await makeOnline()
    watch('connect', peer.connect(args.peer))
    watch('connect again', peer.connect(args.peer))
    watch('connect by relay', peer.connect(args.peer, { via: 'relay' }))
    watch('reach', peer.reach(args.peer))
    watch('open', peer.open(args.peer, '/x/1'))
    watch('request', peer.request(args.peer, '/x/1', new Uint8Array(1)))
    return peer
  },

  /** Whoever listens at the address says nothing. */
  async 'dialling an address'() {
    const peer = await makePeer()
    watch('connect', peer.connect(args.peer, { addresses: [args.address] }))
    watch('discover', peer.discover(args.address))
    return peer
  },

  async 'dialling a relay'() {
    const peer = await makeOnline()
    watch('connect', peer.connect(args.peer, { relay: { url: args.relay, exclusive: true } }))
    watch('connect again', peer.connect(args.peer, { relay: { url: args.relay, exclusive: true } }))
    return peer
  },

  /** Both own the keys, and no path opens. */
  async connecting() {
    const peer = await makeOnline()
    const session = await peer.reach(args.peer, { via: args.via })
    watch('opened', session.opened())
    watch('closed', session.closed)
    const stream = await session.open('/x/1')
    watch('write', stream.write(new Uint8Array(MUCH)))
    watch('read', readOn(stream))
    say({ state: session.state })
    return peer
  },

  async idle() {
    const peer = await makeOnline()
    const session = await peer.connect(args.peer, { via: args.via })
    watch('closed', session.closed)
    return peer
  },

  /** The other side reads nothing. */
  async sending() {
    const peer = await makeOnline()
    const session = await peer.connect(args.peer, { via: args.via })
    const stream = await session.open('/stuck/1')
    watch('write', writeOn(stream))
    watch('read', readOn(stream))
    return peer
  },

  /** The other side sends as much as it can. */
  async receiving() {
    const peer = await makeOnline()
    const session = await peer.connect(args.peer, { via: args.via })
    const stream = await session.open('/source/1')
    await stream.write(Uint8Array.of(1))
    await stream.next()
    watch('read', readOn(stream))
    return peer
  },

  /** Everything that can wait in a session. */
  async waiting() {
    const peer = await makeOnline()
    const session = await peer.connect(args.peer)
    watch('request', request(session, '/never/1', new Uint8Array(9)))
    watch('ping', ping(session))
    watch('pipeTo', pipeTo(session, new PassThrough()))
    const directory = mkdtempSync(path.join(tmpdir(), 'peerline-ends-'))
    process.once('exit', () => rmSync(directory, { recursive: true }))
    writeFileSync(path.join(directory, 'file'), new Uint8Array(1_000_000))
    watch('sendFile', sendFile(session, path.join(directory, 'file')))
    watch('receiveFile', receiveFile(await session.open('/stuck/1'), { from: session.peer, directory }))
    const stream = await session.open('/stuck/1')
    watch('next', stream.next())
    watch('stream closed', stream.closed)
    watch(
      'readable',
      toReadable(await session.open('/stuck/1'))
        .getReader()
        .read(),
    )
    const duplex = toNodeDuplex(await session.open('/stuck/1'))
    watch('duplex', new Promise((_, reject) => duplex.on('error', reject).resume()))
    const full = []
    while (session.streams < 256) full.push(session.open('/stuck/1'))
    await Promise.all(full)
    watch('session open', session.open('/x/1'))
    watch('session closed', session.closed)
    return peer
  },

  /** The owner is asked whether somebody may come in. */
  async asked() {
    let tell
    const asked = new Promise((resolve) => {
      tell = resolve
    })
    const approve = () => {
      tell()
      return new Promise(() => {})
    }
    const peer = await makeOnline({ firewall: { approve } })
    say({ id: peer.id })
    await asked
    return peer
  },

  /** Somebody else is killed: `args.session`: with a session that has something on its way. */
  async bereft() {
    const peer = await makeOnline()
    const session = await peer.connect(args.peer)
    const stream = await session.open('/stuck/1')
    watch('write', writeOn(stream))
    watch('read', readOn(stream))
    watch('request', request(session, '/never/1', new Uint8Array(1), { timeoutMs: 60_000 }))
    return peer
  },

  /** Who is killed. */
  async victim() {
    const peer = await makeOnline()
    peer.handleStream('/stuck/1', () => {})
    peer.handle('/never/1', () => new Promise(() => {}))
    say({ id: peer.id })
    return peer
  },

  async server() {
    const server = await Server.create({ listen: '127.0.0.1:0', ...args.options })
    say({ url: server.url })
    return server
  },
}

const lines = new Promise((resolve) => process.stdin.once('data', resolve))
say({ event: 'started' }) // and its own pipes are open
const before = held()
const subject = await cases[name]()
say({ event: 'ready' })
await lines
process.stdin.destroy()

const started = performance.now()
const signal = args.closeMs === undefined ? {} : { signal: AbortSignal.timeout(args.closeMs) }
const closed = async () => performance.now() - started
const closings = [args.dispose ? subject[Symbol.asyncDispose]() : subject.close(signal)]
if (args.twice) closings.push(subject.close())
const ms = await Promise.all(closings.map((closing) => closing.then(closed)))
let left = more(held(), before)
for (const deadline = performance.now() + GONE_MS; left.length > 0 && performance.now() < deadline; ) {
  await new Promise((resolve) => setTimeout(resolve, 5))
  left = more(held(), before)
}
say({ event: 'closed', ms, left })
const outcomes = {}
for (const [what, outcome] of pending) outcomes[what] = await outcome
say({ event: 'settled', outcomes })
