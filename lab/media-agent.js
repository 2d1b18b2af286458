/**
 * A peer, or a server, in a host of the lab, that is found by one medium or another, and may be started again with what it
 * has remembered.
 *
 *   serve  { listen, ledger? }           -> { url }               a server; `ledger`: the file of one that it offers
 *   web    { port }                      -> {}                    a web service that tells who asks where it is seen
 *   start  { options, online? }          -> { id, addresses }     `store`, `ledgers` and `identity` by the names of their files
 *   settle {}                            -> { nat, candidates }   once it has asked what others see of it
 *   book   { of }                        -> what the address book has of a peer
 *   note   { of, address?, rendezvous? } -> {}                    writes into the address book
 *   dial   { to, addresses?, medium?, directMs?, ms? } -> { ms, path, direct, remote, signaling }, or { ms, failed: { code, message } }
 *   answer { offer }                     -> { answer }            by hand
 *   take   { answer }                    -> {}
 *   forget { of }                        -> {}                    its sessions with a peer are over
 *   saved, stop {}                       -> {}
 *
 * It tells `offer` { text } when one is to be carried by hand, and `open` { peer, path } of each session.
 */
import { createServer } from 'node:http'
import { FileStore, LogLedger, loadOrCreateIdentity, Peer } from '../dist/index.js'
import { Server } from '../dist/server/index.js'
import { emit, serve } from './agent.js'

const DIAL_MS = 30_000

let peer
let hand
/** Those that have not ended. */
const sessions = new Set()

async function made({ store, identity, ledgers = [], ...options }) {
  const open = async ({ file, ...rest }) =>
    file === undefined ? rest : { ...rest, ledger: await LogLedger.open(file) }
  return {
    firewall: { allow: 'all' },
    ...options,
    ...(store === undefined ? {} : { store: new FileStore(store) }),
    ...(identity === undefined ? {} : { identity: await loadOrCreateIdentity(identity) }),
    ledgers: await Promise.all(ledgers.map(open)),
  }
}

/** The kind of the direct path of a session, once it is in use, or after `ms` none. */
function directPath(session, ms) {
  const isDirect = (kind) => kind !== undefined && kind !== 'relay'
  if (isDirect(session.path) || ms === 0) return isDirect(session.path) ? session.path : null
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms, null)
    session.addEventListener('path', ({ detail: { to } }) => {
      if (!isDirect(to)) return
      clearTimeout(timer)
      resolve(to)
    })
  })
}

serve({
  async serve({ listen, ledger }) {
    const { url } = await Server.create({ listen, ...(ledger === undefined ? {} : { ledger }) })
    return { url }
  },

  async web({ port }) {
    const web = createServer((request, response) => response.end(request.socket.remoteAddress.replace('::ffff:', '')))
    await new Promise((resolve) => web.listen(port, resolve))
  },

  async start({ options = {}, online = false }) {
    peer = await Peer.create(await made(options))
    hand = peer.byHand((text) => emit('offer', { text }))
    peer.addEventListener('session', ({ detail: { session } }) => {
      sessions.add(session)
      session.addEventListener('close', () => sessions.delete(session))
      emit('open', { peer: session.peer, path: session.path })
    })
    if (online) await peer.online({ signal: AbortSignal.timeout(DIAL_MS) })
    return { id: peer.id, addresses: peer.addresses }
  },

  async settle() {
    await peer.settled()
    return { nat: peer.nat, candidates: peer.candidates }
  },

  book: ({ of }) => peer.known.get(of),

  note({ of, address, rendezvous }) {
    if (address !== undefined) peer.known.give(of, address)
    if (rendezvous !== undefined) peer.known.learnRendezvous(of, rendezvous)
  },

  async dial({ to, addresses = [], medium, directMs = 0, ms = DIAL_MS }) {
    const began = performance.now()
    const since = () => performance.now() - began
    try {
      const session = await peer.connect(to, {
        addresses,
        ...(medium === 'by hand' ? { medium: hand } : {}),
        signal: AbortSignal.timeout(ms),
      })
      const openMs = since()
      const { path } = session
      const remote = session.pathInfo.find(({ active }) => active)?.remote
      const direct = await directPath(session, directMs)
      return {
        ms: openMs,
        path,
        direct: direct && { path: direct, ms: since() },
        remote,
        signaling: session.why().signaling,
      }
    } catch ({ code, message }) {
      return { ms: since(), failed: { code, message } }
    }
  },

  answer: async ({ offer }) => ({ answer: await hand.answer(offer) }),
  take: ({ answer }) => hand.take(answer),
  saved: () => peer.saved(),

  async forget({ of }) {
    const open = [...sessions].filter((session) => session.peer === of)
    await Promise.all(open.map((session) => session.close({ signal: AbortSignal.timeout(1_000) })))
  },

  stop: () => peer.close(),
})
