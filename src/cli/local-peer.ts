/**
 * The peer of a command, as its options say.
 */
import type { Store } from '../discovery/index.ts'
import { type ErrorCode, isPeerlineError, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Peer, PeerOptions } from '../peer/index.ts'
import type { Firewall } from '../policy/firewall.ts'
import type { EarlyAsk } from '../protocol/early.ts'
import type { Session } from '../session/index.ts'
import type { AskOption, DialOption, PeerOption } from './options.ts'
import { type Output, shellWord } from './output.ts'
import { pause, type Running } from './run.ts'

/** ms for a goodbye to everybody, within what a stopped command has. */
const CLOSE_MS = 1_500

/** ms for a dial from first to last, as long as `Peer.reach` waits by itself. */
const REACH_MS = 30_000

/** ms that servers which were named get to be there, when the address book says where else to look. */
const ELSEWHERE_MS = 3_000

/**
 * Makes the peer of a command that only dials. It knows what its identity remembers, and changes nothing of it.
 * @throws PeerlineError `ERR_PEERLINE_INVALID`, …
 */
export async function dialingPeer(options: PeerOption & DialOption, out: Output): Promise<Peer> {
  checkWays(options)
  if (options.announce === true) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', '--announce is for a command that stays: this one dials, and ends')
  }
  const peer = await makePeer(options, {
    listed: false,
    store: await memoryOf(options.identity, out),
    // Gone again before a router's mapping is worth its asking.
    portMapping: false,
    // A peer on the local network is found by its id: nobody need be asked who else is there.
    announce: 'off',
  })
  for (const { error } of peer.damages) out.warn(`peerline: ${error.message}`)
  return peer
}

/** What an identity remembers, for reading alone: whoever holds it puts away what is damaged. */
async function memoryOf(identity: string, out: Output): Promise<Store> {
  const { FileStore } = await import('../discovery/file-store.ts')
  const { placesOf } = await import('./state-places.ts')
  const store = new FileStore((await placesOf(identity)).state)
  return {
    load: () =>
      store.load().catch((error: PeerlineError) => {
        out.warn(`peerline: ${error.message}`)
        return undefined
      }),
    save: () => Promise.resolve(),
    setAside: () => Promise.resolve(store.path),
  }
}

/** Makes a peer as options say. @throws PeerlineError as `Peer.create` */
export async function makePeer(options: PeerOption, more: PeerOptions): Promise<Peer> {
  const { identity, rendezvous, ledger = [], registry, listen, via, stun, lan, mapPorts, birthday } = options
  const { Peer } = await import('../peer/index.ts')
  const ledgers =
    ledger.length === 0
      ? []
      : await import('./ledgers.ts').then((all) => all.openLedgers(ledger, { registry, create: more.listed !== false }))
  // Without a server the network around is the first place to look, unless we are on this machine alone.
  const serverless = (rendezvous ?? []).length === 0 && !isLoopback(listen)
  const making = Peer.create({
    identityFile: identity,
    rendezvous: rendezvous ?? [],
    via,
    // Where nothing is said, the peer itself knows best: on loopback it leaves both alone.
    ...(lan && !serverless ? {} : { lan }),
    ...(options.announce === true ? { announce: 'announce' as const } : {}),
    ...dhtOf(options),
    ledgers,
    ...(mapPorts ? {} : { portMapping: false }),
    ...(birthday ? {} : { birthday }),
    ...(stun === undefined ? {} : { reflectors: await readReflectors(stun) }),
    ...(listen === undefined ? {} : { listen: listen.filter((address) => address !== 'none') }),
    ...more,
  })
  return making.catch(async (error) => {
    if (ledgers.length > 0) await (await import('./ledgers.ts')).closeLedgers(ledgers)
    throw error
  })
}

function isLoopback(listen: readonly string[] = []): boolean {
  return listen.length > 0 && listen.every((address) => /^(127\.|\[::1\]|localhost|none$)/.test(address))
}

function dhtOf({ dht = [], dhtAddresses = false }: PeerOption): Pick<PeerOptions, 'dht'> {
  if (dht.length === 0) return {}
  const bootstrap = dht.filter((node) => node !== 'public')
  return { dht: { ...(bootstrap.length < dht.length ? {} : { bootstrap }), addresses: dhtAddresses } }
}

/**
 * Waits until an answering peer may be found, and says what people need to know: who it is, and who may come in.
 * Without a rendezvous that is at once.
 */
export async function ready(peer: Peer, options: PeerOption & AskOption, { signal, out }: Running): Promise<void> {
  const { rendezvous = [], ledger = [], dht = [], dhtAddresses = false } = options
  if (rendezvous.length + ledger.length > 0) {
    await online(peer, signal)
    peer.addEventListener('offline', ({ detail: { rendezvous, error, retryMs } }) =>
      out.say(`lost ${rendezvous} (${error.message}); trying again in ${(retryMs / 1000).toFixed(1)} s`),
    )
    peer.addEventListener('online', ({ detail: { rendezvous } }) => out.say(`online again at ${rendezvous}`))
    peer.addEventListener('ledgerError', ({ detail: { ledger, error, retryMs } }) => {
      const again = retryMs === undefined ? '' : `; trying again in ${(retryMs / 1000).toFixed(1)} s`
      out.warn(`peerline: ${ledger}: ${error.message}${again}`)
    })
  }
  if (dht.length > 0 && !dhtAddresses && rendezvous.length + ledger.length === 0) {
    out.warn(
      'peerline: nobody finds this machine in the DHT: give --dht-addresses, or --rendezvous or --ledger to be told there',
    )
  }
  out.event({ event: 'ready', peerId: peer.id, addresses: peer.addresses })
  out.say(`this is ${peer.id}`)
  for (const address of peer.addresses) out.say(`listening on ${address}`)
  if (options.ask !== true && !letsSomebodyIn(peer.firewall)) {
    out.warn('peerline: nobody is let in: `peerline allow PEER` lets a peer in; --allow PEER or all, for this time')
  }
}

function letsSomebodyIn(firewall: Firewall): boolean {
  return firewall
    .list()
    .some(
      ({ object, direction, action }) =>
        direction !== 'out' && action !== 'deny' && /^(connection|anything)$/.test(object),
    )
}

/** Resolves when a rendezvous has registered the peer. @throws PeerlineError why none did */
export async function online(peer: Peer, signal: AbortSignal): Promise<void> {
  try {
    await peer.online({ signal })
  } catch (error) {
    // A server that stays silent is one that cannot be reached.
    if ((error as PeerlineError).code !== 'ERR_PEERLINE_TIMEOUT') throw error
    throw new PeerlineError('ERR_PEERLINE_UNREACHABLE', (error as Error).message, { cause: error })
  }
}

/** Refuses ways to dial that exclude each other. @throws PeerlineError `ERR_PEERLINE_INVALID` */
function checkWays({ via, relay, exclusive = false }: PeerOption & DialOption): void {
  if (exclusive && relay === undefined) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', '--exclusive goes with --relay')
  }
  if (relay !== undefined && via !== 'auto' && via !== 'relay') {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `--via ${via} uses no relay, so --relay makes no sense with it`)
  }
}

/**
 * Waits until a peer may be asked for where the options say, unless the dial needs nobody: its address was given, or the address
 * book says where else to look.
 * @throws PeerlineError why none of them is there
 */
export async function askable(
  peer: Peer,
  to: PeerId,
  { address = [], rendezvous = [], ledger = [] }: PeerOption & DialOption,
  signal: AbortSignal,
): Promise<void> {
  if (address.length > 0 || rendezvous.length + ledger.length === 0) return
  const there = online(peer, signal)
  if (peer.known.addressesOf(to).length + peer.known.rendezvousOf(to).length === 0) return there
  const over = new AbortController()
  const soon = there.catch(() => {}).finally(() => over.abort())
  await Promise.race([soon, pause(ELSEWHERE_MS, over.signal)])
}

/** Dials a peer; the session may be used at once, though no path is proven yet. @throws PeerlineError as `Peer.reach` */
export async function reach(
  peer: Peer,
  to: PeerId,
  options: PeerOption & DialOption,
  signal: AbortSignal,
): Promise<Session> {
  await askable(peer, to, options, signal)
  return dial(peer, to, options, signal)
}

/** As {@link reach}, at once. `early` rides along, where it can. */
export async function dial(
  peer: Peer,
  to: PeerId,
  options: PeerOption & DialOption & { readonly early?: EarlyAsk },
  signal: AbortSignal,
): Promise<Session> {
  const { address = [], relay, exclusive = false, rendezvous = [] } = options
  const limited = AbortSignal.any([signal, AbortSignal.timeout(REACH_MS)])
  try {
    return await peer.reach(to, {
      addresses: address,
      early: options.early,
      ...(relay === undefined ? {} : { relay: { url: relay, exclusive } }),
      signal: limited,
    })
  } catch (error) {
    const [named] = rendezvous.length > 0 ? [] : peer.known.rendezvousOf(to)
    const elsewhere =
      named === undefined
        ? {}
        : {
            ERR_PEERLINE_UNREACHABLE: trust(named),
            ERR_PEERLINE_OFFLINE: `Start it there, or try later. ${trust(named)}`,
          }
    throw withRecovery(error, {
      ERR_PEERLINE_DENIED: `Its owner can let this machine in: peerline allow ${peer.id}.`,
      ERR_PEERLINE_OFFLINE: 'Start it there with the same --rendezvous, --ledger or --dht, or try later.',
      ERR_PEERLINE_NO_ADDRESS: 'Give --rendezvous, --ledger, --dht or --address.',
      ...elsewhere,
    })
  }
}

/** No peer can send us into a private network, or to this machine: only the user can. */
function trust(url: string): string {
  return `If you trust the server that it named, give --rendezvous ${shellWord(url)}`
}

/** `error`, with better advice where there is some for its code. */
export function withRecovery(error: unknown, advice: Partial<Record<ErrorCode, string>>): unknown {
  const recover = isPeerlineError(error) ? advice[error.code] : undefined
  if (recover === undefined) return error
  const { code, message, recover: own } = error as PeerlineError
  // A refusal of our own says itself what to do about it.
  if (code === 'ERR_PEERLINE_DENIED' && own !== new PeerlineError(code, message).recover) return error
  return new PeerlineError(code, message, { cause: error, recover })
}

/** Reads a peer id or did:key. @throws PeerlineError `ERR_PEERLINE_INVALID` */
export async function readPeerId(text: string): Promise<PeerId> {
  const { parsePeerId } = await import('../identity/index.ts')
  return parsePeerId(text)
}

/** Checks the names of reflectors. @throws PeerlineError `ERR_PEERLINE_INVALID` */
export async function readReflectors(names: readonly string[]): Promise<readonly string[]> {
  const { parseHostPort } = await import('../network/address.ts')
  for (const name of names) {
    const { host, port } = parseHostPort(name)
    if (host === '' || port === 0) throw new PeerlineError('ERR_PEERLINE_INVALID', `${name}: a reflector is host:port`)
  }
  return names
}

/** Ends a peer in order, within what a stopped command has. */
export function closePeer(peer: Peer): Promise<void> {
  return peer.close({ signal: AbortSignal.timeout(CLOSE_MS) })
}
