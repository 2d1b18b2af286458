/**
 * Options that commands share, and how their values are read. Flags come first, then the environment.
 */
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { Via } from '../connect/index.ts'

export const DEFAULT_IDENTITY = '~/.peerline/id'

/** Of the server: one that shared its identity with a peer of the same machine would be taken for it. */
export const DEFAULT_SERVER_IDENTITY = '~/.peerline/server'

export interface IdentityOption {
  readonly identity: string
}

export interface JsonOption {
  readonly json?: boolean
}

/** Who the peer is, where it is found, and where it listens. */
export interface PeerOption extends IdentityOption {
  readonly rendezvous?: readonly string[]
  /** Files, URLs of servers, or `hedera`. */
  readonly ledger?: readonly string[]
  readonly registry?: string
  readonly listen?: readonly string[]
  readonly via: Via
  readonly stun?: readonly string[]
  readonly lan: boolean
  readonly announce?: boolean
  /** Nodes, or `public`. */
  readonly dht?: readonly string[]
  readonly dhtAddresses?: boolean
  readonly mapPorts: boolean
  readonly birthday: boolean
}

/** Who may come in. */
export interface AllowOption {
  readonly allow?: readonly string[]
}

export interface AskOption {
  readonly ask?: boolean
}

/** How another peer is dialled. */
export interface DialOption {
  readonly address?: readonly string[]
  readonly relay?: string
  readonly exclusive?: boolean
}

/** A value that may be given several times, or as a list. */
export function collect(value: string, before: readonly string[] = []): string[] {
  const parts = value.split(/[\s,]+/).filter((part) => part !== '')
  if (parts.length === 0) throw new InvalidArgumentError('It is empty.')
  return [...before, ...parts]
}

export function addIdentity(command: Command, file: string = DEFAULT_IDENTITY): Command {
  return command.addOption(
    new Option('--identity <file>', 'key file; made when it is missing').default(file).env('PEERLINE_IDENTITY'),
  )
}

export function addJson(command: Command): Command {
  return command.option('--json', 'one JSON object a line on standard output')
}

export function addListen(command: Command, text: string): Command {
  return command.addOption(new Option('--listen <host:port>', text).env('PEERLINE_LISTEN').argParser(collect))
}

export function addRendezvous(command: Command, text: string): Command {
  return command.addOption(new Option('--rendezvous <url>', text).env('PEERLINE_RENDEZVOUS').argParser(collect))
}

/** What is found out about the network, and what of it is left alone. */
export function addNetwork(command: Command): Command {
  return command
    .option('--no-lan', 'do not look for peers on the local network')
    .option('--no-map-ports', 'do not ask the router to map ports (UPnP, NAT-PMP, PCP)')
}

/** Above what most never need: help shows first what a command is for. */
const NETWORK = 'Network:'

export function addPeer(command: Command): Command {
  addIdentity(command).optionsGroup(NETWORK)
  addRendezvous(command, 'server to be found through, as it prints itself; may be repeated')
  command
    .addOption(
      new Option(
        '--ledger <where>',
        'a ledger to be found through: a file that the peers share, the URL of a server that has one, or "hedera"; may be repeated',
      )
        .env('PEERLINE_LEDGER')
        .argParser((value: string, before: readonly string[] = []) => [...before, value]),
    )
    .addOption(
      new Option('--registry <topic>', 'with --ledger hedera: the topic where peers tell of theirs').env(
        'PEERLINE_REGISTRY',
      ),
    )
    .addOption(
      new Option(
        '--via <way>',
        'relay: relays alone, and no address of ours is told to peers; direct: no relay; or one kind of direct path',
      )
        .choices(['auto', 'relay', 'direct', 'tcp', 'udp', 'webrtc'])
        .default('auto')
        .env('PEERLINE_VIA'),
    )
    .addOption(
      new Option('--stun <host:port>', 'STUN server to ask for our address, besides the rendezvous; may be repeated')
        .env('PEERLINE_STUN')
        .argParser(collect),
    )
  addDht(addNetwork(command)).option(
    '--no-birthday',
    'do not search for the port of a peer whose router gives random ones (256 sockets, 5,000 probes in 5 s)',
  )
  addListen(
    command,
    'where to listen for direct paths; may be repeated; "none" for nowhere (default: a free port; nowhere with --via relay)',
  )
  return command.optionsGroup('')
}

function addDht(command: Command): Command {
  return command
    .addOption(
      new Option('--dht <host:port>', 'a node of the DHT to seek peers and be found in, or "public"; may be repeated')
        .env('PEERLINE_DHT')
        .argParser(collect),
    )
    .option('--dht-addresses', 'with --dht: whoever knows the peer id may learn our addresses there')
}

/** For commands that stay: a dial is over before anybody has looked. */
export function addAnnounce(command: Command): Command {
  return command
    .optionsGroup(NETWORK)
    .option('--announce', 'tell the local network who this is, so that others see it with peers --lan')
    .optionsGroup('')
}

export function addAllow(command: Command): Command {
  return command.addOption(
    new Option('--allow <peer>', 'let this peer in this time, or "all"; may be repeated (default: whom rules let in)')
      .env('PEERLINE_ALLOW')
      .argParser(collect),
  )
}

export function addDial(command: Command): Command {
  return command
    .optionsGroup(NETWORK)
    .addOption(
      new Option('--address <host:port>', 'where the peer listens, if known; may be repeated').argParser(collect),
    )
    .option('--relay <url>', 'a relay to use before those of the rendezvous, as it prints itself')
    .option('--exclusive', 'with --relay: no other relay and no direct path, and no address of ours is told')
    .optionsGroup('')
}

/** A whole number within bounds. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN
    if (!(value >= min && value <= max))
      throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`)
    return value
  }
}

const FACTORS: Readonly<Record<string, number>> = {
  '': 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  ki: 2 ** 10,
  mi: 2 ** 20,
  gi: 2 ** 30,
}

/** A number of bytes above 0: `500000`, `500k`, `32M`, `1.5G` (units of 1000), `32MiB` (of 1024). */
export function byteCount(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([kmg]i?|)b?$/i.exec(text)
  const bytes = match === null ? Number.NaN : Math.round(Number(match[1]) * FACTORS[match[2]!.toLowerCase()]!)
  if (!(bytes >= 1 && bytes <= Number.MAX_SAFE_INTEGER)) {
    throw new InvalidArgumentError('It must be a number of bytes, such as 500k, 32M or 32MiB.')
  }
  return bytes
}

const MS_OF: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 }

/** ms, ten years: longer is for good. */
const MAX_DURATION_MS = 3_650 * 86_400_000

/** A time in ms: `90s`, `15m`, `1h`, `7d`, `2w`, or several of these in a row, `1h30m`. */
export function duration(text: string): number {
  const parts = /^(?:\d{1,9}[smhdw])+$/.test(text) ? [...text.matchAll(/(\d+)(.)/g)] : []
  const ms = parts.reduce((sum, [, count, unit]) => sum + Number(count) * MS_OF[unit!]!, 0)
  if (!(ms > 0 && ms <= MAX_DURATION_MS)) {
    throw new InvalidArgumentError('It must be a time such as 90s, 15m, 1h, 1h30m, 7d or 2w, of ten years at most.')
  }
  return ms
}
