/**
 * One run: two homes, a transfer between them, one fault in the middle of it, and what came of it.
 *
 * The cables of both homes carry 80 Mbit/s each way (a queue of 100 ms before that), so that 200 MB last 20 s at
 * least and every buffer on the way is full when the fault comes. What is to be chosen is chosen by the seed: who sends,
 * who is hit, and where near a third of the bytes.
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { faults } from './chaos-faults.js'
import { digestOf, now } from './chaos-kit.js'
import { judge, measure, pathAt, story } from './chaos-measure.js'
import { Program } from './chaos-program.js'
import { LabError } from './errors.js'
import { Lab } from './lab.js'

const PROBE = new URL('./chaos-probe.js', import.meta.url)
const PROBE_PORT = 7
const SERVER_PORT = 443

/** Where servers run, the first of them alone unless a fault wants two. */
const SERVER_HOSTS = ['server', 'reflector']

/** Streams beside the busy one, which must end as it does. */
const IDLE_STREAMS = 3

/** The default window, ms, as the systems are told. */
const WINDOW_MS = 60_000

/** ms more than the window, and five times what the cables need, until both sides must have said how it ended. */
const END_SLACK_MS = 15_000

/** Kinds of paths, and the way to each. */
export const pathKinds = ['tcp', 'udp', 'webrtc', 'relay', 'auto']

/** Where the two homes are, and which ways may be used, that a run of this kind means what it says. */
function setting(kind, fault) {
  // UDP as it comes about by itself, and other ways left open, or blocking it would be the end.
  if (kind === 'udp' && fault === 'udp-blocked') return { homes: ['symmetric-random', 'port-restricted'], via: 'auto' }
  return { homes: ['port-restricted', 'port-restricted'], via: kind }
}

/** The seed of the bytes. */
const streamSeed = ({ seed, kind, fault }) => `${seed}/${kind}/${fault}`

/** A number below `most` that the seed gives for a purpose. */
function chosen(options, purpose, most) {
  return (
    createHash('sha256')
      .update(`${streamSeed(options)}/${purpose}`)
      .digest()
      .readUInt32BE() % most
  )
}

/** What looks at the network from a host, with a connection that it keeps. */
async function probeOf(host, target) {
  const agent = host.agent(PROBE)
  const at = { host: target.addresses.v4[0], port: PROBE_PORT }
  await agent.ask('keep', at)
  return {
    tcp: (timeoutMs) => agent.ask('tcp', { ...at, timeoutMs }),
    udp: (timeoutMs) => agent.ask('udp', { ...at, timeoutMs }),
    kept: (timeoutMs) => agent.ask('kept', { timeoutMs }),
    reach: (host, port, timeoutMs = 3_000) => agent.ask('tcp', { host, port, timeoutMs }),
    addresses: () => agent.ask('addresses'),
    stop: () => agent.stop(),
  }
}

/** The servers of a run: programs that can be killed and started again as they were. */
class Services {
  #file
  #folders = []
  all = []

  constructor(file) {
    this.#file = file
  }

  async start(host) {
    const folder = mkdtempSync(`${tmpdir()}/chaos-server-`)
    this.#folders.push(folder)
    const service = { host, port: SERVER_PORT, folder, program: undefined, said: undefined }
    this.all.push(service)
    await this.restart(service)
    return service
  }

  /** @param {import('./home.js').Host} host */
  at(host) {
    return this.all.find((service) => service.host === host)
  }

  async restart(service) {
    const { host, port, folder } = service
    const hosts = host.addresses.v4
    service.program = new Program(host, this.#file)
    const { server } = await service.program.do({ do: 'serve', host: hosts[0], hosts, port, folder }, 'serving')
    service.said = server
  }

  async end() {
    await Promise.all(this.all.map(({ program }) => program?.kill()))
    for (const folder of this.#folders) rmSync(folder, { recursive: true, force: true })
  }
}

/** Those that carried most come first. */
async function byTraffic(lab, services) {
  const carried = await Promise.all(
    services.map(async (service) => {
      const { out } = await lab.link(service.host.name).stats()
      return { service, bytes: out.bytes }
    }),
  )
  return carried.sort((a, b) => b.bytes - a.bytes).map(({ service }) => service)
}

/**
 * @param {object} options
 * @param {string} options.kind of path
 * @param {string} options.fault its name
 * @param {string} options.seed
 * @param {number} options.bytes
 * @param {number} options.rateMbit of each home's cable
 * @param {number} [options.windowMs] the default reconnect window, as the systems are told
 * @param {string} options.agent the program of chaos-contract.md
 * @param {string} options.server the other one
 * @param {string} [options.capture] a folder for what tcpdump sees at both hosts and at the servers
 */
export async function runOnce(options) {
  const { kind, fault: name, seed, bytes } = options
  const fault = faults[name]
  if (fault === undefined) throw new LabError('ERR_LAB_UNKNOWN', `no fault "${name}"; there are ${Object.keys(faults)}`)
  const lab = await Lab.create({ homes: setting(kind, name).homes, verify: false })
  const services = new Services(options.server)
  /** What is to be stopped in the end. */
  const open = []
  try {
    const { sender, receiver } = await begin({ options, fault, lab, services, open })
    const idealMs = (bytes * 8) / (options.rateMbit * 1_000)
    await reachThird(sender, receiver, options, idealMs)

    const sides = chosen(options, 'who is hit', 2) === 0 ? [sender, receiver] : [receiver, sender]
    const ordered = await byTraffic(lab, services.all)
    const restart = (service) => services.restart(service)
    const times = await fault.bring({ lab, sides, services: ordered, restart })

    const timeoutMs = END_SLACK_MS + 5 * idealMs + (fault.reconnectMs ?? options.windowMs ?? WINDOW_MS)
    const [sent, received] = await Promise.all([sender, receiver].map((side) => endOf(side, timeoutMs)))
    const marks = receiver.program.events.filter(({ event }) => event === 'progress')
    const measured = measure(marks, times, bytes)
    if (fault.dark && measured.darkBytes > 0) {
      throw new LabError('ERR_LAB_NO_FAULT', `${measured.darkBytes} bytes arrived during ${name}`)
    }
    const row = {
      kind,
      fault: name,
      seed,
      bytes,
      rateMbit: options.rateMbit,
      expects: fault.expects(kind),
      hit: times.hit,
      lastedMs: times.until - times.from,
      sender: sent,
      receiver: received,
      digest: digestOf(streamSeed(options), bytes),
      failedAfterMs: received.event === 'failed' && received.at !== undefined ? received.at - times.from : null,
      before: pathAt(receiver.program, times.from),
      after: pathAt(receiver.program, now()),
      sessions: sessionsOf([sender, receiver]),
      ...measured,
      story: story({ sender: sender.program, receiver: receiver.program }, times),
    }
    return { ...row, faults: judge(row) }
  } finally {
    await Promise.all(open.map((each) => each.stop().catch(() => {})))
    await services.end()
    await lab.destroy()
  }
}

/** The servers, the probes, and both agents ready. Programs start beside each other, for each takes a while. */
async function begin({ options, fault, lab, services, open }) {
  const { agent, rateMbit, windowMs = WINDOW_MS, capture } = options
  const hosts = SERVER_HOSTS.slice(0, fault.servers ?? 1).map((name) => lab.host(name))
  const homes = [...lab.homes.values()]
  if (chosen(options, 'who sends', 2) === 1) homes.reverse()
  if (capture !== undefined) await record(hosts, homes, `${capture}/${options.kind}-${options.fault}`)
  const target = lab.host('pub2')
  const answering = target.agent(PROBE)
  const programs = homes.map((home) => new Program(home.host(), agent))
  open.push(answering, ...programs)
  const answered = answering.ask('answer', { host: target.addresses.v4[0], port: PROBE_PORT })
  await Promise.all([answered, ...hosts.map((host) => services.start(host))])
  const start = {
    do: 'start',
    servers: hosts.map((host) => services.at(host).said),
    via: setting(options.kind, options.fault).via,
    reconnectMs: fault.reconnectMs ?? windowMs,
  }
  const [sender, receiver] = await Promise.all(
    homes.map(async (home, at) => {
      await home.link.set({ rateMbit })
      const program = programs[at]
      const [{ id }, probe] = await Promise.all([program.do(start, 'ready'), probeOf(home.host(), target)])
      open.push(probe)
      return { role: ['sender', 'receiver'][at], home, probe, program, id }
    }),
  )
  return { sender, receiver }
}

/** Starts the transfer, and waits until about a third of it has arrived. */
async function reachThird(sender, receiver, options, idealMs) {
  const { bytes } = options
  const stream = { bytes, seed: streamSeed(options) }
  await receiver.program.do({ do: 'receive', ...stream }, 'receiving')
  const third = bytes * (0.3 + chosen(options, 'where', 1_000) / 15_000)
  const reached = receiver.program.until(
    (event) => (event.event === 'progress' && event.bytes >= third) || event.event === 'failed',
    'third of the bytes',
    { timeoutMs: END_SLACK_MS + 5 * idealMs },
  )
  reached.catch(() => {}) // it is asked again below
  await sender.program.do({ do: 'send', to: receiver.id, idle: IDLE_STREAMS, ...stream }, 'sending')
  const { event, message } = await reached
  if (event === 'failed') throw new LabError('ERR_LAB_COMMAND', `the transfer failed before the fault: ${message}`)
}

/** The bytes that a receiver told of so far. */
const arrivedAt = ({ events }) => events.findLast(({ event }) => event === 'progress')?.bytes ?? 0

/** How the transfer ended at a side; a program that has gone, or says nothing, has failed without a code. */
const endOf = ({ program }, timeoutMs) =>
  program
    .until(({ event }) => event === 'done' || event === 'failed', 'end of the transfer', { timeoutMs, past: true })
    .catch(({ message }) => ({ event: 'failed', code: 'none', message, bytes: arrivedAt(program) }))

/** How many sessions there were. */
function sessionsOf(sides) {
  const states = sides.flatMap(({ program }) => program.events.filter(({ event }) => event === 'state'))
  return new Set(states.map(({ session }) => session)).size
}

/** Lets tcpdump look at the hosts until the lab ends. */
async function record(servers, homes, prefix) {
  const places = [...servers.map((host) => [host.name, host]), ...homes.map((home, at) => [`${at}`, home.host()])]
  await Promise.all(
    places.map(async ([name, host]) => {
      const label = { 0: 'sender', 1: 'receiver' }[name] ?? name
      const child = host.spawn('tcpdump', ['-i', 'eth0', '-n', '-s', '128', '-U', '-w', `${prefix}-${label}.pcap`])
      await once(child.stderr, 'data') // it looks now
    }),
  )
}
