/**
 * What `peerline doctor` looks at on this machine: multicast on its networks, and the optional packages.
 */
import { randomBytes, randomInt } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { LanSockets } from '../network/lan-sockets.ts'
import { LAN_GROUP_V4, LAN_GROUP_V6 } from '../signaling/lan-wire.ts'

/** Ports of the private range (RFC 6335 section 6) beside that of the peers, who need not hear of it. */
const FIRST_PORT = 62_000
const LAST_PORT = 65_535

/** ms after the start at which a datagram goes out: to all of ours, and through a wireless card that was asleep. */
const SEND_AT_MS = [0, 150]

/** ms for it to come back. */
const HEAR_MS = 500

export interface LanFacts {
  /** Interfaces with multicast, each counted once for IPv4 and once for IPv6. */
  readonly links: number
  /** Whether a datagram to the group came back to this machine. */
  readonly multicast: boolean
}

/** Sends a few datagrams to the group, and listens for them. Rejects with nothing but what the signal says. */
export async function examineLan(signal: AbortSignal): Promise<LanFacts> {
  const sent = randomBytes(16)
  let heard: () => void = () => {}
  const arrived = new Promise<boolean>((resolve) => {
    heard = () => resolve(true)
  })
  const sockets = await LanSockets.open({
    port: randomInt(FIRST_PORT, LAST_PORT + 1),
    groups: { v4: LAN_GROUP_V4, v6: LAN_GROUP_V6 },
    filter: {},
    listen: true,
    onDatagram: (bytes) => {
      if (sent.equals(bytes)) heard()
    },
  }).catch(() => undefined)
  if (sockets === undefined) return { links: 0, multicast: false }
  let end: (arrived: boolean) => void = () => {}
  const silence = new Promise<boolean>((resolve) => {
    end = resolve
  })
  const onAbort = () => end(false)
  signal.addEventListener('abort', onAbort)
  const timers = SEND_AT_MS.map((ms) => setTimeout(() => sockets.sendToAll(sent, { broadcast: false }), ms))
  timers.push(setTimeout(() => end(false), HEAR_MS))
  try {
    if (sockets.links === 0 || signal.aborted) end(false)
    const multicast = await Promise.race([arrived, silence])
    return { links: sockets.links, multicast }
  } finally {
    for (const timer of timers) clearTimeout(timer)
    signal.removeEventListener('abort', onAbort)
    await sockets.close()
  }
}

/** The optional packages: what each is for. */
export const PACKAGES = { 'udx-native': 'UDP paths', 'node-datachannel': 'WebRTC paths' } as const

export type PackageName = keyof typeof PACKAGES

/** Of each package its version; null when it is not installed, or does not run on this machine. */
export type PackageFacts = Readonly<Record<PackageName, string | null>>

/** Never rejects. */
export async function examinePackages(): Promise<PackageFacts> {
  const [udx, datachannel] = await Promise.all([
    versionOf('udx-native', () => import('udx-native')),
    versionOf('node-datachannel', () => import('node-datachannel')),
  ])
  return { 'udx-native': udx, 'node-datachannel': datachannel }
}

async function versionOf(name: PackageName, load: () => Promise<unknown>): Promise<string | null> {
  try {
    await load()
  } catch {
    return null
  }
  // A package need not let its package.json be imported: it stands somewhere above the main file.
  let at = new URL(import.meta.resolve(name))
  for (let up = new URL('.', at); up.href !== at.href; at = up, up = new URL('..', up)) {
    const text = await readFile(new URL('package.json', up), 'utf8').catch(() => '{}')
    const found = JSON.parse(text) as { name?: unknown; version?: unknown }
    if (found.name === name && typeof found.version === 'string') return found.version
  }
  return 'unknown version'
}
