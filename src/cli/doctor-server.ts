/**
 * How `peerline doctor` looks at a rendezvous: as a peer that dials and is not listed, under an identity of the moment.
 *
 *     open pipe ── handshake ── register, reserve at the relay ── goodbye
 */
import { dialOverPath } from '../connect/direct.ts'
import { type PinnedServerUrl, Reservation } from '../connect/index.ts'
import { dialServer } from '../connect/url.ts'
import { asPeerlineError, type ErrorCode } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { FramedPath } from '../path/index.ts'
import { Session, StreamCode } from '../session/index.ts'
import { Rendezvous } from '../signaling/index.ts'
import { roundMs } from './output.ts'

/** ms for all of it: as long as a peer tries. */
const SERVER_MS = 15_000

/** ms for a goodbye. */
const CLOSE_MS = 500

/** What was found of one rendezvous. */
export type ServerFacts =
  | {
      readonly url: string
      readonly reached: true
      /** From nothing to a registration, ms. */
      readonly onlineMs: number
      /** Round trip, ms. */
      readonly rttMs: number
      /** Where it sees us, `host:port`. */
      readonly observed: string
      /** What its clock shows less what ours shows, ms. */
      readonly clockOffsetMs: number
      /** Whether it has reserved a place at its relay for us; why not, in `relayProblem`. */
      readonly relay: boolean
      readonly relayProblem?: string
      /** The reflectors that it names. */
      readonly reflectors: readonly string[]
    }
  | { readonly url: string; readonly reached: false; readonly code: ErrorCode; readonly message: string }

/** Dials a rendezvous, registers, and leaves. @throws PeerlineError what the signal says */
export async function examineServer(url: PinnedServerUrl, signal: AbortSignal): Promise<ServerFacts> {
  const limited = AbortSignal.any([signal, AbortSignal.timeout(SERVER_MS)])
  const started = performance.now()
  let session: Session | undefined
  try {
    const path = new FramedPath('tcp', await dialServer(url, { signal: limited }))
    const opened = performance.now()
    const keys = await dialOverPath(Identity.generate(), url.peer, path, { signal: limited })
    const shaken = performance.now()
    const onStream = (stream: { reset(code: number): void }) => stream.reset(StreamCode.NO_PROTOCOL)
    session = new Session({ keys, peer: url.peer, onStream, reconnectMs: 0 })
    session.adopt(path, true, shaken - opened)
    return await visit(session, url.address, { started, shakeMs: shaken - opened, signal: limited })
  } catch (cause) {
    if (signal.aborted) throw cause
    const { code, message } = asPeerlineError(cause, 'ERR_PEERLINE_UNREACHABLE')
    return { url: url.address, reached: false, code, message }
  } finally {
    await session?.close({ signal: AbortSignal.timeout(CLOSE_MS) })
  }
}

async function visit(
  session: Session,
  address: string,
  { started, shakeMs, signal }: { started: number; shakeMs: number; signal: AbortSignal },
): Promise<ServerFacts> {
  const name = `rendezvous ${address}`
  const asked = performance.now()
  let answeredMs = Number.POSITIVE_INFINITY
  const registering = Rendezvous.register(session, { name, listed: false, onOffer: ignore, signal }).finally(() => {
    answeredMs = performance.now() - asked
  })
  const reserving = Reservation.reserve(session, address, { signal }).then(
    () => undefined,
    (error: unknown) => asPeerlineError(error, 'ERR_PEERLINE_REMOTE').message,
  )
  const [{ observed, clockOffsetMs, reflectors }, relayProblem] = await Promise.all([registering, reserving])
  return {
    url: address,
    reached: true,
    onlineMs: roundMs(performance.now() - started),
    // Whatever is above the smallest was somebody's delay.
    rttMs: roundMs(Math.min(shakeMs, answeredMs)),
    observed,
    clockOffsetMs: Math.round(clockOffsetMs),
    relay: relayProblem === undefined,
    ...(relayProblem === undefined ? {} : { relayProblem }),
    reflectors,
  }
}

/** Nobody is to dial a peer that is not listed. */
function ignore(): Promise<undefined> {
  return Promise.resolve(undefined)
}
