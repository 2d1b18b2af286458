/**
 * Orders to the command that runs with an identity.
 */
import net from 'node:net'
import { abortError, PeerlineError } from '../errors.ts'
import { errorFromJson, type Json, linesOf } from './control-lines.ts'
import { boundAs, refuseForeign } from './state-places.ts'

export interface SendOptions {
  readonly signal: AbortSignal
  readonly onItem?: (item: Json) => void
  /** There is no end to it: silence, once it is taken, means that nothing happens. */
  readonly endless?: boolean
  /** ms without a line after which whoever listens is given up. @default 10_000: it takes a few to carry out an order */
  readonly silentMs?: number
}

/**
 * Sends an order. What came of it; undefined when nobody runs.
 * @throws PeerlineError what whoever runs says; `ERR_PEERLINE_BUSY` when it ended before it took the order, which can be given again,
 *   `ERR_PEERLINE_CLOSED` when it ended while it was at it; `ERR_PEERLINE_TIMEOUT` when it says nothing; `ERR_PEERLINE_ABORTED`
 */
export async function sendOrder(place: string, order: Json, options: SendOptions): Promise<Json | undefined> {
  const { signal, onItem, endless = false, silentMs = 10_000 } = options
  signal.throwIfAborted()
  const bound = await boundAs(place)
  const socket = await connect(bound)
  if (socket === undefined) return undefined
  let late = false
  let taken = false
  const onAbort = () => socket.destroy()
  signal.addEventListener('abort', onAbort)
  socket.on('error', () => {})
  socket.setTimeout(silentMs, () => {
    late = true
    socket.destroy()
  })
  try {
    await refuseForeign(bound)
    socket.write(`${JSON.stringify(order)}\n`)
    for await (const line of linesOf(socket)) {
      if (line.error !== undefined) throw errorFromJson(line.error)
      if (line.done !== undefined) return line.done as Json
      if (line.taken === true) taken = true
      if (endless && taken) socket.setTimeout(0)
      if (typeof line.item === 'object' && line.item !== null) onItem?.(line.item as Json)
    }
    throw ended(taken)
  } catch (error) {
    if (signal.aborted) throw abortError(signal, 'the order')
    if (late) throw silent()
    throw error instanceof PeerlineError ? error : ended(taken, error)
  } finally {
    signal.removeEventListener('abort', onAbort)
    socket.destroy()
  }
}

/** Connects; undefined when nobody listens there. */
function connect(place: string): Promise<net.Socket | undefined> {
  return new Promise((resolve, reject) => {
    const socket = net.connect(place)
    socket.once('connect', () => {
      socket.removeAllListeners('error')
      resolve(socket)
    })
    socket.once('error', (error: NodeJS.ErrnoException) => {
      const { code } = error
      if (code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'ENOTDIR') resolve(undefined)
      else if (code === 'EAGAIN') reject(silent())
      else reject(new PeerlineError('ERR_PEERLINE_FILE', `${place} cannot be used: ${code}`, { cause: error }))
    })
  })
}

function silent(): PeerlineError {
  const recover = 'See whether it is stopped or hangs; when it has ended, try again.'
  return new PeerlineError('ERR_PEERLINE_TIMEOUT', 'the peerline that runs with this identity does not answer', {
    recover,
  })
}

function ended(taken: boolean, cause?: unknown): PeerlineError {
  const recover = 'Try again.'
  const code = taken ? 'ERR_PEERLINE_CLOSED' : 'ERR_PEERLINE_BUSY'
  return new PeerlineError(code, 'the peerline that runs with this identity ended just now', { recover, cause })
}
