/**
 * One trust handshake with one peer, in one of its sessions.
 *
 *   runs --> passed | failed            as the handshake says
 *       \--> failed                     its time is up, the session is over, or it is cancelled: whatever comes first
 *
 * What it says after that counts for nothing, and what it still tries to do fails.
 */
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { untilAborted } from '../pause.ts'
import type { Exchange, Handshake, HandshakeContext } from './trust-options.ts'

export interface AttemptOptions {
  readonly self: PeerId
  readonly peer: PeerId
  readonly exchange: Exchange
  /** Fires when the session is over. */
  readonly session: AbortSignal
  readonly timeoutMs: number
  readonly elevate: (ms: number | undefined) => void
  /** Called once, when it is over, with why it failed. */
  readonly conclude: (error: PeerlineError | undefined) => void
}

export class Attempt {
  readonly #options: AttemptOptions
  readonly #end = new AbortController()

  constructor(options: AttemptOptions) {
    this.#options = options
  }

  cancel(reason: PeerlineError): void {
    this.#end.abort(reason)
  }

  /**
   * Runs the handshake, once. Resolves when it is over and concluded; `left`: its session is over as well. Never rejects.
   */
  async run(handshake: Handshake): Promise<'left' | 'over'> {
    const { session, timeoutMs, conclude } = this.#options
    const onTime = () => this.cancel(new PeerlineError('ERR_PEERLINE_TIMEOUT', 'the trust handshake took too long'))
    const onLeave = () => this.cancel(new PeerlineError('ERR_PEERLINE_ABORTED', 'the peer left'))
    const timer = setTimeout(onTime, timeoutMs)
    session.addEventListener('abort', onLeave, { once: true })
    let failed: PeerlineError | undefined
    try {
      const work = async () => handshake(this.#context())
      // nobody waits for it once the attempt is ended
      const passed: unknown = await untilAborted(work(), this.#end.signal, 'the trust handshake')
      // it may have been ended in the moment between
      this.#check()
      if (passed !== true) failed = new PeerlineError('ERR_PEERLINE_DENIED', 'the peer did not pass the handshake')
    } catch (error) {
      failed = asPeerlineError(error, 'ERR_PEERLINE_DENIED', 'the trust handshake failed')
    }
    clearTimeout(timer)
    session.removeEventListener('abort', onLeave)
    this.cancel(new PeerlineError('ERR_PEERLINE_ABORTED', 'the trust handshake is over'))
    conclude(failed)
    return session.aborted ? 'left' : 'over'
  }

  #context(): HandshakeContext {
    const { self, peer, exchange, elevate } = this.#options
    const { signal } = this.#end
    return {
      self,
      peer,
      signal,
      elevate: (ms) => {
        this.#check()
        elevate(ms)
      },
      request: async (protocol, body, options = {}) => {
        this.#check()
        return exchange.request(protocol, body, { ...options, signal })
      },
    }
  }

  #check(): void {
    const { signal } = this.#end
    if (signal.aborted) throw abortError(signal, 'the trust handshake')
  }
}
