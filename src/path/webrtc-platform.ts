/**
 * Where `RTCPeerConnection` comes from: the browser's own, or the optional package `node-datachannel`, whose polyfill
 * has the shape of W3C WebRTC 1.0 and is loaded on first use.
 *
 * Its SCTP buffers belong to the process, not to a connection, and are set once, before the first connection.
 */
import { PeerlineError } from '../errors.ts'

/** One server of RFC 7064 (`stun:`) or RFC 7065 (`turn:`, `turns:`), as W3C WebRTC 1.0 section 4.2.3 has it. */
export interface IceServer {
  readonly urls: string | readonly string[]
  readonly username?: string
  readonly credential?: string
}

/** The constructor of W3C WebRTC 1.0 section 4.4.2. */
export type PeerConnectionConstructor = new (configuration?: RTCConfiguration) => RTCPeerConnection

/**
 * Bytes of each SCTP buffer of a connection. The library's own 1 MiB holds a way of 60 ms to 8 MB/s, where 4 MiB let it
 * reach 23 MB/s; more only adds delay before the sender is told to wait.
 */
const SCTP_BUFFER_BYTES = 4 * 1_048_576

let tuned = false

/**
 * The platform's `RTCPeerConnection`.
 * @throws PeerlineError `ERR_PEERLINE_UNSUPPORTED` when there is none
 */
export async function loadPeerConnection(): Promise<PeerConnectionConstructor> {
  const native = (globalThis as { RTCPeerConnection?: PeerConnectionConstructor }).RTCPeerConnection
  if (native !== undefined) return native
  try {
    const [{ setSctpSettings }, { RTCPeerConnection }] = await Promise.all([
      import('node-datachannel'),
      import('node-datachannel/polyfill'),
    ])
    if (!tuned) setSctpSettings({ recvBufferSize: SCTP_BUFFER_BYTES, sendBufferSize: SCTP_BUFFER_BYTES })
    tuned = true
    return RTCPeerConnection as unknown as PeerConnectionConstructor
  } catch (cause) {
    const what = 'WebRTC needs the optional package node-datachannel, which is missing or has no build for this machine'
    throw new PeerlineError('ERR_PEERLINE_UNSUPPORTED', what, { cause })
  }
}

/** Whether a connection is libdatachannel's, whatever copy of its polyfill it comes from: it differs from browsers. */
export function isNodeDataChannel(connection: object): boolean {
  return 'ext_maxMessageSize' in connection
}

/**
 * Opens a connection that has not gathered anything yet.
 * @throws PeerlineError `ERR_PEERLINE_INVALID` for servers that are not well-formed
 */
export function openPeerConnection(
  PeerConnection: PeerConnectionConstructor,
  servers: readonly IceServer[],
  iceTransportPolicy: RTCIceTransportPolicy,
): RTCPeerConnection {
  // The polyfill writes names and passwords into the URL as they are; the library under it decodes the parts of the URL,
  // and can take no brackets.
  const strange = isNodeDataChannel(PeerConnection.prototype as object)
  const quoted = (text: string): string => (strange ? encodeURIComponent(text) : text)
  const plain = (url: string): string =>
    strange ? url.replace(/\[([0-9a-f:.]+)\]/i, (_, host: string) => quoted(host)) : url
  const iceServers = servers.map(({ urls, username, credential }) => ({
    urls: (typeof urls === 'string' ? [urls] : urls).map(plain),
    ...(username === undefined ? {} : { username: quoted(username) }),
    ...(credential === undefined ? {} : { credential: quoted(credential) }),
  }))
  try {
    return new PeerConnection({ iceServers, iceTransportPolicy })
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause)
    throw new PeerlineError('ERR_PEERLINE_INVALID', `the ICE servers cannot be used: ${why}`, { cause })
  }
}
