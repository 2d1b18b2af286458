/**
 * One web service that tells what address it sees a machine come from.
 *
 *     us    GET url, over IPv4 or IPv6 as it is asked for
 *     them  200 and       203.0.113.7                      text
 *                or       {"ip":"203.0.113.7", …}          JSON (RFC 8259)
 *
 * - The family is forced, and looked at again when the answer comes: IPv4 inside IPv6 is IPv4, in the way there as well as
 *   in the answer.
 * - An answer has at most 1 KiB and says where it ends (RFC 9112 section 6.3), so that a torn one is not a shorter address.
 * - Redirections are not followed: who asks has chosen where.
 * - What is no address of the asked family, or none that the internet reaches, is no answer.
 * - It settles when the connection is closed: nothing is left behind.
 *
 * The answer is what the service claims. It may be wrong or a lie: see public-address.ts.
 */
import { type IncomingMessage, request as requestHttp } from 'node:http'
import { request as requestHttps } from 'node:https'
import { isIP } from 'node:net'
import { abortError, asPeerlineError, type ErrorCode, PeerlineError } from '../errors.ts'
import { bytesToIp, ipToBytes, scopeOf, toSocketAddress } from './address.ts'
import { networkOf } from './address-quorum.ts'

/** Bytes of an answer: an address has 45 at most, and some services tell a little more beside it. */
const MAX_ANSWER_BYTES = 1_024
/** Bytes of its headers: those that front ends of large providers add come to 2 KiB. */
const MAX_HEADER_BYTES = 8_192

/** One hand may hold all of a network: its services say one thing. They are of the user's choice, so it need not be large. */
const NETWORK_BITS = { 4: 24, 6: 56 } as const

/** Codes of Node's TLS layer that mean "this certificate is not good", not "nobody there". */
const CERTIFICATE_CODES = /CERT|UNABLE_TO|ERR_TLS|ERR_SSL|EPROTO/

export interface AskSourceOptions {
  readonly family: 4 | 6
  /** ms for all of it, name lookup included. */
  readonly timeoutMs: number
  /** Take private and loopback addresses too. */
  readonly anyScope: boolean
  readonly signal?: AbortSignal | undefined
}

export interface SourceAnswer {
  /** In its one form (RFC 5952 for IPv6). */
  readonly address: string
  /** The network that the service was asked in: the /24 of its IPv4 address, the /56 of its IPv6 one. */
  readonly network: string
}

/**
 * Asks one service.
 * @throws PeerlineError `ERR_PEERLINE_UNREACHABLE`, `ERR_PEERLINE_TLS`, `ERR_PEERLINE_TIMEOUT`, `ERR_PEERLINE_REMOTE` for
 *   another status than 200, `ERR_PEERLINE_TOO_LARGE`, `ERR_PEERLINE_PROTOCOL` for what is no answer, or what the signal says
 */
export function askSource(url: URL, options: AskSourceOptions): Promise<SourceAnswer> {
  const { family, timeoutMs, signal } = options
  const what = `asking ${url.host} for our IPv${family} address`
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(abortError(signal, what))
    // Node asks an address that is given as such whatever the family says.
    const literal = toSocketAddress(url.hostname.replace(/^\[|\]$/g, ''), 0)
    if (literal !== undefined && literal.family !== family) {
      const why = `${what}: it is at an IPv${literal.family} address`
      return reject(new PeerlineError('ERR_PEERLINE_UNREACHABLE', why))
    }
    let answer: SourceAnswer | undefined
    let failure: PeerlineError | undefined
    const finish = (error?: unknown) => {
      if (answer === undefined && error !== undefined) failure ??= asPeerlineError(error, codeOf(error), what)
      asked.destroy()
    }
    const send = url.protocol === 'https:' ? requestHttps : requestHttp
    const asked = send(url, {
      family,
      agent: false,
      maxHeaderSize: MAX_HEADER_BYTES,
      headers: { Accept: 'text/plain, application/json', 'Accept-Encoding': 'identity', Connection: 'close' },
    })
    const timer = setTimeout(() => {
      finish(new PeerlineError('ERR_PEERLINE_TIMEOUT', `${what}: no answer within ${timeoutMs} ms`))
    }, timeoutMs)
    const onAbort = () => finish(abortError(signal!, what))
    signal?.addEventListener('abort', onAbort, { once: true })
    asked.on('error', finish)
    asked.on('response', (response) => {
      const read = (text: string) => {
        answer = {
          address: readAddress(text, options),
          network: networkOf(response.socket.remoteAddress ?? '', NETWORK_BITS),
        }
        finish()
      }
      readBody(response, family).then(read).catch(finish)
    })
    asked.on('close', () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
      if (answer !== undefined) resolve(answer)
      else reject(failure ?? new PeerlineError('ERR_PEERLINE_UNREACHABLE', `${what}: closed without an answer`))
    })
    asked.end()
  })
}

/** The body of an answer that is one. */
function readBody(response: IncomingMessage, family: 4 | 6): Promise<string> {
  return new Promise((resolve, reject) => {
    const { statusCode = 0, headers, socket } = response
    if (statusCode !== 200) {
      const moved = statusCode >= 300 && statusCode < 400 ? ', and redirections are not followed' : ''
      throw new PeerlineError('ERR_PEERLINE_REMOTE', `HTTP status ${statusCode}${moved}`)
    }
    if (toSocketAddress(socket.remoteAddress ?? '', 0)?.family !== family)
      throw wrong(`it did not come over IPv${family}`)
    if (headers['content-length'] === undefined && headers['transfer-encoding'] === undefined) {
      throw wrong('it does not say where it ends')
    }
    const chunks: Buffer[] = []
    let length = 0
    response.on('error', reject)
    response.on('data', (chunk: Buffer) => {
      length += chunk.length
      if (length <= MAX_ANSWER_BYTES) chunks.push(chunk)
      else reject(new PeerlineError('ERR_PEERLINE_TOO_LARGE', `the answer has more than ${MAX_ANSWER_BYTES} bytes`))
    })
    response.on('end', () => resolve(Buffer.concat(chunks).toString('latin1')))
  })
}

/**
 * The address in the text of an answer.
 * @throws PeerlineError `ERR_PEERLINE_PROTOCOL`
 */
export function readAddress(
  text: string,
  { family, anyScope }: { readonly family: 4 | 6; readonly anyScope: boolean },
): string {
  const trimmed = text.trim()
  const said = trimmed.startsWith('{') ? ipOf(trimmed) : trimmed
  // An address that is seen from elsewhere has no zone.
  const found = isIP(said) === 0 || said.includes('%') ? undefined : toSocketAddress(said, 0)
  if (found === undefined) throw wrong('it is no address')
  if (found.family !== family) throw wrong(`it is an IPv${found.family} address`)
  const scope = scopeOf(found.host)
  const usable = scope === 'public' || (anyScope && (scope === 'private' || scope === 'loopback'))
  if (!usable) throw wrong(`${found.host} is ${scope}`)
  return bytesToIp(ipToBytes(found.host)!)
}

function ipOf(json: string): string {
  try {
    const { ip } = JSON.parse(json) as { ip?: unknown }
    return typeof ip === 'string' ? ip : ''
  } catch {
    return ''
  }
}

function codeOf(error: unknown): ErrorCode {
  const { code = '' } = error as NodeJS.ErrnoException
  if (CERTIFICATE_CODES.test(code)) return 'ERR_PEERLINE_TLS'
  return code.startsWith('HPE_') ? 'ERR_PEERLINE_PROTOCOL' : 'ERR_PEERLINE_UNREACHABLE'
}

function wrong(why: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', `the answer is of no use: ${why}`)
}
