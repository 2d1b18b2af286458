/**
 * The media by which a peer is found: how long it takes from a dial to an open session, and what that leaves with others.
 *
 *   node lab/media.js [--rounds 15] [--json]
 *
 * Caller and callee are behind a port-restricted NAT each, 60 ms apart, and 40 ms from every server; on the local network, and where
 * they share a file, they are in one home. Each medium is the only one that they have, and is ready when they dial. Where there
 * is neither rendezvous nor relay they have asked two STUN servers before where they are.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { signDhtRecord } from '../dist/discovery/dht-item.js'
import { Identity, LogLedger } from '../dist/index.js'
import { Kind } from '../dist/ledger/envelope.js'
import { Lab } from './lab.js'

const AGENT = new URL('./media-agent.js', import.meta.url)
const DHT_AGENT = new URL('./dht-agent.js', import.meta.url)
const CALLER = 'port-restricted-1'
const CALLEE = 'port-restricted-2'
const MUTUAL = 'pub1'
const STUN_PORT = 3478

/** Homes of nodes of the DHT, beside three public hosts; the last one is the callee's. */
const OPEN = Array.from({ length: 10 }, (_, at) => `open-${at + 1}`)

/** ms that a node of a DHT has to get to know others before it is asked for something. */
const JOIN_MS = 1_500

/** ms for a direct path beside the relay's. */
const DIRECT_MS = 3_000

const sorted = (values) => [...values].sort((a, b) => a - b)
const median = (values) => sorted(values)[Math.floor(values.length / 2)]
const span = (values) =>
  `${median(values).toFixed(0)} (${sorted(values)[0].toFixed(0)} to ${sorted(values).at(-1).toFixed(0)})`

/** Two peers that have one medium. */
class Pair {
  #lab
  #dialling
  caller
  callee
  /** Bytes that the medium has kept, and in how many messages, since it was last asked. */
  kept = async () => ({ messages: 0, bytes: 0 })

  constructor(lab, dialling = {}) {
    this.#lab = lab
    this.#dialling = dialling
  }

  /** Starts both, in their hosts. */
  async start(options, [from, to] = [CALLER, CALLEE]) {
    ;[this.caller, this.callee] = await Promise.all([from, to].map((host) => start(this.#lab, host, options)))
    return this
  }

  dial() {
    const { caller, callee } = this
    return caller.agent.ask('dial', { to: callee.id, directMs: DIRECT_MS, ...this.#dialling }, { timeoutMs: 40_000 })
  }

  /** As if they had not met. */
  async part() {
    const { caller, callee } = this
    await Promise.all([caller.agent.ask('forget', { of: callee.id }), callee.agent.ask('forget', { of: caller.id })])
  }

  async stop() {
    await Promise.all([this.caller, this.callee].map(({ agent }) => agent.stop()))
  }
}

async function start(lab, host, options) {
  const agent = lab.host(host).agent(AGENT)
  const online = (options.rendezvous ?? options.ledgers ?? []).length > 0
  const { id } = await agent.ask('start', { options: { lan: false, ...options }, online }, { timeoutMs: 30_000 })
  await agent.ask('settle')
  return { agent, id }
}

const addressOf = (lab, host) => lab.host(host).addresses.v4[0]

async function serve(lab, host, options) {
  const agent = lab.host(host).agent(AGENT)
  const { url } = await agent.ask('serve', options)
  return { agent, url: `tcp://${addressOf(lab, host)}:${url.split('#')[0].split(':').at(-1)}#${url.split('#')[1]}` }
}

/** What a ledger keeps of one connection: an offer and its answer, in their envelopes; heartbeats are not counted. */
async function countIn(file, { id }) {
  const ledger = await LogLedger.open(file)
  const next = { in: 1, out: 1 }
  const signal = AbortSignal.timeout(600_000)
  return {
    close: () => ledger.close(),
    count: async () => {
      const found = []
      for (const topic of ['in', 'out']) {
        const { entries } = await ledger.read(`${id}/${topic}`, { signal, from: next[topic] })
        next[topic] += entries.length
        found.push(...entries.filter(({ message }) => message[1] === Kind.OFFER || message[1] === Kind.ANSWER))
      }
      return { messages: found.length, bytes: found.reduce((sum, { message }) => sum + message.length, 0) }
    },
  }
}

/** Each sets a pair up; `over` frees what is its own. */
const MEDIA = {
  rendezvous: async ({ lab, over }) => {
    const { agent, url } = await serve(lab, 'server', { listen: ':443' })
    over(() => agent.stop())
    return new Pair(lab).start({ rendezvous: [url] })
  },

  'rendezvous of the other side, visited': async ({ lab, over }) => {
    const { agent, url } = await serve(lab, 'server', { listen: ':443' })
    over(() => agent.stop())
    const pair = new Pair(lab)
    const begin = async () => {
      pair.caller = await start(lab, CALLER, {})
      await pair.caller.agent.ask('note', { of: pair.callee.id, rendezvous: [url] })
    }
    pair.callee = await start(lab, CALLEE, { rendezvous: [url] })
    await begin()
    // Who has been there is there for a while: each visit is another caller's.
    pair.part = async () => {
      await pair.caller.agent.stop()
      await begin()
    }
    return pair
  },

  'mutual peer': async ({ lab, reflectors, over }) => {
    const mutual = await start(lab, MUTUAL, { introduce: true, listen: [':4400'] })
    over(() => mutual.agent.stop())
    const pair = await new Pair(lab).start({ reflectors })
    const meet = { to: mutual.id, addresses: [`${addressOf(lab, MUTUAL)}:4400`] }
    await Promise.all([pair.caller, pair.callee].map(({ agent }) => agent.ask('dial', meet)))
    return pair
  },

  'local network': ({ lab }) => new Pair(lab).start({ lan: true, portMapping: false }, ['lan-1a', 'lan-1b']),

  'ledger of a server': async ({ lab, reflectors, folder, over }) => {
    const file = join(folder, 'served')
    const { agent, url } = await serve(lab, 'server', { listen: ':443', ledger: file })
    over(() => agent.stop())
    const pair = await new Pair(lab).start({ ledgers: [{ ledger: url }], reflectors })
    const counted = await countIn(file, pair.callee)
    over(() => counted.close())
    pair.kept = counted.count
    return pair
  },

  'ledger file, on one machine': async ({ lab, folder, over }) => {
    const file = join(folder, 'shared')
    const pair = await new Pair(lab).start({ ledgers: [{ file }] }, ['lan-1a', 'lan-1a'])
    const counted = await countIn(file, pair.callee)
    over(() => counted.close())
    pair.kept = counted.count
    return pair
  },

  'DHT, record with a public address': async ({ lab, over }) => {
    const hosts = ['reflector', 'pub1', 'pub2', ...OPEN]
    const home = hosts.pop()
    let bootstrap
    for (const name of hosts) {
      const agent = lab.host(name).agent(DHT_AGENT)
      over(() => agent.stop())
      const { at } = await agent.ask('node', { bootstrap: bootstrap ?? [], host: addressOf(lab, name) })
      bootstrap ??= [at]
    }
    const pair = new Pair(lab)
    const begin = async () => {
      pair.caller = await start(lab, CALLER, { dht: { bootstrap } })
      await new Promise((resolve) => setTimeout(resolve, JOIN_MS))
    }
    const agent = lab.host(home).agent(DHT_AGENT)
    pair.callee = { agent, ...(await agent.ask('start')) }
    const addresses = [`${addressOf(lab, home)}:4400`]
    const { nodes } = await agent.ask('tell', { dht: { bootstrap }, addresses })
    const content = { sequence: Date.now(), expiresAt: Date.now() + 3_600_000, addresses }
    const { length } = signDhtRecord(Identity.generate(), content, { addresses: true })
    pair.kept = async () => ({ messages: nodes, bytes: nodes * length })
    await begin()
    // Who has found it remembers where it is: each dial is another caller's.
    pair.part = async () => {
      await pair.caller.agent.stop()
      await begin()
    }
    return pair
  },

  'by hand, pasted at once': async ({ lab, reflectors }) => {
    const pair = await new Pair(lab, { medium: 'by hand' }).start({ reflectors })
    const { caller, callee } = pair
    let carried = []
    caller.agent.onEvent = async (event, { text }) => {
      if (event !== 'offer') return
      const { answer } = await callee.agent.ask('answer', { offer: text })
      carried = [text, answer]
      await caller.agent.ask('take', { answer })
    }
    pair.kept = async () => ({ messages: carried.length, bytes: carried.join('').length })
    return pair
  },
}

async function measure(name, rounds, world) {
  const ends = []
  const pair = await MEDIA[name]({ ...world, over: (end) => ends.unshift(end) })
  try {
    const runs = []
    await pair.kept()
    // The first one is not counted: code is loaded then.
    for (let round = -1; round < rounds; round++) {
      const { failed, ...run } = await pair.dial()
      if (failed !== undefined) throw new Error(`${name}: ${failed.code}: ${failed.message}`)
      const kept = await pair.kept()
      if (round >= 0) runs.push({ ...run, kept })
      await pair.part()
    }
    return { name, ...summary(runs) }
  } finally {
    await pair.stop()
    for (const end of ends) await end()
  }
}

function summary(runs) {
  const answered = runs.map(({ signaling }) => signaling.find(({ outcome }) => outcome === 'answered'))
  return {
    openMs: runs.map(({ ms }) => ms),
    directMs: runs.flatMap(({ direct }) => direct?.ms ?? []),
    paths: [...new Set(runs.flatMap(({ path, direct }) => [path, ...(direct === null ? [] : [direct.path])]))],
    offerBytes: answered[0] === undefined ? null : median(answered.map(({ bytes }) => bytes)),
    keptMessages: median(runs.map(({ kept }) => kept.messages)),
    keptBytes: median(runs.map(({ kept }) => kept.bytes)),
    price: answered[0]?.price ?? null,
  }
}

const HEAD = ['medium', 'session open, ms', 'direct, ms', 'paths', 'offer, bytes', 'kept by others', 'money']

function row({ name, openMs, directMs, paths, offerBytes, keptMessages, keptBytes, price }) {
  const kept = keptMessages === 0 ? 'nothing' : `${keptMessages} messages, ${keptBytes} bytes`
  const money = price === null ? 'none' : `${price.amount} ${price.unit}`
  const direct = directMs.length === 0 ? 'none' : span(directMs)
  return [name, span(openMs), direct, paths.join(', '), offerBytes === null ? 'none' : String(offerBytes), kept, money]
}

const markdown = (rows) => [HEAD, HEAD.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n')

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '15' },
    only: { type: 'string', multiple: true },
    json: { type: 'boolean', default: false },
  },
})
const folder = await mkdtemp(join(tmpdir(), 'peerline-lab-'))
const lab = await Lab.create({ homes: ['port-restricted', 'port-restricted', 'lan', ...OPEN.map(() => 'open')] })
try {
  const stun = ['server', 'reflector']
  await Promise.all(stun.map((host) => serve(lab, host, { listen: `:${STUN_PORT}` })))
  const reflectors = stun.map((host) => `${addressOf(lab, host)}:${STUN_PORT}`)
  const found = []
  for (const name of values.only ?? Object.keys(MEDIA)) {
    process.stderr.write(`${name}\n`)
    found.push(await measure(name, Number(values.rounds), { lab, reflectors, folder }))
  }
  process.stdout.write(values.json ? `${JSON.stringify(found)}\n` : `${markdown(found.map(row))}\n`)
} finally {
  await lab.destroy()
  await rm(folder, { recursive: true, force: true })
}
