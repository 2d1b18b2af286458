/**
 * The allowed peer: requests at a steady pace in one session, and beside it a visitor who dials anew again and again.
 *
 * A request goes out when it is due, whether or not the one before was answered, and its time counts from then.
 */
import { Identity, Peer } from '../../dist/index.js'
import { answer } from './child.js'

/** ms between two requests, and between two visits. */
const REQUEST_EVERY_MS = 5
const VISIT_EVERY_MS = 250

/** ms for a visit: what people wait for. */
const VISIT_MS = 5_000

const BODY = new Uint8Array(64)

let to
let friend
let visitor
let session
let run

async function visit() {
  const from = performance.now()
  try {
    const signal = AbortSignal.timeout(VISIT_MS)
    const visited = await visitor.connect(to.id, { addresses: [to.address], signal })
    try {
      await visitor.request(to.id, 'echo', BODY, { signal })
    } finally {
      await visited.close({ signal: AbortSignal.timeout(500) })
    }
    return { ms: performance.now() - from }
  } catch (error) {
    return { error: `${error.code ?? error.name}: ${error.message}` }
  }
}

answer({
  async start({ id, address, seed }) {
    to = { id, address }
    const options = { listen: [], udp: false, lan: false }
    friend = await Peer.create({ ...options, identity: Identity.fromSeed(Buffer.from(seed, 'hex')) })
    visitor = await Peer.create(options)
    return [friend.id, visitor.id]
  },
  async connect() {
    session = await friend.connect(to.id, { addresses: [to.address] })
    return session.id
  },
  begin() {
    const made = { times: [], failures: [], visits: [], pending: new Set(), on: true }
    run = made
    const note = (promise) => {
      made.pending.add(promise)
      void promise.finally(() => made.pending.delete(promise))
    }
    let due = performance.now()
    const tick = () => {
      if (!made.on) return
      for (const now = performance.now(); due <= now; due += REQUEST_EVERY_MS) {
        const at = due
        note(
          friend.request(to.id, 'echo', BODY).then(
            () => made.times.push(performance.now() - at),
            (error) => made.failures.push(`${error.code}: ${error.message}`),
          ),
        )
      }
      setTimeout(tick, due - performance.now())
    }
    tick()
    const visits = async () => {
      while (made.on) {
        const next = performance.now() + VISIT_EVERY_MS
        made.visits.push(await visit())
        await new Promise((resolve) => setTimeout(resolve, next - performance.now()))
      }
    }
    note(visits())
  },
  async end() {
    run.on = false
    await Promise.all(run.pending)
    const { times, failures, visits } = run
    return { times, failures, visits, session: session.id, state: session.state }
  },
})
