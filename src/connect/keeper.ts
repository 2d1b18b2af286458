/**
 * Keeps sessions in paths: brings back what has none, or none that answers, and answers the other side when that does the
 * same; leaves relays that go away.
 *
 *     path lost, trouble --> Reconnect --knock: where the other side was last to be found
 *                                      \-call: an offer that names the session, by any medium, and candidates and circuits
 *                                              as in the first one; refused when the other side does not know the session
 */
import { PeerlineError } from '../errors.ts'
import { createOffer, type openOffer } from '../handshake/index.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import { parseHostPort } from '../network/address.ts'
import type { Path } from '../path/index.ts'
import { firstOf } from '../pause.ts'
import type { Session } from '../session/index.ts'
import { ANSWER_TIMEOUT_MS, type Signaling } from '../signaling/index.ts'
import type { Bond, FindRelays } from './bonds.ts'
import { type ConnectionBody, encodeBody } from './candidate.ts'
import { openCircuit } from './circuit.ts'
import { exchangeOverPath } from './direct.ts'
import type { Exchanged } from './exchange.ts'
import type { OwnSide } from './own-side.ts'
import { raceTcp } from './race.ts'
import { Reconnect } from './reconnect.ts'
import type { SessionMaker } from './session-maker.ts'
import { Standby } from './standby.ts'
import { parseServerAddress } from './url.ts'
import type { Way } from './ways.ts'

/** What keeping sessions needs of the room around it. */
export interface KeeperHost {
  readonly identity: Identity
  readonly tellRefusals: boolean
  /** ms that a session may be without a path; 0: it ends with its last one. */
  readonly reconnectMs: number | undefined
  readonly standbyRelay: boolean
  /** A session wants signaling now: what is gone is brought back. */
  readonly hurry: () => void
  /** Media that work now. `hidden`: only those that do not tell our address. */
  readonly media: (options: { hidden: boolean }) => readonly Signaling[]
  readonly own: OwnSide
  readonly maker: SessionMaker
  /** Sends an offer with `body`, and circuits, by the media there are; what answers. */
  readonly call: (to: PeerId, body: Partial<ConnectionBody>, how: CallOptions) => Promise<Called>
  /** Fires when nothing is to be kept any more. */
  readonly closing: AbortSignal
}

/** How an offer is sent. */
export interface CallOptions {
  readonly ways: ReadonlySet<Way>
  readonly relays: FindRelays | undefined
  /** Those to be used. @default all that work */
  readonly media?: readonly Signaling[] | undefined
  readonly signal: AbortSignal
  readonly onRefused?: () => void
}

/** What an offer led to. */
export interface Called extends Omit<Exchanged, 'body'> {
  readonly remote: ConnectionBody
  readonly circuits: readonly Promise<Path>[]
}

/** ms between calls by a medium that keeps what is said, and by one that is paid for. */
const KEPT_EVERY_MS = 10_000
const PAID_EVERY_MS = 60_000

export class Keeper {
  readonly #host: KeeperHost
  /** When a session was last called by such a medium, by its name. */
  readonly #calls = new WeakMap<Session, Map<string, number>>()
  /** The ways back of the sessions that may need one. */
  readonly #reconnects = new Map<Session, Reconnect>()

  constructor(host: KeeperHost) {
    this.#host = host
  }

  /** Sees to it that a session has a path. */
  keep(bond: Bond): void {
    const { session } = bond
    const closing = this.#host.closing
    const reconnect = new Reconnect({
      session,
      hurry: this.#host.hurry,
      knock: (attempt, signal) => this.#knock(bond, attempt, signal),
      call: (signal) => this.#callAgain(bond, signal),
      closing,
    })
    this.#reconnects.set(session, reconnect)
    session.addEventListener('close', () => this.#reconnects.delete(session))
  }

  /** Sees to it that a session that came by signaling has a path in reserve, where relays may be used. */
  standBy(bond: Bond): void {
    const { reconnectMs, standbyRelay: wanted } = this.#host
    if (bond.relays === undefined || reconnectMs === 0) return
    const open = (signal: AbortSignal) => this.#addCircuit(bond, signal)
    new Standby({ session: bond.session, wanted, open, closing: this.#host.closing })
  }

  /** Answers an offer for a session that both sides have, or had: it needs no leave, and makes no session. */
  async answer(
    offer: ReturnType<typeof openOffer>,
    told: ConnectionBody,
    how: { readonly travelMs: number | Promise<number>; readonly maxBytes?: number | undefined },
  ): Promise<Uint8Array | undefined> {
    const id = told.session
    if (id === undefined) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'an offer names no session')
    const bond = this.#host.maker.bonds.get(id)
    if (bond === undefined || bond.session.peer !== offer.from) {
      if (!this.#host.tellRefusals) return undefined
      const ending = this.#host.maker.bonds.ending(id)
      if (ending?.peer === offer.from) return offer.refuse(ending.code, ending.message)
      return offer.refuse('ERR_PEERLINE_UNKNOWN_SESSION', 'this peer does not know the session')
    }
    // The other side hears nothing on what there is.
    bond.session.doubt()
    if (bond.joins) this.#host.own.join(told)
    const ways = told.hidden === true ? new Set<Way>() : bond.ways
    const upgrade =
      ways.size > 0 ? (bond.upgrade ?? this.#host.maker.seek(bond, { relayed: told.circuits.length > 0 })) : undefined
    // One at a time: the other side calls again before ICE has come to an end.
    const webrtc = upgrade?.describes === false ? await this.#host.own.describe(ways, told) : undefined
    const body = { ...this.#host.own.body(ways), webrtc: webrtc?.description }
    const { message } = offer.accept(encodeBody(body, { maxBytes: how.maxBytes }))
    const round = told.punch?.round ?? 0
    upgrade?.resume(told, round, how.travelMs)
    if (webrtc !== undefined) void upgrade?.connectDescribed(round, webrtc)
    return message
  }

  /** Calls the other side of a session that has no path, or none that answers. */
  async #callAgain(bond: Bond, signal: AbortSignal): Promise<boolean> {
    const { session, ways } = bond
    const quick: Signaling[] = []
    for (const medium of this.#host.media({ hidden: ways.size === 0 })) {
      const { messages = 0, price } = medium.cost?.(session.peer) ?? {}
      if (messages === 0) quick.push(medium)
      else this.#callSparingly(bond, medium, (price?.amount ?? 0) > 0 ? PAID_EVERY_MS : KEPT_EVERY_MS)
    }
    return quick.length > 0 && this.#callBy(quick, bond, signal)
  }

  /** Calls by a medium that keeps what is said, or has to be paid: once in a while, and for as long as that takes. */
  #callSparingly(bond: Bond, medium: Signaling, everyMs: number): void {
    const { session } = bond
    const calls = this.#calls.get(session) ?? new Map<string, number>()
    const now = performance.now()
    if (now - (calls.get(medium.name) ?? Number.NEGATIVE_INFINITY) < everyMs) return
    this.#calls.set(session, calls.set(medium.name, now))
    const over = new AbortController()
    const end = () => over.abort()
    const timer = setTimeout(end, medium.patienceMs ?? ANSWER_TIMEOUT_MS)
    for (const type of ['reconnected', 'close'] as const) session.addEventListener(type, end)
    this.#callBy([medium], bond, firstOf(this.#host.closing, over.signal))
      // Not there yet, or not reached: it is called again when its time comes.
      .catch(() => {})
      .finally(() => {
        clearTimeout(timer)
        for (const type of ['reconnected', 'close'] as const) session.removeEventListener(type, end)
        end()
      })
  }

  async #callBy(media: readonly Signaling[], bond: Bond, signal: AbortSignal): Promise<boolean> {
    const { session, ways, relays } = bond
    const round = bond.upgrade?.nextRound ?? 1
    // Where it is the only way it is described in the offer, as in the first one: nothing else can carry the description.
    const alone = ways.size === 1 && ways.has('webrtc') && bond.upgrade?.describes === false
    const webrtc = alone ? await this.#host.own.describe(ways) : undefined
    const told = { ...this.#host.own.body(ways), session: session.id, punch: { round, phase: 'go' } as const }
    const body = { ...told, webrtc: webrtc?.description }
    let refused = false
    const onRefused = () => {
      refused = true
    }
    try {
      const how = { ways, relays, media, signal, onRefused }
      const { remote, circuits, fireInMs } = await this.#host.call(session.peer, body, how)
      for (const circuit of circuits) {
        circuit.then((path) => session.attach(path)).catch(() => {})
      }
      if (ways.size > 0 && !remote.hidden) {
        const upgrade = bond.upgrade ?? this.#host.maker.seek(bond, { relayed: circuits.length > 0 })
        upgrade?.resume(remote, round, fireInMs)
        if (webrtc !== undefined) void upgrade?.connectDescribed(round, webrtc, remote.webrtc)
      } else webrtc?.close()
      return true
    } catch (error) {
      webrtc?.close()
      if (refused) this.#endedThere(session, error as PeerlineError)
      throw error
    }
  }

  #endedThere(session: Session, error: PeerlineError): void {
    session.endedThere(error.code === 'ERR_PEERLINE_CLOSED' ? undefined : error)
  }

  /**
   * Goes to where the other side was last to be found. Where it was dialled it may have been started again, which an ATTACH
   * cannot tell for sure: so every other time it is asked, as by any medium.
   */
  async #knock({ session, addresses, upgrade }: Bond, attempt: number, signal: AbortSignal): Promise<void> {
    const known = upgrade?.knock(attempt, signal)
    const dialled = this.#redial(session, addresses, attempt % 2 === 1, signal).catch(() => {})
    await Promise.all([known, dialled])
  }

  async #redial(session: Session, addresses: readonly string[], ask: boolean, signal: AbortSignal): Promise<void> {
    if (addresses.length === 0) return
    const path = await raceTcp(
      addresses.map((address) => parseHostPort(address)),
      signal,
    )
    if (!ask) return session.attach(path)
    const { identity } = this.#host
    const offer = createOffer(identity, session.peer, { body: encodeBody({ session: session.id }) })
    try {
      await exchangeOverPath(offer, path, { signal })
    } catch (error) {
      if (offer.answered) this.#endedThere(session, error as PeerlineError)
    } finally {
      path.destroy()
    }
  }

  /** A medium is back, or the network is another one: sessions without a path try again now. */
  wake(): void {
    for (const reconnect of this.#reconnects.values()) reconnect.wake()
  }

  /** True while a session has no path, or none that answers. */
  get urgent(): boolean {
    for (const session of this.#reconnects.keys()) if (session.needsPath) return true
    return false
  }

  /** Opens a circuit for a session that has a path to talk over. @throws PeerlineError when there is none to be had */
  async #addCircuit({ session, relays }: Bond, signal: AbortSignal): Promise<void> {
    const [reservation] = (await relays?.(signal)) ?? []
    if (reservation === undefined) throw new PeerlineError('ERR_PEERLINE_NO_PATH', 'no relay is at hand')
    const { own, offer } = reservation.mint()
    session.sendCandidates(encodeBody({ circuits: [offer] }))
    session.attach(await openCircuit(offer.relay, own, signal))
  }

  /** A relay goes away: sessions move to another one before it does, where there is one. */
  leaveRelay(address: string): void {
    const left = parseServerAddress(address)
    const there = (remote: string) => {
      try {
        const { host, port } = parseServerAddress(remote)
        return host === left.host && port === left.port
      } catch {
        return false
      }
    }
    for (const bond of this.#host.maker.bonds) {
      const { session } = bond
      if (!session.pathInfo.some(({ kind, remote }) => kind === 'relay' && there(remote))) continue
      session.leave(there)
      void this.#addCircuit(bond, this.#host.closing).catch(() => {})
    }
  }
}
