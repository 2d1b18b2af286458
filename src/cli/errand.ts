/**
 * An order of the command line, brought to where it can be carried out: the command that runs with the identity, or, when
 * none does, its state file, held as by a command that runs.
 *
 *     send --nobody--> listen --held--> open the state, carry it out, close
 *      ^ \--busy--> wait      \--somebody was quicker-->\
 *       \----------------------------------------------/
 */
import { PeerlineError } from '../errors.ts'
import { sendOrder } from './control-client.ts'
import type { Json } from './control-lines.ts'
import { ControlServer } from './control-server.ts'
import type { IdentityOption } from './options.ts'
import type { Output } from './output.ts'
import { pause, type Running } from './run.ts'
import { type Places, placesOf } from './state-places.ts'

/** ms between two attempts while another command begins, or holds the state for a moment. */
const AGAIN_MS = 50

/** ms for all attempts: a command begins within one second, and an order takes less. */
const PATIENCE_MS = 10_000

/** What came of an order. */
export interface Outcome {
  readonly done: Json
  /** A command runs, and has taken it over. */
  readonly live: boolean
}

/**
 * Has an order carried out.
 * @param onItem told of each item of a list
 * @throws PeerlineError of whoever carries it out; `ERR_PEERLINE_FILE` of the state
 */
export async function carryOut(
  { identity }: IdentityOption,
  order: Json,
  { signal, out }: Running,
  onItem: (item: Json) => void = () => {},
): Promise<Outcome> {
  const places = await placesOf(identity)
  const endless = order.follow === true
  return insist(signal, async () => {
    const done = await sendOrder(places.socket, order, { signal, onItem, endless })
    if (done !== undefined) return { done, live: true }
    if (endless) {
      const recover = 'Start one, such as `peerline up`; without --follow it tells what has been.'
      throw new PeerlineError('ERR_PEERLINE_UNREACHABLE', 'no peerline runs with this identity', { recover })
    }
    const held = await ControlServer.listen(places.socket)
    if (held === undefined) return undefined
    try {
      return { done: await carryOutHere(places, order, { signal, out }, onItem), live: false }
    } finally {
      await held.close()
    }
  })
}

/**
 * The right to hold the state of an identity, or undefined when another command runs that does.
 * @throws PeerlineError `ERR_PEERLINE_FILE`
 */
export async function holdState({ socket }: Places, signal: AbortSignal): Promise<ControlServer | undefined> {
  const { held } = await insist(signal, async () => {
    const held = await ControlServer.listen(socket)
    if (held !== undefined) return { held }
    try {
      // A command that only gives an order is gone in a moment: it says that it is busy.
      const there = await sendOrder(socket, { order: 'hello' }, { signal })
      return there === undefined ? undefined : { held: undefined }
    } catch (error) {
      if (isBusy(error) || (error as PeerlineError).code === 'ERR_PEERLINE_CLOSED') return undefined
      return { held: undefined }
    }
  })
  return held
}

/** Tries until something comes of it, for as long as others are busy. */
async function insist<T>(signal: AbortSignal, attempt: () => Promise<T | undefined>): Promise<T> {
  for (const until = performance.now() + PATIENCE_MS; ; ) {
    signal.throwIfAborted()
    let busy = new PeerlineError('ERR_PEERLINE_BUSY', 'other commands are busy with the state of this identity')
    try {
      const done = await attempt()
      if (done !== undefined) return done
    } catch (error) {
      if (!isBusy(error)) throw error
      busy = error as PeerlineError
    }
    if (performance.now() > until) throw busy
    await pause(AGAIN_MS, signal)
  }
}

async function carryOutHere(
  places: Places,
  order: Json,
  { signal, out }: Running,
  onItem: (item: Json) => void,
): Promise<Json> {
  const { FileStore } = await import('../discovery/index.ts')
  const { Memory } = await import('../peer/memory.ts')
  const { readLog } = await import('./decision-log.ts')
  const { answererAt } = await import('./orders.ts')
  const memory = await Memory.open(new FileStore(places.state), { rules: [] })
  try {
    tellDamages(memory.damages, out)
    const log = {
      tail: (count: number) => readLog(places.log, count),
      follow: () => {
        throw new PeerlineError('ERR_PEERLINE_INVALID', 'nobody runs: there is nothing to follow')
      },
    }
    const answer = answererAt({
      firewall: memory.firewall,
      bans: memory.bans,
      known: memory.known,
      invitations: memory.invitations,
      flush: () => memory.flush(),
      log,
    })(order, { signal })
    for (;;) {
      const { done, value } = await answer.next()
      if (done === true) return value
      onItem(value)
    }
  } finally {
    await memory.close()
  }
}

/** What of the state could not be read. */
export function tellDamages(damages: readonly { readonly error: PeerlineError }[], out: Output): void {
  for (const { error } of damages) out.warn(`peerline: ${error.message}`)
}

function isBusy(error: unknown): boolean {
  return (error as PeerlineError).code === 'ERR_PEERLINE_BUSY'
}
