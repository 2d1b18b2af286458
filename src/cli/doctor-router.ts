/**
 * Whether the router maps ports, and by which protocol: each is asked for a mapping of a UDP port of its own, which is
 * given back at once. Nothing is read from those ports.
 */
import { createSocket, type Socket } from 'node:dgram'
import { abortError, asPeerlineError } from '../errors.ts'
import { formatHostPort, scopeOf } from '../network/address.ts'
import { defaultGateways } from '../network/gateway.ts'
import { type Granted, mapByNatPmp, mapByPcp, newNonce, type PcpRequest, unmapByNatPmp } from '../network/pcp.ts'
import type { MappingLanguage } from '../network/port-mapping.ts'
import { findIgds, mapByUpnp, unmapByUpnp } from '../network/upnp.ts'

/** s that a mapping is asked for: the least that routers grant without rounding up, should it not be given back. */
const LEASE_S = 120

/** ms for one protocol, and to give a mapping back. */
const ASK_MS = 10_000
const RELEASE_MS = 2_000

/** What one protocol came to. */
export interface MappingFacts {
  readonly via: MappingLanguage
  /** `silent`: nobody answers; `refused`: a router does, and will not map. */
  readonly outcome: 'mapped' | 'refused' | 'silent'
  /** Where the port was seen outside, `host:port`. */
  readonly external?: string
  /** False when that address is not public: another NAT stands before the router. */
  readonly reachable?: boolean
  /** Why not, for people. */
  readonly detail?: string
}

export interface RouterFacts {
  /** The routers asked by PCP and NAT-PMP; UPnP finds them itself. */
  readonly gateways: readonly string[]
  readonly mapping: readonly MappingFacts[]
}

/** A router in one protocol. */
interface Way {
  map(request: PcpRequest, signal: AbortSignal): Promise<Granted>
  unmap(request: PcpRequest, signal: AbortSignal): Promise<unknown>
}

export interface ExamineRouterOptions {
  /** The routers to ask by PCP and NAT-PMP. @default those of the default routes */
  readonly gateways?: readonly string[]
  /** @default all of them */
  readonly languages?: readonly MappingLanguage[]
}

/** Asks by every protocol. @throws PeerlineError what the signal says */
export async function examineRouter(signal: AbortSignal, options: ExamineRouterOptions = {}): Promise<RouterFacts> {
  const { languages = ['pcp', 'natpmp', 'upnp'] } = options
  const gateways = options.gateways ?? (await defaultGateways())
  const mapping = await Promise.all(
    languages.map(async (via): Promise<MappingFacts> => {
      const limited = AbortSignal.any([signal, AbortSignal.timeout(ASK_MS)])
      const ways = via === 'upnp' ? await upnpWays(limited) : gateways.map(via === 'pcp' ? pcpWay : natPmpWay)
      const found = await Promise.all(ways.map((way) => tryWay(via, way, limited)))
      const best = (['mapped', 'refused'] as const).flatMap(
        (wanted) => found.find((one) => one.outcome === wanted) ?? [],
      )
      return best[0] ?? found[0] ?? { via, outcome: 'silent' }
    }),
  )
  if (signal.aborted) throw abortError(signal, 'asking the router')
  return { gateways, mapping }
}

async function upnpWays(signal: AbortSignal): Promise<Way[]> {
  const igds = await findIgds({ signal })
  return igds.map((igd) => ({
    map: (request, stop) => mapByUpnp(igd, request, { signal: stop }),
    unmap: (request, stop) => unmapByUpnp(igd, request, { signal: stop }),
  }))
}

function pcpWay(gateway: string): Way {
  const nonce = newNonce()
  return {
    map: (request, signal) => mapByPcp(gateway, request, nonce, { signal }),
    unmap: (request, signal) => mapByPcp(gateway, { ...request, externalPort: 0, lifetime: 0 }, nonce, { signal }),
  }
}

function natPmpWay(gateway: string): Way {
  return {
    map: (request, signal) => mapByNatPmp(gateway, request, { signal }),
    unmap: (request, signal) => unmapByNatPmp(gateway, request, { signal }),
  }
}

/** Never rejects. */
async function tryWay(via: MappingLanguage, way: Way, signal: AbortSignal): Promise<MappingFacts> {
  // Held for as long as it is mapped: no other program may get what is sent to it.
  const socket = createSocket('udp4')
  let request: PcpRequest = { protocol: 'udp', internalPort: 0, externalPort: 0, lifetime: LEASE_S }
  // True while a router may hold a mapping of ours.
  let held = false
  try {
    const port = await bind(socket)
    request = { ...request, internalPort: port, externalPort: port }
    held = true
    const { external } = await way.map(request, signal)
    request = { ...request, externalPort: external.port }
    const scope = scopeOf(external.host)
    if (scope !== 'public' && scope !== 'private' && scope !== 'reserved') {
      return { via, outcome: 'refused', detail: `it gives the address ${external.host}, which nobody can reach` }
    }
    const where = formatHostPort(external.host, external.port)
    return { via, outcome: 'mapped', external: where, reachable: scope === 'public' }
  } catch (cause) {
    const { code, message } = asPeerlineError(cause, 'ERR_PEERLINE_UNREACHABLE')
    // Who answered no holds nothing, and who did not answer forgets soon; only what was cut short may stand.
    held = held && (code === 'ERR_PEERLINE_ABORTED' || code === 'ERR_PEERLINE_TIMEOUT')
    return { via, outcome: code === 'ERR_PEERLINE_REMOTE' ? 'refused' : 'silent', detail: message }
  } finally {
    if (held) await way.unmap(request, AbortSignal.timeout(RELEASE_MS)).catch(() => {})
    await new Promise<void>((resolve) => socket.close(() => resolve()))
  }
}

/** Binds to any free port. */
function bind(socket: Socket): Promise<number> {
  return new Promise((resolve, reject) => {
    socket.once('error', reject)
    socket.bind(0, () => resolve(socket.address().port))
  })
}
