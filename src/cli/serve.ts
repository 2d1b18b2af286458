/**
 * `peerline serve`: rendezvous, relay, reflectors, and a ledger if wanted, on one port; and a node of a DHT on another.
 */
import type { Command } from 'commander'
import type { RelayLimits, Server } from '../server/index.ts'
import {
  addIdentity,
  addJson,
  addListen,
  byteCount,
  collect,
  DEFAULT_SERVER_IDENTITY,
  type IdentityOption,
  type JsonOption,
  wholeNumber,
} from './options.ts'
import type { Output } from './output.ts'
import { run, STOP_MS, stopping } from './run.ts'

/** ms for goodbyes, within what a stopped command has. */
const CLOSE_MS = 1_500

/** Where the ledger is kept, if nothing else is said. */
const DEFAULT_LEDGER = '~/.peerline/ledger'

/** Where the node of a DHT listens, if nothing else is said: beside the server, at a port that is the same at each start. */
const DEFAULT_DHT = ':4402'

/** Seconds to drain: several times what peers need to open another path. */
const DRAIN_SECONDS = 10

interface ServeOptions extends IdentityOption, JsonOption {
  readonly listen?: readonly string[]
  readonly tlsCert?: string
  readonly tlsKey?: string
  readonly publicUrl?: string
  readonly reflector?: readonly string[]
  readonly alternatePort?: number | false
  readonly alternateHost?: string
  readonly relay: boolean
  readonly relayRate?: number
  readonly relayBytes?: number
  readonly relayTime?: number
  readonly relayReservations?: number
  readonly ledger?: string | true
  readonly dht?: string | true
  readonly drain: number
}

export function addServeCommand(program: Command): void {
  const command = program.command('serve').description('run a server: rendezvous, relay and reflectors on one port')
  addListen(command, 'where to listen; port 0 is any free one (default: ":4400", every interface)')
  addJson(addIdentity(command, DEFAULT_SERVER_IDENTITY))
  command
    .option('--tls-cert <file>', 'PEM certificate chain: the port speaks TLS too (wss:)')
    .option('--tls-key <file>', 'the PEM key of the certificate')
    .option('--public-url <url>', 'how others reach it, if not where it listens: wss://peer.example.org')
    .option(
      '--alternate-port <port>',
      'second port, which only reflects; name it to open it in a firewall (default: any free one)',
      wholeNumber(1, 65_535),
    )
    .option('--no-alternate-port', 'reflect at the main port alone: peers cannot tell how their NAT maps ports')
    .option('--alternate-host <ip>', 'second address of this machine to reflect at; --listen must name the first')
    .option('--reflector <host:port>', 'another STUN server that peers may ask too; may be repeated, up to 4', collect)
    .option('--no-relay', 'only introduce peers, carry nothing')
    .option('--relay-rate <bytes>', 'bytes a second that a circuit may carry, each way (default: 128MiB)', byteCount)
    .option('--relay-bytes <bytes>', 'bytes that a circuit may carry in all (default: 64GiB)', byteCount)
    .option('--relay-time <seconds>', 'how long a circuit may last (default: 14400)', wholeNumber(1, 2_000_000))
    .option('--relay-reservations <n>', 'peers that may be relayed at once (default: 10000)', wholeNumber(1, 1_000_000))
    .option(
      '--ledger [file]',
      `keep a ledger that peers may read and write: they find each other by it (default file: ${DEFAULT_LEDGER})`,
    )
    .option(
      '--dht [host:port]',
      `be the node of a DHT of your own that peers begin with: UDP, IPv4 (default: ${DEFAULT_DHT}, where the server listens)`,
    )
    .option(
      '--drain <seconds>',
      'when stopped, how long peers have to move before they are cut off; 0: at once',
      wholeNumber(0, 3_600),
      DRAIN_SECONDS,
    )
  command.addHelpText(
    'after',
    `
Examples:
  peerline serve                                     port 4400 of every interface; prints the URL that peers need
  peerline serve --listen 127.0.0.1:0 --json         any free port of this machine, for scripts
  peerline serve --listen :443 --tls-cert chain.pem --tls-key key.pem --public-url wss://peer.example.org
  peerline serve --ledger                            also a ledger, in ~/.peerline/ledger
  peerline serve --dht                               also a node of a DHT, on UDP port 4402; peers name it with --dht
  peerline serve --drain 60                          a minute for relayed transfers to end or to find another way
  peerline serve --listen 192.0.2.1:4400 --alternate-host 192.0.2.2 --alternate-port 4401    tells peers all about their NAT

The URL ends in #<peer id>, which is how peers know that it is the right server: keep the identity file.
Stopped by SIGTERM or Ctrl-C it drains: peers are told to move, nobody new is let in, and circuits go on until all have
left or the time of --drain is over. A second signal ends it at once.
`,
  )
  command.action((options: ServeOptions) => {
    const running = { ...options, endless: true, stopMs: options.drain * 1_000 + STOP_MS }
    return run(running, async ({ out, signal }) => {
      const { listen = [], publicUrl, tlsCert, tlsKey, relay, alternatePort, alternateHost, ledger, dht } = options
      const { PeerlineError } = await import('../errors.ts')
      if (listen.length > 1) throw new PeerlineError('ERR_PEERLINE_INVALID', 'a server listens on one address')
      if ((tlsCert === undefined) !== (tlsKey === undefined)) {
        throw new PeerlineError('ERR_PEERLINE_INVALID', '--tls-cert and --tls-key belong together')
      }
      const { Server } = await import('../server/index.ts')
      const server = await Server.create({
        identityFile: options.identity,
        relay: relay ? relayLimits(options) : false,
        ...(options.reflector === undefined ? {} : { reflectors: options.reflector }),
        ...(ledger === undefined ? {} : { ledger: ledger === true ? DEFAULT_LEDGER : ledger }),
        ...(dht === undefined ? {} : { dht: dht === true ? DEFAULT_DHT : dht }),
        ...(alternatePort === undefined ? {} : { alternatePort }),
        ...(alternateHost === undefined ? {} : { alternateHost }),
        ...(listen[0] === undefined ? {} : { listen: listen[0] }),
        ...(publicUrl === undefined ? {} : { publicUrl }),
        ...(tlsCert === undefined || tlsKey === undefined
          ? {}
          : { tls: { cert: await readPem(tlsCert), key: await readPem(tlsKey) } }),
      })
      const ledgerId = server.ledger?.id
      out.event({
        event: 'listening',
        url: server.url,
        reflectors: server.reflectors,
        ...(ledgerId === undefined ? {} : { ledger: ledgerId }),
        ...(server.dht === undefined ? {} : { dht: server.dht }),
      })
      out.say(`listening: ${server.url}`)
      if (server.ledger !== undefined) out.say(`${server.ledger.name}: ${ledgerId}, ${server.ledger.size} entries`)
      if (server.dht !== undefined)
        out.say(`node of a DHT: peerline up --dht ${server.dht}, and the same to ping and send`)
      if (server.reflectors.length > 0) out.say(`reflecting also at: ${server.reflectors.join(', ')}`)
      out.say(`peers come in with: peerline up --rendezvous '${server.url}'`)
      await stopping(signal)
      await drain(server, options.drain, out)
      return undefined
    })
  })
}

async function drain(server: Server, seconds: number, out: Output): Promise<void> {
  const { peers, circuits } = server
  if (seconds > 0 && peers + circuits > 0) {
    out.event({ event: 'draining', peers, circuits, seconds })
    const who = `${peers} ${peers === 1 ? 'peer' : 'peers'} and ${circuits} ${circuits === 1 ? 'circuit' : 'circuits'}`
    out.say(`draining: ${who} have ${seconds} s to move; stop it again to end at once`)
  }
  await server.drain({ ms: seconds * 1_000, signal: AbortSignal.timeout(seconds * 1_000 + CLOSE_MS) })
}

function relayLimits(options: ServeOptions): RelayLimits {
  const { relayRate, relayBytes, relayTime, relayReservations } = options
  return {
    ...(relayRate === undefined ? {} : { bytesPerSecond: relayRate }),
    ...(relayBytes === undefined ? {} : { circuitBytes: relayBytes }),
    ...(relayTime === undefined ? {} : { circuitMs: relayTime * 1000 }),
    ...(relayReservations === undefined ? {} : { maxReservations: relayReservations }),
  }
}

async function readPem(file: string): Promise<Buffer> {
  const { readFile } = await import('node:fs/promises')
  try {
    return await readFile(file)
  } catch (cause) {
    const { PeerlineError } = await import('../errors.ts')
    const { code } = cause as NodeJS.ErrnoException
    throw new PeerlineError('ERR_PEERLINE_FILE', `cannot read ${file}: ${code}`, { cause })
  }
}
