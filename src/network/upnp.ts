/**
 * Asking a router for a port: UPnP, the Internet Gateway Device (WANIPConnection:1 and :2, WANPPPConnection:1).
 *
 *     us    M-SEARCH, multicast to 239.255.255.250:1900           (UPnP Device Architecture 1.1, section 1.3.2)
 *     them  200 OK, LOCATION: http://router/description.xml       unicast
 *     us    GET the description: which service, at which URL      (section 2)
 *     us    POST SOAP to that URL: AddPortMapping, …              (section 3)
 *
 * Anyone on the network can answer a search, with anything:
 * - a location counts only when it is on the machine that answered, in a subnet of ours, and so does the URL it leads to.
 *   So nobody can have us send requests elsewhere;
 * - a document has at most 128 KiB, a request at most 3 s, and redirections are not followed;
 * - XML is not parsed but searched for the few elements that matter, in time linear to its length.
 */
import { createSocket } from 'node:dgram'
import { request } from 'node:http'
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import { inOwnSubnet, type LocalAddress, localAddresses, toSocketAddress } from './address.ts'
import type { Granted, MappedProtocol } from './pcp.ts'

const SSDP_PORT = 1900
const SSDP_GROUP = '239.255.255.250'
/** A device answers for older versions of its type too, but not all keep to that. */
const SEARCH_TARGETS = [1, 2].map((version) => `urn:schemas-upnp-org:device:InternetGatewayDevice:${version}`)
/** ms after the start at which a search is sent: UDP may lose one. */
const SEARCH_AT_MS = [0, 500]
/** s that a device may take before it answers, so that they do not all at once: the least there is. */
const MX_S = 1
/** ms for answers: the last search, MX and a little; and, once there is one, for further ones. */
const SEARCH_MS = 1_700
const FURTHER_MS = 200

/** Routers looked at, and answers to a search that are read. */
const MAX_ROUTERS = 4
const MAX_ANSWERS = 64

/** Bytes of a document: a description has 3 to 20 KiB. */
const MAX_DOCUMENT_BYTES = 131_072
/** ms for one request to a router: they are slow, but on this link. */
const REQUEST_MS = 3_000

const SERVICE = /^urn:schemas-upnp-org:service:WAN(?:IP|PPP)Connection:[12]$/

/** Errors of AddPortMapping (WANIPConnection:2, section 2.5.16). */
const CONFLICT = 718
const SAME_PORTS_ONLY = 724
const PERMANENT_ONLY = 725

/** A connection service of a router. */
export interface Igd {
  readonly controlUrl: URL
  readonly serviceType: string
  /** Our address in its subnet. */
  readonly localAddress: string
}

/** Where an answer to a search says that the description is, and our address in its subnet. */
interface Found {
  readonly location: URL
  readonly localAddress: string
}

/** The routers that answer a search. Never rejects. */
export async function findIgds(options: { signal: AbortSignal }): Promise<Igd[]> {
  const locals = localAddresses().filter(({ family }) => family === 4)
  const found = await search(locals, options.signal)
  const igds = await Promise.all(
    found.map(async ({ location, localAddress }) => {
      try {
        const text = await http(location, { localAddress, signal: options.signal })
        return readDescription(text, location, localAddress)
      } catch {
        return undefined
      }
    }),
  )
  return igds.filter((igd) => igd !== undefined)
}

/** The address that the router has outside. @throws PeerlineError */
export async function externalAddress(igd: Igd, options: { signal: AbortSignal }): Promise<string> {
  const answer = await soap(igd, 'GetExternalIPAddress', [], options)
  return elementText(answer, 'NewExternalIPAddress') ?? ''
}

/**
 * One mapping, or its renewal. The port outside is the wanted one, or another when that is taken.
 * @throws PeerlineError `ERR_PEERLINE_REMOTE` when the router refuses, `ERR_PEERLINE_UNREACHABLE`, or what the signal says
 */
export async function mapByUpnp(
  igd: Igd,
  wanted: { protocol: MappedProtocol; internalPort: number; externalPort: number; lifetime: number },
  options: { signal: AbortSignal },
): Promise<Granted> {
  // The address first: a router without one must not be left with a mapping.
  const host = await externalAddress(igd, options)
  const external = toSocketAddress(host, wanted.externalPort)
  if (external === undefined) throw new PeerlineError('ERR_PEERLINE_REMOTE', 'the router has no address outside')
  let { lifetime } = wanted
  // Another port, or a mapping without end, or both: no more than that is to be tried.
  for (let attempt = 1; ; attempt++) {
    try {
      await addMapping(igd, { ...wanted, externalPort: external.port, lifetime }, options)
      return { external, internalHost: igd.localAddress, lifetime: wanted.lifetime }
    } catch (error) {
      const code = error instanceof UpnpFault ? error.fault : undefined
      if (attempt === 4) throw error
      if (code === PERMANENT_ONLY && lifetime !== 0) lifetime = 0
      else if (code === CONFLICT) external.port = randomPort()
      else if (code === SAME_PORTS_ONLY) external.port = wanted.internalPort
      else throw error
    }
  }
}

/** Takes a mapping back. @throws PeerlineError */
export async function unmapByUpnp(
  igd: Igd,
  { protocol, externalPort }: { protocol: MappedProtocol; externalPort: number },
  options: { signal: AbortSignal },
): Promise<void> {
  const name: [string, string | number][] = [
    ['NewRemoteHost', ''],
    ['NewExternalPort', externalPort],
    ['NewProtocol', protocol.toUpperCase()],
  ]
  await soap(igd, 'DeletePortMapping', name, options)
}

function addMapping(
  igd: Igd,
  m: { protocol: MappedProtocol; internalPort: number; externalPort: number; lifetime: number },
  options: { signal: AbortSignal },
): Promise<string> {
  const values: [string, string | number][] = [
    ['NewRemoteHost', ''],
    ['NewExternalPort', m.externalPort],
    ['NewProtocol', m.protocol.toUpperCase()],
    ['NewInternalPort', m.internalPort],
    ['NewInternalClient', igd.localAddress],
    ['NewEnabled', 1],
    ['NewPortMappingDescription', 'peerline'],
    ['NewLeaseDuration', m.lifetime],
  ]
  return soap(igd, 'AddPortMapping', values, options)
}

/** Ports outside that others will hardly have: the private range. */
function randomPort(): number {
  return 49_152 + Math.floor(Math.random() * 16_384)
}

// ---- searching ----

function search(locals: readonly LocalAddress[], signal: AbortSignal): Promise<Found[]> {
  return new Promise((resolve) => {
    const found = new Map<string, Found>()
    const sockets = new Set<ReturnType<typeof createSocket>>()
    const timers: NodeJS.Timeout[] = []
    let answers = 0
    const finish = () => {
      for (const timer of timers) clearTimeout(timer)
      signal.removeEventListener('abort', finish)
      for (const socket of sockets) socket.close()
      sockets.clear()
      resolve([...found.values()])
    }
    if (signal.aborted || locals.length === 0) return finish()
    signal.addEventListener('abort', finish)
    timers.push(setTimeout(finish, SEARCH_MS))
    for (const { host } of locals) {
      const socket = createSocket('udp4')
      sockets.add(socket)
      const drop = () => {
        if (sockets.delete(socket)) socket.close()
      }
      socket.on('error', drop)
      socket.on('message', (bytes, from) => {
        if (++answers > MAX_ANSWERS || found.size >= MAX_ROUTERS) return
        const location = readSearchAnswer(bytes.toString('latin1'), from.address)
        if (location === undefined || !inOwnSubnet(from.address, locals)) return
        if (found.size === 0) timers.push(setTimeout(finish, FURTHER_MS))
        if (!found.has(location.href)) found.set(location.href, { location, localAddress: host })
      })
      socket.bind(0, host, () => {
        if (!sockets.has(socket)) return
        try {
          socket.setMulticastInterface(host)
        } catch {
          return drop() // the interface has just gone
        }
        const send = () => {
          for (const target of SEARCH_TARGETS) socket.send(searchFor(target), SSDP_PORT, SSDP_GROUP, () => {})
        }
        for (const ms of SEARCH_AT_MS) {
          if (ms === 0) send()
          else timers.push(setTimeout(send, ms))
        }
      })
    }
  })
}

function searchFor(target: string): string {
  const lines = ['M-SEARCH * HTTP/1.1', `HOST: ${SSDP_GROUP}:${SSDP_PORT}`, 'MAN: "ssdp:discover"', `MX: ${MX_S}`]
  return [...lines, `ST: ${target}`, '', ''].join('\r\n')
}

/** The location that an answer to a search names, when it is on the machine `from` that sent the answer. */
export function readSearchAnswer(text: string, from: string): URL | undefined {
  if (!/^HTTP\/1\.[01] 200 /.test(text)) return undefined
  const [, location] = /^location:[ \t]*(\S{1,512})[ \t]*\r?$/im.exec(text) ?? []
  return location === undefined ? undefined : urlOn(location, from)
}

/** The connection service in a description, when its URL is on the same machine. */
export function readDescription(text: string, location: URL, localAddress: string): Igd | undefined {
  const base = elementText(text, 'URLBase') ?? location.href
  for (const part of text.split('</service>')) {
    const service = part.slice(part.lastIndexOf('<service>'))
    const serviceType = elementText(service, 'serviceType')
    const path = elementText(service, 'controlURL')
    if (serviceType === undefined || path === undefined || !SERVICE.test(serviceType)) continue
    const controlUrl = urlOn(path, location.hostname, base) ?? urlOn(path, location.hostname, location.href)
    if (controlUrl !== undefined) return { controlUrl, serviceType, localAddress }
  }
  return undefined
}

function urlOn(text: string, host: string, base?: string): URL | undefined {
  try {
    const url = new URL(text, base)
    return url.protocol === 'http:' && url.hostname === host && url.username === '' ? url : undefined
  } catch {
    return undefined
  }
}

/** The text of the first element of this name without attributes; the five entities of XML are read. */
export function elementText(xml: string, name: string): string | undefined {
  const start = xml.indexOf(`<${name}>`)
  if (start < 0) return undefined
  const from = start + name.length + 2
  const end = xml.indexOf(`</${name}>`, from)
  if (end < 0 || end - from > 512) return undefined
  const entities: Record<string, string> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" }
  return xml
    .slice(from, end)
    .trim()
    .replace(/&(lt|gt|amp|quot|apos);/g, (_, entity: string) => entities[entity]!)
}

// ---- requests ----

/** What a router says instead of doing it. */
class UpnpFault extends PeerlineError {
  /** UPnP Device Architecture 1.1, section 3.2.2. */
  readonly fault: number

  constructor(action: string, fault: number) {
    super('ERR_PEERLINE_REMOTE', `the router refuses ${action}: UPnP error ${fault}`)
    this.fault = fault
  }
}

async function soap(
  igd: Igd,
  action: string,
  values: readonly [string, string | number][],
  { signal }: { signal: AbortSignal },
): Promise<string> {
  const body =
    '<?xml version="1.0"?>\r\n' +
    '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" ' +
    's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>' +
    `<u:${action} xmlns:u="${igd.serviceType}">` +
    values.map(([name, value]) => `<${name}>${value}</${name}>`).join('') +
    `</u:${action}></s:Body></s:Envelope>`
  const soapAction = `"${igd.serviceType}#${action}"`
  const text = await http(igd.controlUrl, { localAddress: igd.localAddress, signal, body, soapAction })
  const fault = elementText(text, 'errorCode')
  if (fault !== undefined) throw new UpnpFault(action, Number(fault))
  if (!text.includes(`${action}Response`)) {
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `the router answers ${action} with something else`)
  }
  return text
}

interface HttpOptions {
  readonly localAddress: string
  readonly signal: AbortSignal
  readonly body?: string
  readonly soapAction?: string
}

/** The text at a URL; faults come with status 500. */
function http(url: URL, { localAddress, signal, body, soapAction }: HttpOptions): Promise<string> {
  const what = `asking the router ${url.host}`
  const deadline = AbortSignal.any([signal, AbortSignal.timeout(REQUEST_MS)])
  return new Promise((resolve, reject) => {
    const fail = (error: unknown) =>
      reject(deadline.aborted ? abortError(deadline, what) : asPeerlineError(error, 'ERR_PEERLINE_UNREACHABLE', what))
    const headers: Record<string, string | number> = { Connection: 'close' }
    if (body !== undefined && soapAction !== undefined) {
      headers['Content-Type'] = 'text/xml; charset="utf-8"'
      headers['Content-Length'] = Buffer.byteLength(body)
      headers.SOAPAction = soapAction
    }
    const method = body === undefined ? 'GET' : 'POST'
    const asked = request(url, { method, headers, localAddress, signal: deadline, agent: false }, (response) => {
      const { statusCode } = response
      const chunks: Buffer[] = []
      let length = 0
      response.on('error', fail)
      response.on('data', (chunk: Buffer) => {
        length += chunk.length
        if (length <= MAX_DOCUMENT_BYTES) return void chunks.push(chunk)
        const most = `${what}: over ${MAX_DOCUMENT_BYTES} bytes`
        asked.destroy(new PeerlineError('ERR_PEERLINE_TOO_LARGE', most))
      })
      response.on('end', () => {
        if (statusCode === 200 || statusCode === 500) resolve(Buffer.concat(chunks).toString('utf8'))
        else fail(new PeerlineError('ERR_PEERLINE_REMOTE', `${what}: HTTP status ${statusCode}`))
      })
    })
    asked.on('error', fail)
    asked.end(body)
  })
}
