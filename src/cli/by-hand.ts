/**
 * Offers and answers that are pasted into the terminals of two machines: what `invite --by-hand` and `join --by-hand` do.
 *
 *     join     shows an offer   --paste-->  invite   answers it
 *              takes the answer <--paste--           shows the answer, and waits
 *     both     a session, and a ping to prove it
 */

import { inLines } from '../bytes/pasted-text.ts'
import { firstOf } from '../connect/index.ts'
import type { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Peer } from '../peer/index.ts'
import type { Session } from '../session/index.ts'
import type { Output } from './output.ts'
import type { PasteReader } from './paste-reader.ts'
import { pause, type Running, stopping } from './run.ts'
import { tellOfPaths } from './session-news.ts'
import { onInbound, prove } from './ticket-peer.ts'

/** Where texts come from. */
type Reader = Pick<PasteReader, 'next'>

/** Answers offers until one of them has become a session. @throws PeerlineError what the signal says, or ends the reading */
export async function answerByHand(peer: Peer, reader: Reader, { out, signal }: Running): Promise<Session> {
  const hand = peer.byHand(() => {})
  const over = new AbortController()
  const either = firstOf(signal, over.signal)
  const onWrong = tellWrong(out)
  const answering = async (): Promise<never> => {
    let answered = false
    out.say('paste the offer of the other machine here, then press Enter:')
    for (;;) {
      const offer = await reader.next('offer', { signal: either, onWrong }).catch(async (error) => {
        // What was answered may still come to something, though nothing more can be pasted.
        if (answered) await pause(hand.patienceMs, either)
        throw error
      })
      try {
        const answer = await hand.answer(offer)
        answered = true
        out.event({ event: 'answer', text: answer })
        out.say(`paste this answer there, within ${minutes(hand.patienceMs)} minutes:`)
        if (!out.json) out.data(inLines(answer))
      } catch (error) {
        onWrong(error as PeerlineError)
      }
    }
  }
  const joined = new Promise<Session>((resolve) => onInbound(peer, either, resolve))
  try {
    return await Promise.race([joined, answering()])
  } finally {
    over.abort()
  }
}

/** Dials a peer by an offer that is shown, and an answer that is pasted. @throws PeerlineError as `Peer.connect` */
export async function dialByHand(
  peer: Peer,
  to: { readonly peer: PeerId; readonly capability?: Uint8Array | undefined },
  reader: Reader,
  { out, signal }: Running,
): Promise<Session> {
  const over = new AbortController()
  const either = firstOf(signal, over.signal)
  const onWrong = tellWrong(out)
  const taking = async (): Promise<void> => {
    for (;;) {
      const answer = await reader.next('answer', { signal: either, onWrong })
      try {
        return hand.take(answer)
      } catch (error) {
        onWrong(error as PeerlineError)
      }
    }
  }
  let unread = (_: unknown) => {}
  const failed = new Promise<never>((_, reject) => {
    unread = reject
  })
  const hand = peer.byHand((offer) => {
    const within = `within ${minutes(hand.patienceMs)} minutes`
    out.event({ event: 'offer', text: offer })
    out.say(`paste this offer at the other machine, where peerline invite --by-hand runs, ${within}:`)
    if (!out.json) out.data(inLines(offer))
    out.say('then paste its answer here, and press Enter:')
    taking().catch(unread)
  })
  const dialled = async () => {
    const session = await peer.reach(to.peer, { medium: hand, capability: to.capability, signal: either })
    await session.opened({ signal: either })
    return session
  }
  try {
    return await Promise.race([dialled(), failed])
  } finally {
    over.abort()
  }
}

/** Proves a session by a ping, and keeps it until it ends or the command does. */
export async function stayConnected(session: Session, { out, signal }: Running): Promise<void> {
  tellOfPaths(session, out)
  await prove(session, out, signal)
  out.say('connected; Ctrl-C ends it')
  await Promise.race([session.closed, stopping(signal)])
  if (signal.aborted) return
  out.event({ event: 'closed', peer: session.peer })
  out.say(`${session.peer} has left`)
}

function tellWrong(out: Output): (error: PeerlineError) => void {
  return ({ message, recover }) => out.warn(`peerline: ${message}. ${recover}`)
}

const minutes = (ms: number): number => Math.floor(ms / 60_000)
