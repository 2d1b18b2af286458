/**
 * Server URLs: `ws://host:port#<peer id>`, `wss://…`, `tcp://…`.
 *
 * The fragment is the peer id of the server, the only thing that says it is the right one; it never leaves this machine.
 */
import { PeerlineError } from '../errors.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'
import { parseHostPort } from '../network/address.ts'
import { connectTcp, connectWebSocket, type Pipe, SocketPipe } from '../path/index.ts'

/** The port of `peerline serve` when none is named. */
export const DEFAULT_PORT = 4400

export interface ServerUrl {
  /** Without the fragment; what is dialled and what others are told. */
  readonly address: string
  readonly scheme: 'ws' | 'wss' | 'tcp'
  readonly host: string
  readonly port: number
}

/** With the peer that must answer there. */
export type PinnedServerUrl = ServerUrl & { readonly peer: PeerId }

/** Characters of the longest URL taken. */
export const MAX_URL_LENGTH = 300

/**
 * Reads the address part; a fragment is ignored.
 * @throws PeerlineError `ERR_PEERLINE_INVALID`
 */
export function parseServerAddress(text: string): ServerUrl {
  const address = text.split('#', 1)[0]!
  const match = /^(ws|wss|tcp):\/\/([^/?]+)(\/[^?]*)?$/.exec(address)
  if (match === null || address.length > MAX_URL_LENGTH) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `not a server URL: ${text.slice(0, 100)} (ws://HOST:PORT#PEER-ID)`)
  }
  const scheme = match[1] as ServerUrl['scheme']
  const defaultPort = scheme === 'wss' ? 443 : scheme === 'ws' ? 80 : DEFAULT_PORT
  const { host, port } = parseHostPort(match[2]!, { defaultPort })
  if (host === '' || port === 0) throw new PeerlineError('ERR_PEERLINE_INVALID', `no host or port in ${address}`)
  return { address, scheme, host, port }
}

/**
 * Reads a URL with the peer id that must answer there.
 * @throws PeerlineError `ERR_PEERLINE_INVALID`
 */
export function parseServerUrl(text: string): PinnedServerUrl {
  const fragment = text.split('#')[1]
  const url = parseServerAddress(text)
  if (fragment === undefined || fragment === '') {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `${text.slice(0, 100)} lacks the peer id of the server`, {
      recover: 'Add #<peer id>: the server prints its whole URL when it starts.',
    })
  }
  return { ...url, peer: parsePeerId(fragment) }
}

/**
 * Opens a byte pipe to a server.
 * @throws PeerlineError `ERR_PEERLINE_UNREACHABLE`, `ERR_PEERLINE_TLS`, or what the signal says
 */
export async function dialServer(
  url: ServerUrl,
  options: { signal: AbortSignal; localPort?: number | undefined },
): Promise<Pipe> {
  if (url.scheme === 'tcp') return new SocketPipe(await connectTcp(url.host, url.port, options))
  return connectWebSocket(url.address, options)
}
