/**
 * Direct dials: a path to an address that is known, and the handshake on the path itself.
 */
import { isIP } from 'node:net'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { createOffer, type Offer, type SessionKeys, startExchange } from '../handshake/index.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import { hostOf, parseHostPort } from '../network/address.ts'
import type { FramedPath, Path } from '../path/index.ts'
import { firstMessage } from './first-message.ts'
import { raceTcp } from './race.ts'

const EMPTY = new Uint8Array(0)

/**
 * A path to one of these addresses (`host:port`).
 * @param mayUse false for an address (an IP literal) that is shut out; a name is judged by where it led
 * @throws PeerlineError of the first address; `ERR_PEERLINE_DENIED` when all are shut out
 */
export async function openDirect(
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
  throw new PeerlineError('ERR_PEERLINE_DENIED', `this peer has banned ${addresses.join(', ')}`, {
    recover: 'Lift the ban of the address.',
  })
}

/**
 * Dials a peer whose id is known over an open path: handshake IK. The path is destroyed when it fails.
 * @throws PeerlineError `ERR_PEERLINE_WRONG_PEER`, the other side's refusal, `ERR_PEERLINE_TIMEOUT`, …
 */
export async function dialOverPath(
  identity: Identity,
  to: PeerId,
  path: Path,
  options: { signal: AbortSignal },
): Promise<SessionKeys> {
  return exchangeOverPath(createOffer(identity, to, { body: EMPTY }), path, options)
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
