/**
 * The stacks that dial between homes: what each needs on the public hosts, and how a peer of it comes online in a home.
 *
 * @typedef {import('../../lab/lab.js').Lab} Lab
 * @typedef {import('../../lab/home.js').Host} Host
 *
 * @typedef {object} NatStack
 * @property {keyof typeof services} service what has to run before
 * @property {(host: Host, service: any, name: string) => Joining} join `name` is of this peer alone
 *
 * @typedef {object} Joining
 * @property {import('../../lab/agent.js').Agent} agent answers `dial { to, deadlineMs, directMs }` and `forget`
 * @property {Promise<string>} online gives the id to dial it by
 */

import { access } from 'node:fs/promises'
import { SERVER_NAME } from '../../lab/matrix.js'

const HTTPS_PORT = 443 // what every network lets out
const TURN_PORT = 3478
const TURN_LOGIN = { username: 'bench', password: 'bench' }
const TURN_START_TRIES = 30
const TURN_ANSWER_MS = 1_000

/** Of the private DHT on each of the four public hosts. A peer passes over five and asks four more what its NAT does. */
const DHT_NODES = 3

const START_MS = 30_000 // to come online, or to have a service ready; where they can, stacks need a tenth of it

const script = (path) => new URL(path, import.meta.url)
const BUILT = script('../../dist/index.js')
const PEERLINE = script('../../lab/peer.js')
const BROKER = script('./datachannel-broker.js')
const DATACHANNEL = script('./datachannel-agent.js')
const HYPERDHT = script('./hyperdht-agent.js')

/** @type {Record<string, (lab: Lab) => Promise<any>>} */
export const services = {
  async peerline(lab) {
    await access(BUILT).catch((error) => {
      throw new Error('dist/ is missing; npm run build makes it', { cause: error })
    })
    const server = lab.host('server').agent(PEERLINE)
    const { url } = await server.ask('serve', { listen: `:${HTTPS_PORT}` })
    return { rendezvous: [`tcp://${SERVER_NAME}:${HTTPS_PORT}#${url.split('#')[1]}`] }
  },

  async datachannel(lab) {
    const turn = lab.host('server')
    const broker = lab.host('reflector') // as near as the server, where Peerline has the port
    const agent = broker.agent(BROKER)
    await Promise.all([startTurn(turn), agent.ask('listen', { port: HTTPS_PORT })])
    return { turn, broker }
  },

  async hyperdht(lab) {
    const [server, ...others] = ['server', 'reflector', 'pub1', 'pub2'].map((name) => {
      const host = lab.host(name)
      return { host: host.addresses.v4[0], agent: host.agent(HYPERDHT) }
    })
    const { bootstrap } = await server.agent.ask(
      'dht',
      { host: server.host, nodes: DHT_NODES },
      { timeoutMs: START_MS },
    )
    await Promise.all(
      others.map(({ host, agent }) => agent.ask('dht', { host, bootstrap, nodes: DHT_NODES }, { timeoutMs: START_MS })),
    )
    const { key } = await server.agent.ask('relay', { bootstrap }, { timeoutMs: START_MS })
    return { bootstrap, relay: { key, host: server.host } }
  },
}

/** coturn; resolves when it answers. */
async function startTurn(host) {
  const ips = [...host.addresses.v4.slice(0, 1), ...host.addresses.v6.slice(0, 1)]
  const args = [
    ...['-n', '--no-cli', '--no-tls', '--no-dtls', '--log-file', 'stdout', '--pidfile', '', '--userdb', ':memory:'],
    ...['--lt-cred-mech', '--realm', 'lab', '--user', `${TURN_LOGIN.username}:${TURN_LOGIN.password}`],
    ...['--listening-port', String(TURN_PORT), ...ips.flatMap((ip) => ['--listening-ip', ip, '--relay-ip', ip])],
  ]
  const child = host.spawn('turnserver', args, { stdio: 'ignore' })
  for (let tries = 1; ; tries += 1) {
    try {
      return await host.exec('turnutils_stunclient', ['-p', String(TURN_PORT), ips[0]], { timeoutMs: TURN_ANSWER_MS })
    } catch (error) {
      if (child.exitCode !== null)
        throw new Error('turnserver does not run; the package coturn has it', { cause: error })
      if (tries === TURN_START_TRIES) throw error
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
}

/** The first address of a public host that a home can send to. */
const addressFor = (home, { addresses: { v4, v6 } }) => (home.addresses.v4.length > 0 ? v4[0] : v6[0])

const ask = async (agent, what, parameters) => (await agent.ask(what, parameters, { timeoutMs: START_MS }))?.id

/** @type {NatStack} */
const peerline = {
  service: 'peerline',
  join(host, service) {
    const agent = host.agent(PEERLINE)
    const online = async () => {
      const id = await ask(agent, 'start', service)
      await ask(agent, 'settled', {})
      return id
    }
    return { agent, online: online() }
  },
}

/** @param {{ relay: boolean }} options @returns {NatStack} */
const datachannel = ({ relay }) => ({
  service: 'datachannel',
  join(host, { turn, broker }, name) {
    const agent = host.agent(DATACHANNEL)
    const stun = { hostname: addressFor(host, turn), port: TURN_PORT }
    // TURN over TCP is offered too; libjuice, the ICE of the library's ready-made binaries, does without.
    const turns = ['TurnUdp', 'TurnTcp'].map((relayType) => ({ ...stun, ...TURN_LOGIN, relayType }))
    const iceServers = relay ? [stun, ...turns] : [stun]
    const at = { host: addressFor(host, broker), port: HTTPS_PORT }
    return { agent, online: ask(agent, 'start', { name, broker: at, iceServers }) }
  },
})

/** @param {{ relay: 'first' | 'last' | 'none' }} options @returns {NatStack} */
const hyperdht = ({ relay }) => ({
  service: 'hyperdht',
  join(host, { bootstrap, relay: through }) {
    const agent = host.agent(HYPERDHT)
    const relaying = relay === 'none' ? {} : { relay: through, relayFirst: relay === 'first' }
    return { agent, online: ask(agent, 'start', { bootstrap, ...relaying }) }
  },
})

/** @type {Record<string, NatStack>} */
export const stacks = {
  peerline,
  'node-datachannel': datachannel({ relay: true }),
  hyperdht: hyperdht({ relay: 'last' }),
  'node-datachannel-no-relay': datachannel({ relay: false }),
  'hyperdht-relay-first': hyperdht({ relay: 'first' }),
  'hyperdht-no-relay': hyperdht({ relay: 'none' }),
}

export const DEFAULT_STACKS = ['peerline', 'node-datachannel', 'hyperdht']
