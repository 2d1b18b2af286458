/**
 * `/peerline/seen/1`: a peer tells another from which addresses it sees it come.
 *
 *     asker                                                asked
 *       |-- stream, and nothing on it ------------------------>|   firewall, rate
 *       |<- { public, seen: [[kind, host, port], …],           |
 *       |     places: [[kind, host, port, token], …] } --------|
 *       |-- UDP: token 16 | proof 16; up to four times ------->|   from the socket that punches
 *       |-- TCP: version 1 | PROBE 1 | token 16 | proof 16 --->|   a first message, from the port that punches
 *       |<- { place, host, port, proof } ----------------------|   where the token of that place came from
 *       |-- reset -------------------------------------------->|   when it is enough; or the asked, after 5 s
 *
 * - `public` says that the asked knows its own public address: who does not may be inside of our own network. `seen` are the
 *   ends of the session's direct paths, as the asked has them; a relayed path shows nothing. `places` are where it can be
 *   reached, with a token each: 16 random bytes, good for one stream, gone with it.
 * - The proof is 16 random bytes of the asker's, others for each place: who tells them has received what was sent there.
 * - What is seen is told in the session, sealed: nobody on the way can forge it. Who catches a token there can send it again
 *   from elsewhere, no more: the asked tells both addresses then, and by that no vote (network/address-quorum.ts).
 * - A token is never answered where it comes from: no datagram of a stranger makes us send one.
 * - UDP: the first two bits of a token are 10, and its first 8 bytes are a route of the socket (network/udp-socket.ts).
 *
 * Limits: 6 streams a minute of one asker, 64 open; 4 places and 4 paths in 1 KiB; two addresses are told of each token; the
 * asker has nothing to say, and whoever does is given up.
 */
import { randomBytes } from 'node:crypto'
import { isIP } from 'node:net'
import { equalBytes, fields, toHex } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { hostOf, parseHostPort, type SocketAddress, toSocketAddress } from '../network/address.ts'
import { canonical, TAG_BYTES, type UdpSocket } from '../network/udp-socket.ts'
import { MessageStream, type Session, type Stream, StreamCode } from '../session/index.ts'
import { PerMinute } from './per-minute.ts'

export const SEEN_PROTOCOL = '/peerline/seen/1'

/** Bytes of a token: not to be guessed in the seconds that it lives. */
export const TOKEN_BYTES = 16

/** Bytes of what an asker adds to it: not to be told without having come. */
export const PROOF_BYTES = 16

/** Bytes that are sent to a place. */
const PROBE_BYTES = TOKEN_BYTES + PROOF_BYTES

/** Bytes of a message: four paths and four places of the longest addresses are 700. */
export const MAX_SEEN_BYTES = 1_024

/** UDP and TCP, over IPv4 and IPv6. */
export const MAX_PLACES = 4

/** Addresses that are told of one token: two contradict each other, and more say no more. */
export const MAX_TOLD = 2

/** ms for the tokens of one stream: an asker takes 3 s at most. */
const EXPIRES_MS = 5_000

/** Streams open at once, with four tokens each: the rest come again. */
const MAX_OPEN = 64

/** Streams of one asker in a minute: a look when it starts and when its network changes, and some that fail. */
const ASKS_PER_MINUTE = 6

/** An address of UDP or TCP. */
export interface Place {
  readonly kind: 'udp' | 'tcp'
  /** An IP address. */
  readonly host: string
  readonly port: number
}

/** A place where its asker sends a token. */
export interface TokenPlace extends Place {
  readonly token: Uint8Array
}

/** What an asked peer says first. */
export interface Here {
  /** It knows its own public address. */
  readonly public: boolean
  readonly seen: readonly Place[]
  readonly places: readonly TokenPlace[]
}

export interface SeenAddressOptions {
  /**
   * Where the other side of a session reaches this peer: its listeners and its UDP socket at public addresses of its own, or
   * as its router maps them; its UDP socket as others see it, for who has a path to that already. A place that is not reached
   * costs what we say of ports.
   */
  readonly places: (session: Pick<Session, 'pathInfo'>) => readonly Place[]
  /** Whether this peer knows its own public address, be it reached there or not. @default when there are places */
  readonly knows?: () => boolean
  /** The socket that the places of UDP are of. @default those are left out */
  readonly udp?: () => Pick<UdpSocket, 'route'> | undefined
  /** Streams of one asker in a minute. @default 6 */
  readonly asksPerMinute?: number
}

/** The asked side. */
export class SeenAddress {
  readonly #options: SeenAddressOptions
  readonly #asks: PerMinute
  readonly #open = new Set<Answering>()
  /** Who waits for a token over TCP, by the token in hex. */
  readonly #waiting = new Map<string, OnProbe>()

  constructor(options: SeenAddressOptions) {
    this.#options = options
    this.#asks = new PerMinute(options.asksPerMinute ?? ASKS_PER_MINUTE)
  }

  /** Answers on a stream that a peer has opened. Never throws. */
  serve(
    stream: Stream,
    { from, session }: { readonly from: PeerId; readonly session: Pick<Session, 'pathInfo'> },
  ): void {
    if (!this.#asks.take(from) || this.#open.size >= MAX_OPEN) return stream.reset(StreamCode.BUSY)
    const { places, udp, knows } = this.#options
    const socket = udp?.()
    const usable = places(session).filter(({ kind }) => kind === 'tcp' || socket !== undefined)
    const answering = new Answering(stream, () => this.#open.delete(answering))
    this.#open.add(answering)
    answering.begin({
      public: knows?.() ?? usable.length > 0,
      seen: directPaths(session),
      places: usable.slice(0, MAX_PLACES),
      expect: (kind, token, onProbe) =>
        kind === 'tcp' ? this.#expect(token, onProbe) : expectUdp(socket!, token, onProbe),
    })
  }

  /**
   * Takes what follows the preamble of a path whose first message is a PROBE: a token and a proof. The path has nothing else to say: whoever has
   * it closes it in order, so that a NAT on the way does not forget it at once.
   * @param remote where the path comes from, as the path says
   * @returns false for what is no token that anybody waits for
   */
  onProbe(probe: Uint8Array, remote: string): boolean {
    const token = probe.subarray(0, TOKEN_BYTES)
    const onProbe = probe.length === PROBE_BYTES ? this.#waiting.get(toHex(token)) : undefined
    const from = addressOf(remote)
    if (onProbe === undefined || from === undefined) return false
    onProbe(from, Uint8Array.from(probe.subarray(TOKEN_BYTES)))
    return true
  }

  #expect(token: Uint8Array, onProbe: OnProbe): () => void {
    const key = toHex(token)
    this.#waiting.set(key, onProbe)
    return () => this.#waiting.delete(key)
  }

  /** Ends what is open. */
  close(): void {
    for (const answering of this.#open) answering.end(StreamCode.CANCELLED)
  }
}

/** A token has come, with this proof. */
type OnProbe = (from: SocketAddress, proof: Uint8Array) => void

interface Beginning {
  readonly public: boolean
  readonly seen: readonly Place[]
  readonly places: readonly Place[]
  /** Has what comes with a token told; returns what ends that. */
  readonly expect: (kind: Place['kind'], token: Uint8Array, onProbe: OnProbe) => () => void
}

/** One stream, and the tokens that were given out on it. */
class Answering {
  readonly #stream: Stream
  readonly #onOver: () => void
  readonly #undo: (() => void)[] = []
  readonly #timer: NodeJS.Timeout
  #over = false

  constructor(stream: Stream, onOver: () => void) {
    this.#stream = stream
    this.#onOver = onOver
    this.#timer = setTimeout(() => this.end(StreamCode.TIMEOUT), EXPIRES_MS)
    this.#timer.unref()
  }

  begin({ public: knows, seen, places, expect }: Beginning): void {
    // Its end is told at once where the asker has ended it already.
    const messages = new MessageStream(this.#stream, {
      maxBytes: 0,
      onMessage: () => {},
      onEnd: () => this.end(StreamCode.CANCELLED),
    })
    if (this.#over) return
    // A failure to write is the end of the stream, which is told.
    const send = (message: unknown): void => void messages.send(message).catch(() => {})
    const given = places.map((place, at): TokenPlace => {
      const token = newToken()
      const told = new Set<string>()
      const onProbe: OnProbe = ({ host, port }, proof) => {
        const key = `${host} ${port}`
        if (told.has(key) || told.size >= MAX_TOLD) return
        told.add(key)
        send({ place: at, host, port, proof })
      }
      this.#undo.push(expect(place.kind, token, onProbe))
      return { ...place, token }
    })
    send({
      public: knows,
      seen: seen.map(({ kind, host, port }) => [kind, host, port]),
      places: given.map(({ kind, host, port, token }) => [kind, host, port, token]),
    })
  }

  end(code: number): void {
    if (this.#over) return
    this.#over = true
    clearTimeout(this.#timer)
    for (const undo of this.#undo) undo()
    this.#onOver()
    if (!this.#stream.done) this.#stream.reset(code)
  }
}

/** Random, but for the first two bits, by which a UDP socket tells it from STUN and from udx. */
function newToken(): Uint8Array {
  const token = new Uint8Array(randomBytes(TOKEN_BYTES))
  token[0] = (token[0]! & 0x3f) | 0x80
  return token
}

function expectUdp(socket: Pick<UdpSocket, 'route'>, token: Uint8Array, onProbe: OnProbe): () => void {
  return socket.route(token.subarray(0, TAG_BYTES), (datagram, from) => {
    if (datagram.length !== PROBE_BYTES || !equalBytes(datagram.subarray(0, TOKEN_BYTES), token)) return
    onProbe(canonical(from), Uint8Array.from(datagram.subarray(TOKEN_BYTES)))
  })
}

/** Where the other end of each direct path of a session is, as this side has it. */
export function directPaths({ pathInfo }: Pick<Session, 'pathInfo'>): Place[] {
  const found = pathInfo.flatMap(({ kind, remote, stage }) => {
    const from = (kind === 'tcp' || kind === 'udp') && stage !== 'attaching' ? addressOf(remote) : undefined
    return from === undefined ? [] : { kind: kind as Place['kind'], host: from.host, port: from.port }
  })
  return found.slice(0, MAX_PLACES)
}

/** The address in the name of a path; undefined when it leads to none, such as a relay or the URL of a proxy. */
function addressOf(remote: string): SocketAddress | undefined {
  const host = hostOf(remote)
  const address = host === undefined ? undefined : toSocketAddress(host, parseHostPort(remote).port)
  return address === undefined ? undefined : canonical(address)
}

// ---- what the asker reads ----

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
export function readHere(message: unknown): Here {
  const all = fields(message, 'answer about an address')
  return {
    public: all.boolean('public'),
    seen: all.list('seen', { max: MAX_PLACES }).map((item) => readPlace(item, 3)),
    places: all.list('places', { max: MAX_PLACES }).map((item) => {
      const place = readPlace(item, 4)
      const [, , , token] = item as readonly unknown[]
      if (!(token instanceof Uint8Array) || token.length !== TOKEN_BYTES) throw malformed()
      // It is kept, and sent as a datagram.
      return { ...place, token: Uint8Array.from(token) }
    }),
  }
}

/** Where a token of ours has come from, as the asked says. */
export interface Arrival {
  /** The number of its place. */
  readonly place: number
  readonly from: SocketAddress
  readonly proof: Uint8Array
}

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
export function readArrival(message: unknown): Arrival {
  const all = fields(message, 'news of a token')
  return {
    place: all.integer('place', { max: MAX_PLACES - 1 }),
    from: readAddress(all.text('host', { max: 45 }), all.integer('port')),
    proof: all.bytes('proof', { length: PROOF_BYTES }),
  }
}

function readPlace(item: unknown, length: number): Place {
  if (!Array.isArray(item) || item.length !== length) throw malformed()
  const [kind, host, port] = item as readonly unknown[]
  if (kind !== 'udp' && kind !== 'tcp') throw malformed()
  const { host: canonicalHost, port: checkedPort } = readAddress(host, port)
  return { kind, host: canonicalHost, port: checkedPort }
}

/** In its one form, so that two can be compared. */
function readAddress(host: unknown, port: unknown): SocketAddress {
  // An address that others see has no zone.
  if (typeof host !== 'string' || isIP(host) === 0 || host.includes('%')) throw malformed()
  if (typeof port !== 'number' || !Number.isInteger(port) || port < 1 || port > 65_535) throw malformed()
  return canonical(toSocketAddress(host, port)!)
}

function malformed(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', 'an address is malformed')
}
