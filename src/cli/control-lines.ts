/**
 * What goes over the control socket: JSON, a line each.
 *
 *     command --> {"order":NAME,…}                                      one, then it listens
 *             <-- {"taken":true} {"item":…} … {"done":…}                or, at any time:
 *             <-- {"error":{"code","message","recover"}}                and the end
 *
 * Limit: {@link MAX_LINE_CHARS}, known before a line is parsed.
 */
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { asPeerlineError, isErrorCode, PeerlineError } from '../errors.ts'

/** UTF-16 units of a line: several times a known peer with the longest notes and addresses that there may be. */
export const MAX_LINE_CHARS = 65_536

/** Anything that JSON can say. */
export type Json = Readonly<Record<string, unknown>>

/**
 * The lines that arrive, each parsed. Leaving the loop leaves the socket open.
 * @throws PeerlineError `ERR_PEERLINE_PROTOCOL` for one that is too long or no JSON object
 */
export async function* linesOf(socket: Socket): AsyncGenerator<Json> {
  socket.setEncoding('utf8')
  let rest = ''
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    const lines = (rest + (chunk as string)).split('\n')
    rest = lines.pop()!
    for (const line of lines) yield parse(line)
    if (rest.length > MAX_LINE_CHARS) throw tooLong()
  }
}

function parse(line: string): Json {
  if (line.length > MAX_LINE_CHARS) throw tooLong()
  let json: unknown
  try {
    json = JSON.parse(line)
  } catch (cause) {
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'a line of the control socket is no JSON', { cause })
  }
  if (typeof json === 'object' && json !== null && !Array.isArray(json)) return json as Json
  throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'a line of the control socket is no object')
}

/** Sends a line; resolves when there is room for more. Rejects when the signal fires. */
export async function writeLine(socket: Socket, json: Json, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  if (!socket.write(`${JSON.stringify(json)}\n`)) await once(socket, 'drain', { signal })
}

/** A failure, as a line tells it. */
export function errorToJson(reason: unknown): Json {
  const { code, message, recover } = asPeerlineError(reason, 'ERR_PEERLINE_REMOTE')
  return { error: { code, message, recover } }
}

/** The failure that a line told. */
export function errorFromJson(json: unknown): PeerlineError {
  const { code, message, recover } = (json ?? {}) as Record<string, unknown>
  const said = typeof message === 'string' ? message : 'it did not say why'
  // A later version may know more kinds of failure.
  return new PeerlineError(
    isErrorCode(code) ? code : 'ERR_PEERLINE_REMOTE',
    said,
    typeof recover === 'string' ? { recover } : {},
  )
}

function tooLong(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', `a line of the control socket is longer than ${MAX_LINE_CHARS}`)
}
