/**
 * Reflectors as they are named, and where they are.
 *
 *     'stun.example.org:3478'   a host and its port
 *     ':41234'                  another port of the rendezvous that says so
 *
 * A rendezvous names reflectors, and whoever names them chooses where we send: a few small requests, over UDP and TCP,
 * that anybody on the way can read. It is not trusted with more. Names are resolved first and judged by their addresses:
 * no private network and no loopback, unless the rendezvous itself was reached there.
 */

import { lookup } from 'node:dns'
import { abortError } from '../errors.ts'
import { formatHostPort, parseHostPort, type SocketAddress, scopeOf, toSocketAddress } from './address.ts'

/** Names taken; each may stand for one address of each family. */
const MAX_NAMES = 16

export interface ResolveReflectorsOptions {
  readonly signal: AbortSignal
  /** The host, as an IP or a name, of the rendezvous that named them: what `:port` means. @default none */
  readonly at?: string
  /** True when they are of the user's own choice, and may be anywhere. @default false */
  readonly trusted?: boolean
}

/**
 * Where reflectors are, each once, IPv4 before IPv6, in the order of the names. What is no name, is not found, or may not
 * be asked is left out.
 * @throws PeerlineError what the signal says
 */
export async function resolveReflectors(
  names: readonly string[],
  { signal, at, trusted = false }: ResolveReflectorsOptions,
): Promise<SocketAddress[]> {
  const home = at === undefined ? [] : await resolve(at, 1, signal)
  const near = home.some(({ host }) => scopeOf(host) === 'private' || scopeOf(host) === 'loopback')
  const here = home.some(({ host }) => scopeOf(host) === 'loopback')
  const allowed = ({ host }: SocketAddress): boolean => {
    const scope = scopeOf(host)
    return (
      scope === 'public' || (scope === 'private' && (trusted || near)) || (scope === 'loopback' && (trusted || here))
    )
  }
  const found = await Promise.all(
    names.slice(0, MAX_NAMES).map(async (name) => {
      const { host, port } = parse(name) ?? { host: '', port: 0 }
      if (port === 0 || (host === '' && at === undefined)) return []
      return host === '' ? home.map((address) => ({ ...address, port })) : resolve(host, port, signal)
    }),
  )
  const once = new Map(found.flat().map((address) => [formatHostPort(address.host, address.port), address]))
  return [...once.values()].filter(allowed).sort((a, b) => a.family - b.family)
}

function parse(name: string): { host: string; port: number } | undefined {
  try {
    return parseHostPort(name)
  } catch {
    return undefined
  }
}

/** The first address of each family. */
function resolve(host: string, port: number, signal: AbortSignal): Promise<SocketAddress[]> {
  return new Promise((done, reject) => {
    if (signal.aborted) return reject(abortError(signal, `looking up ${host}`))
    const literal = toSocketAddress(host, port)
    if (literal !== undefined) return done([literal])
    // A lookup cannot be cancelled: what comes after the signal is dropped.
    const onAbort = (): void => reject(abortError(signal, `looking up ${host}`))
    signal.addEventListener('abort', onAbort, { once: true })
    lookup(host, { all: true }, (error, addresses) => {
      signal.removeEventListener('abort', onAbort)
      const found = error === null ? addresses.flatMap(({ address }) => toSocketAddress(address, port) ?? []) : []
      done([4, 6].flatMap((family) => found.find((address) => address.family === family) ?? []))
    })
  })
}
