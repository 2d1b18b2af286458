/**
 * Direct dials: a path to an address that is known, and the handshake on the path itself.
 *
 *     count -> open, by a name or an IP literal that is not shut out -> handshake -> session
 */
import { isIP } from 'node:net'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { createOffer, type Offer, type SessionKeys, startExchange } from '../handshake/index.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import { hostOf, parseHostPort } from '../network/address.ts'
import { FramedPath, type Path } from '../path/index.ts'
import { under } from '../pause.ts'
import type { Session } from '../session/index.ts'
import type { Leave } from './acceptor.ts'
import { encodeBody } from './candidate.ts'
import { type Claim, type Counted, held } from './counted.ts'
import { firstMessage } from './first-message.ts'
import { PATH_ATTEMPT_MS, raceTcp } from './race.ts'
import { dialServer, type PinnedServerUrl } from './url.ts'

const EMPTY = new Uint8Array(0)

export interface DirectDialerOptions {
  readonly identity: Identity
  /** False for an address (an IP literal) that is shut out. */
  readonly mayUse: (host: string) => boolean
  /** Counts a connection. @throws PeerlineError when there are too many */
  readonly count: (claim: Claim) => Counted
  readonly newSession: (keys: SessionKeys, peer: PeerId, how: Dialled) => Session
  /** Aborted when the peer closes. */
  readonly closing: AbortSignal
}

/** How a session was dialled. */
interface Dialled {
  readonly addresses?: readonly string[]
  /** For its services. */
  readonly server?: boolean
  readonly leave?: Leave | undefined
}

/** What a handshake gave. */
interface Shaken {
  readonly keys: SessionKeys
  readonly peer: PeerId
  readonly leave: Leave | undefined
}

export class DirectDialer {
  readonly #options: DirectDialerOptions

  constructor(options: DirectDialerOptions) {
    this.#options = options
  }

  /**
   * A session with a peer at one of `addresses` (`host:port`).
   * @throws PeerlineError of the first address
   */
  async dial(
    to: PeerId,
    addresses: readonly string[],
    {
      signal,
      leave,
      capability,
    }: { signal: AbortSignal; leave?: Leave | undefined; capability?: Uint8Array | undefined },
  ): Promise<Session> {
    const body = capability === undefined ? EMPTY : encodeBody({ capability })
    return this.#dial(to, addresses, signal, async (path, counted, limited) => {
      const keys = await dialOverPath(this.#options.identity, to, path, { signal: limited, body })
      counted.establish(to)
      return { keys, peer: to, leave }
    })
  }

  /**
   * A session with whoever answers at an address (`host:port`), where `permit` lets us have one with that peer.
   * @throws PeerlineError of the address, or of `permit`
   */
  async discover(
    address: string,
    { signal, permit }: { signal: AbortSignal; permit: (peer: PeerId) => Promise<Leave | undefined> },
  ): Promise<Session> {
    return this.#dial(undefined, [address], signal, async (path, counted, limited) => {
      const { peer, keys } = await discoverOverPath(this.#options.identity, path, { signal: limited })
      const leave = await permit(peer)
      counted.establish(peer)
      return { keys, peer, leave }
    })
  }

  /**
   * A session with a server, over what its URL says, from a port of our choice if there is one. It does not count.
   * @throws PeerlineError `ERR_PEERLINE_DENIED` when its address is shut out; as `dialServer`, and of the handshake
   */
  async server(
    url: PinnedServerUrl,
    { signal, localPort }: { signal: AbortSignal; localPort?: number | undefined },
  ): Promise<Session> {
    const { mayUse } = this.#options
    if (isIP(url.host) > 0 && !mayUse(url.host)) throw shutOut(url.address)
    const dial = (limited: AbortSignal) => dialServer(url, { signal: limited, localPort })
    const path = new FramedPath('tcp', await under([signal, AbortSignal.timeout(PATH_ATTEMPT_MS)], dial))
    const host = hostOf(path.remote)
    if (host !== undefined && !mayUse(host)) {
      path.destroy()
      throw shutOut(url.address)
    }
    const started = performance.now()
    const keys = await dialOverPath(this.#options.identity, url.peer, path, { signal })
    const session = this.#options.newSession(keys, url.peer, { server: true })
    session.adopt(path, true, performance.now() - started)
    return session
  }

  async #dial(
    peer: PeerId | undefined,
    addresses: readonly string[],
    given: AbortSignal,
    shake: (path: FramedPath, counted: Counted, signal: AbortSignal) => Promise<Shaken>,
  ): Promise<Session> {
    const { count, closing, mayUse, newSession } = this.#options
    const counted = count({ direction: 'out', peer })
    const { session } = await held(counted, () =>
      under([given, closing], async (signal) => {
        const path = await open(addresses, mayUse, signal)
        try {
          const started = performance.now()
          const { keys, peer, leave } = await shake(path, counted, signal)
          const session = newSession(keys, peer, { addresses, leave })
          session.adopt(path, true, performance.now() - started)
          return { session }
        } catch (error) {
          path.destroy()
          throw error
        }
      }),
    )
    return session
  }
}

/**
 * A path to one of these addresses (`host:port`).
 * @param mayUse false for an address (an IP literal) that is shut out; a name is judged by where it led
 * @throws PeerlineError of the first address; `ERR_PEERLINE_DENIED` when all are shut out
 */
async function open(
  addresses: readonly string[],
  mayUse: (host: string) => boolean,
  signal: AbortSignal,
): Promise<FramedPath> {
  const all = addresses.map((address) => parseHostPort(address))
  const usable = all.filter(({ host }) => isIP(host) === 0 || mayUse(host))
  const path = usable.length === 0 ? undefined : await raceTcp(usable, signal)
  const host = path === undefined ? undefined : hostOf(path.remote)
  if (path !== undefined && (host === undefined || mayUse(host))) return path
  path?.destroy()
  throw shutOut(addresses.join(', '))
}

function shutOut(where: string): PeerlineError {
  const recover = 'Lift the ban of the address.'
  return new PeerlineError('ERR_PEERLINE_DENIED', `this peer has banned ${where}`, { recover })
}

/**
 * Dials a peer whose id is known over an open path: handshake IK. The path is destroyed when it fails.
 * @throws PeerlineError `ERR_PEERLINE_WRONG_PEER`, the other side's refusal, `ERR_PEERLINE_TIMEOUT`, …
 */
export async function dialOverPath(
  identity: Identity,
  to: PeerId,
  path: Path,
  { signal, body = EMPTY }: { signal: AbortSignal; body?: Uint8Array },
): Promise<SessionKeys> {
  return exchangeOverPath(createOffer(identity, to, { body }), path, { signal })
}

/**
 * Sends an offer as the first message of an open path. The path is destroyed when it fails.
 * @throws PeerlineError as {@link dialOverPath}
 */
export async function exchangeOverPath(
  offer: Offer,
  path: Path,
  options: { signal: AbortSignal },
): Promise<SessionKeys> {
  try {
    path.send([offer.message])
    const answer = await firstMessage(path, options).catch((error: PeerlineError) => {
      // Whoever cannot open an offer hangs up: the offer was sealed for another key, or the clocks differ.
      if (error.code !== 'ERR_PEERLINE_UNREACHABLE' && error.code !== 'ERR_PEERLINE_PROTOCOL') throw error
      const what = `${path.remote} does not answer as ${offer.to}`
      throw new PeerlineError('ERR_PEERLINE_WRONG_PEER', what, { cause: error })
    })
    return offer.complete(answer).keys
  } catch (error) {
    path.destroy()
    throw asPeerlineError(error, 'ERR_PEERLINE_HANDSHAKE')
  }
}

/** Dials whoever answers over an open path: handshake XX, which tells who it is. The path is destroyed when it fails. */
export async function discoverOverPath(
  identity: Identity,
  path: Path,
  options: { signal: AbortSignal },
): Promise<{ peer: PeerId; keys: SessionKeys }> {
  try {
    const exchange = startExchange(identity)
    path.send([exchange.message])
    const { remote, finish } = exchange.read(await firstMessage(path, options))
    const { message, keys } = finish(EMPTY)
    path.send([message])
    return { peer: remote, keys }
  } catch (error) {
    path.destroy()
    throw asPeerlineError(error, 'ERR_PEERLINE_HANDSHAKE')
  }
}
