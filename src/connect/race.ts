/**
 * Dialling a peer at the addresses where it listens, in order of preference: the next one when the one before has failed,
 * or a moment later; the first to open wins (RFC 8305 section 5).
 */
import { setMaxListeners } from 'node:events'
import { abortError, type PeerlineError } from '../errors.ts'
import { connectTcp, type FramedPath, tcpPath } from '../path/index.ts'
import { pause } from '../pause.ts'

/** ms for one path to be opened: a TCP connection that has sent its SYN three times will hardly come. */
export const PATH_ATTEMPT_MS = 8_000

/** ms between the starts of attempts, best first: RFC 8305 section 5 allows 100 to 2000. */
const STAGGER_MS = 100

/** The first of several addresses to open. @throws PeerlineError of the first address when none does */
export async function raceTcp(
  addresses: readonly { readonly host: string; readonly port: number }[],
  signal: AbortSignal,
): Promise<FramedPath> {
  const won = new AbortController()
  const stop = AbortSignal.any([signal, won.signal, AbortSignal.timeout(PATH_ATTEMPT_MS)])
  // One listener for each address is no leak, and no cause for a warning on somebody's terminal.
  setMaxListeners(0, stop)
  let before: Promise<unknown> = Promise.resolve()
  const attempts = addresses.map(async ({ host, port }, at) => {
    const turn = at === 0 ? before : Promise.race([before, pause(STAGGER_MS * at, stop)])
    const attempt = turn.then(() => connectTcp(host, port, { signal: stop }))
    // The next one's turn comes when this one, and all before it, have failed.
    before = Promise.all([before, attempt.catch(() => {})])
    const socket = await attempt
    if (won.signal.aborted) {
      socket.destroy()
      throw abortError(won.signal, 'dialling')
    }
    won.abort()
    return tcpPath(socket)
  })
  try {
    return await Promise.any(attempts)
  } catch (error) {
    won.abort()
    throw (error as AggregateError).errors[0] as PeerlineError
  }
}
