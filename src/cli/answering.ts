/**
 * The peer of a command that others dial: with the state of its identity, its control socket and its log, and the owner at
 * the terminal where that is wanted.
 *
 * What `--allow` says is said for a group, so that it is kept nowhere, and that rules about a peer by its id go first.
 */
import { FileStore, type Store } from '../discovery/index.ts'
import { PeerlineError } from '../errors.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'
import type { Peer } from '../peer/index.ts'
import type { FirewallOptions } from '../policy/firewall.ts'
import { ASK_MS, type Asker } from './asker.ts'
import type { ControlServer } from './control-server.ts'
import { DecisionLog } from './decision-log.ts'
import { holdState, tellDamages } from './errand.ts'
import { closePeer, makePeer } from './local-peer.ts'
import type { AllowOption, AskOption, PeerOption } from './options.ts'
import { answererAt, type Desk } from './orders.ts'
import type { Output } from './output.ts'
import type { Running } from './run.ts'
import { placesOf } from './state-places.ts'

/** Of the peers that `--allow` names. */
const GROUP = 'command-line'

/** Strangers that are named on standard error when they are refused; more are refused in silence. */
const MAX_NAMED_STRANGERS = 100

export interface Answering {
  readonly peer: Peer
  /** Ends it in order, within what a stopped command has. */
  close(): Promise<void>
}

/** Makes the peer of a command that others dial; it answers pings. @throws PeerlineError as `Peer.create` */
export async function answeringPeer(
  options: PeerOption & AllowOption & AskOption,
  { out, signal }: Running,
): Promise<Answering> {
  if (options.ask === true && !(process.stdin.isTTY && process.stderr.isTTY)) {
    const recover = 'Name peers with --allow, or allow them while it runs with `peerline allow PEER`.'
    throw new PeerlineError('ERR_PEERLINE_INVALID', '--ask needs a terminal', { recover })
  }
  const places = await placesOf(options.identity)
  let held: ControlServer | undefined
  let unheld =
    'another peerline runs with this identity: it alone learns of changes, and remembers; this one knows what is saved'
  try {
    held = await holdState(places, signal)
  } catch (error) {
    signal.throwIfAborted()
    unheld = `nothing is remembered, and no command reaches this one: ${(error as Error).message}`
  }
  const log = held && new DecisionLog(places.log, (error) => out.warn(`peerline: the log: ${(error as Error).message}`))
  const store = new FileStore(places.state)
  let peer: Peer | undefined
  const asker = options.ask === true ? await askerAtTerminal((id) => peer?.known.get(id)?.name) : undefined
  try {
    peer = await makePeer(options, {
      firewall: {
        ...rulesOf(options),
        ...(asker === undefined ? {} : { ask: asker.ask, approveTimeoutMs: ASK_MS }),
        ...(log === undefined ? {} : { audit: { sink: (entry) => log.add(entry) } }),
      },
      store: held === undefined ? readOnly(store) : store,
    })
  } catch (error) {
    asker?.close()
    await held?.close()
    throw error
  }
  const { PING, pingHandler } = await import('../protocol/index.ts')
  peer.handle(PING, pingHandler)
  if (held === undefined) out.warn(`peerline: ${unheld}`)
  tellOfState(peer, options, out)
  if (asker === undefined) tellOfStrangers(peer, held === undefined ? '--allow' : 'peerline allow', out)
  if (held !== undefined && log !== undefined) held.serve(answererAt(deskOf(peer, log)))
  return { peer, close: () => close({ peer: peer!, asker, held, log }) }
}

interface Parts {
  readonly peer: Peer
  readonly asker: Asker | undefined
  readonly held: ControlServer | undefined
  readonly log: DecisionLog | undefined
}

async function close({ peer, asker, held, log }: Parts): Promise<void> {
  asker?.close()
  // Orders are told to come again, until the state is saved and free.
  held?.pause()
  try {
    await closePeer(peer)
    await log?.close()
  } finally {
    await held?.close()
  }
}

/** What the command line says of who may come in; nothing else lets anybody in but what is stored, or asked. */
function rulesOf({ allow = [] }: AllowOption): FirewallOptions {
  const named = allow.filter((one) => one !== 'all')
  return {
    groups: { [GROUP]: named },
    rules: [
      // For both directions, so that a stored rule for everyone, which is for one, goes first.
      ...(allow.includes('all') ? [{ subject: 'everyone', action: 'allow' as const }] : []),
      ...(named.length === 0
        ? []
        : [{ subject: `group:${GROUP}`, direction: 'in' as const, action: 'allow' as const }]),
    ],
  }
}

function deskOf(peer: Peer, log: DecisionLog): Desk {
  return {
    firewall: peer.firewall,
    bans: peer.bans,
    known: peer.known,
    invitations: peer.invitations,
    record: (expiresAt) => peer.record(expiresAt),
    get sessions() {
      return peer.sessions
    },
    flush: () => peer.saved(),
    log,
  }
}

/** A store that is another's. */
function readOnly(store: Store): Store {
  return { load: () => store.load(), save: () => Promise.resolve() }
}

async function askerAtTerminal(nameOf: (peer: PeerId) => string | undefined): Promise<Asker> {
  const { Asker } = await import('./asker.ts')
  return new Asker({ input: process.stdin, output: process.stderr, nameOf })
}

/** Tells what of the state is damaged or cannot be saved, and whom it shuts out though the command line lets them in. */
function tellOfState(peer: Peer, { allow = [] }: AllowOption, out: Output): void {
  tellDamages(peer.damages, out)
  peer.addEventListener('storeError', ({ detail: { error } }) => out.warn(`peerline: not saved: ${error.message}`))
  for (const one of allow) {
    if (one === 'all') continue
    const id = parsePeerId(one)
    const { action, rule } = peer.firewall.decide({ peer: id, direction: 'in', object: 'connection' })
    if (peer.bans.isBanned(id)) out.warn(`peerline: --allow ${id} has no effect: it is banned; peerline unban ${id}`)
    else if (action === 'deny') {
      out.warn(`peerline: --allow ${id} has no effect: the rule ${rule?.id} denies it; peerline allow ${id}`)
    }
  }
}

/** Tells who was refused for want of a rule, once each. */
function tellOfStrangers(peer: Peer, how: string, out: Output): void {
  const named = new Set<string>()
  peer.firewall.addEventListener('decision', ({ detail: { action, reason, question } }) => {
    const { peer: from, direction, object } = question
    if (action === 'allow' || reason !== 'no-rule' || direction !== 'in') return
    const what = object === 'connection' ? '' : ` the use of ${object}`
    if (named.has(from + what) || named.size >= MAX_NAMED_STRANGERS) return
    named.add(from + what)
    out.say(`refused ${from}${what}; ${how} ${from}${what === '' ? '' : ` --protocol ${object}`} would let it in`)
  })
}
