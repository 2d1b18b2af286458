/** The wait for the answer to an offer, which is the same at every medium. */
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { whenAborted } from '../pause.ts'
import type { ExchangeOptions } from './signaling.ts'

/** One wait, as its medium sees it. When it is over, nothing that is said to it has any effect. */
export interface AnswerWait {
  /** Shows it an answer. False: that is not the genuine one, and the wait goes on. */
  offered(answer: Uint8Array, how?: { readonly fireInMs: number }): boolean
  fail(error: PeerlineError): void
}

export interface AnswerWaitOptions extends ExchangeOptions {
  readonly to: PeerId
  /** ms that the answer may take. */
  readonly ms: number
  /** What it fails with then. @default `ERR_PEERLINE_TIMEOUT` */
  readonly late?: () => PeerlineError
  /** Answers that are looked at: each costs about 0.15 ms of handshake. @default as many as the medium shows */
  readonly maxAnswers?: number
}

/**
 * Resolves with the first answer that is accepted.
 * @param begin has the offer go out, and says what is to be done when the wait is over, however it ends
 * @throws PeerlineError what `begin` throws, `accept` throws, or the wait was told; what the signal says
 */
export function awaitAnswer(
  { to, ms, late, maxAnswers = Number.POSITIVE_INFINITY, signal, accept = () => true }: AnswerWaitOptions,
  begin: (wait: AnswerWait) => () => void,
): Promise<Uint8Array> {
  const what = `dialling ${to}`
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(abortError(signal, what))
    let isOver = false
    let leave: (() => void) | undefined
    let looked = 0
    const settle = (outcome: () => void) => {
      if (isOver) return
      isOver = true
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
      leave?.()
      outcome()
    }
    const wait: AnswerWait = {
      offered: (answer, how) => {
        if (isOver || ++looked > maxAnswers) return false
        try {
          if (!accept(answer, how)) return false
          settle(() => resolve(answer))
        } catch (error) {
          wait.fail(asPeerlineError(error, 'ERR_PEERLINE_REMOTE', what))
        }
        return true
      },
      fail: (error) => settle(() => reject(error)),
    }
    const onAbort = () => wait.fail(abortError(signal, what))
    const onLate = () =>
      wait.fail(late?.() ?? new PeerlineError('ERR_PEERLINE_TIMEOUT', `${to} does not answer the offer`))
    const timer = setTimeout(onLate, ms)
    whenAborted(signal, onAbort)
    try {
      leave = begin(wait)
      // It may be over before all has begun.
      if (isOver) leave()
    } catch (error) {
      wait.fail(asPeerlineError(error, 'ERR_PEERLINE_REMOTE', what))
    }
  })
}
