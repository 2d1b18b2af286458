/**
 * A small internet on one machine: homes behind every kind of router, public hosts, and a core between them with the
 * delays of a continent, all in Linux network namespaces.
 *
 *   host --- router(s) ---[ 15 ms ]--- core ---[ 5 ms ]--- server, reflector
 *                                        \---[ preset ]--- pub1, pub2
 *
 * So home to server and back takes 40 ms, home to home 60, home to home by way of the server 80. Addresses look public
 * and lead nowhere outside. Namespaces carry the owner's process id and are removed by `destroy`, at exit, on a signal,
 * and by the next lab when the owner was killed. Needs root, iproute2, nftables, conntrack, a C compiler, /dev/net/tun.
 */

import { access } from 'node:fs/promises'
import { design } from './build.js'
import { environment, inNamespace, run } from './command.js'
import { LabError } from './errors.js'
import { presets } from './kinds.js'
import * as namespaces from './namespaces.js'
import { ruleset } from './nat.js'
import { probe, verify } from './probe.js'
import { compileWire, Wire } from './wire.js'

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP']
const TOOLS = { ip: 'iproute2', nft: 'nftables', conntrack: 'conntrack' }

let labs = 0

/**
 * @typedef {object} LabOptions
 * @property {string[]} [homes] kinds; a kind given twice is made twice, as `lan-1` and `lan-2`
 * @property {keyof typeof presets} [pub] the way between pub1 and pub2; @default 'clean'
 * @property {'cubic' | 'bbr' | 'reno'} [congestion] of TCP on every host; @default 'cubic', as most machines run
 * @property {boolean} [verify] probe every home and refuse one that is not what its name says; @default true
 * @property {boolean} [handleSignals] remove everything on SIGINT, SIGTERM and SIGHUP, then die of it; @default true
 */

export class Lab {
  #prefix
  #wire
  #links = new Map()
  #destroyed
  #onExit = () => namespaces.removeNamespacesNow(this.namespaces)
  #onSignal = (signal) => {
    this.destroy().finally(() => process.kill(process.pid, signal))
  }
  /** What each home was found to do, by name, once verified. @type {Map<string, import('./probe.js').Report>} */
  reports = new Map()

  /** Use `Lab.create`. */
  constructor(prefix) {
    this.#prefix = prefix
    /** @type {Map<string, import('./home.js').Host>} by name: server, reflector, pub1, pub2, open-1, lan-1a, ... */
    this.hosts = new Map()
    /** @type {Map<string, import('./home.js').Home>} by name: open-1, lan-1, ... */
    this.homes = new Map()
  }

  /**
   * Builds it, and gives it when every home was found to be what it is called.
   *
   * @param {LabOptions} [options]
   */
  static async create(options = {}) {
    const { homes = [], pub = 'clean', congestion = 'cubic', verify: verified = true, handleSignals = true } = options
    if (!Object.hasOwn(presets, pub)) {
      throw new LabError('ERR_LAB_UNKNOWN', `no preset "${pub}"; there are ${Object.keys(presets).join(', ')}`)
    }
    const { ok, why } = await Lab.available()
    if (!ok) throw new LabError('ERR_LAB_UNAVAILABLE', `no lab on this machine: ${why}`)
    await Lab.removeStale()
    const prefix = namespaces.prefixOf(++labs)
    const blueprint = design({ prefix, homes, congestion, pub: presets[pub] })
    const lab = new Lab(prefix)
    process.on('exit', lab.#onExit)
    if (handleSignals) for (const signal of SIGNALS) process.once(signal, lab.#onSignal)
    try {
      await lab.#build(blueprint)
      if (verified) await lab.verify()
      return lab
    } catch (error) {
      await lab.destroy()
      throw error
    }
  }

  /** Whether this machine can run one; `why` says what is missing. @returns {Promise<{ ok: boolean, why: string }>} */
  static async available() {
    try {
      await checkMachine()
      return { ok: true, why: '' }
    } catch (error) {
      return { ok: false, why: error.message }
    }
  }

  /** Removes what labs left behind whose process is gone. Gives how many namespaces that were. */
  static async removeStale() {
    const stale = namespaces.staleNamespaces()
    await namespaces.removeNamespaces(stale)
    return stale.length
  }

  async #build({ hosts, homes, namespaces: names, links, pairs, setups }) {
    await namespaces.ipBatch(names.map((name) => `netns add ${name}`))
    this.#wire = await Wire.start()
    const made = await Promise.all(links.map(({ name, a, b, settings }) => this.#wire.add(name, a, b, settings)))
    for (const link of made) this.#links.set(link.name, link)
    if (pairs.length > 0) await namespaces.ipBatch(pairs)
    await namespaces.configure(setups)
    for (const home of homes.values()) home.link = this.#links.get(home.name)
    this.hosts = hosts
    this.homes = homes
  }

  /** All of its namespaces that there are now. */
  get namespaces() {
    return namespaces.namespacesOf(this.#prefix)
  }

  #get(map, name, what) {
    const found = map.get(name)
    if (found !== undefined) return found
    throw new LabError('ERR_LAB_UNKNOWN', `no ${what} "${name}"; there are ${[...map.keys()].join(', ')}`)
  }

  /** @param {string} name */
  host(name) {
    return this.#get(this.hosts, name, 'host')
  }

  /** @param {string} name */
  home(name) {
    return this.#get(this.homes, name, 'home')
  }

  /**
   * The cable to the core of a home, of the home of a host, or of a public host.
   *
   * @param {import('./home.js').Host | import('./home.js').Home | string} of
   * @returns {import('./wire.js').Link}
   */
  link(of) {
    const name = typeof of === 'string' ? of : of.name
    const home = (typeof of === 'string' ? this.hosts.get(of) : of)?.home
    return this.#get(this.#links, home?.name ?? name, 'link')
  }

  /** Changes the way between pub1 and pub2. @param {keyof typeof presets} preset */
  async setPub(preset) {
    const [one, two] = presets[preset] ?? []
    if (one === undefined) throw new LabError('ERR_LAB_UNKNOWN', `no preset "${preset}"`)
    const fresh = { lossPercent: 0, rateMbit: 0, jitterMs: 0, up: true }
    await Promise.all([this.link('pub1').set({ ...fresh, ...one }), this.link('pub2').set({ ...fresh, ...two })])
  }

  /**
   * Probes every home and refuses with `ERR_LAB_NAT_MISMATCH` if one is not what its name says.
   *
   * @param {{ long?: boolean }} [options] long: also waits for mappings to die
   */
  async verify(options = {}) {
    this.reports = await probe(this, options)
    verify(this.reports)
    return this.reports
  }

  /** Ends every process in it and removes it. May be called again. */
  destroy() {
    this.#destroyed ??= this.#remove()
    return this.#destroyed
  }

  async #remove() {
    try {
      for (const host of this.hosts.values()) host.endAll()
      await this.#wire?.close()
      await namespaces.removeNamespaces(this.namespaces)
    } finally {
      process.off('exit', this.#onExit)
      for (const signal of SIGNALS) process.off(signal, this.#onSignal)
    }
  }

  [Symbol.asyncDispose]() {
    return this.destroy()
  }
}

async function checkMachine() {
  const missing = (why) => new LabError('ERR_LAB_UNAVAILABLE', why)
  if (process.platform !== 'linux') throw missing(`needs Linux namespaces, this is ${process.platform}`)
  if (process.getuid() !== 0) throw missing('needs root, to make network namespaces')
  const folders = environment().PATH.split(':')
  for (const [tool, debian] of Object.entries(TOOLS)) {
    const found = await Promise.any(folders.map((folder) => access(`${folder}/${tool}`))).then(
      () => true,
      () => false,
    )
    if (!found) throw missing(`the command ${tool} is missing (package ${debian})`)
  }
  await access('/dev/net/tun').catch(() => {
    throw missing('/dev/net/tun is missing')
  })
  await compileWire()
  await tryNamespace()
}

/** Containers have root that may not make namespaces, and kernels without NAT. */
async function tryNamespace() {
  const name = `${namespaces.prefixOf(0)}trial${++labs}`
  await run('ip', ['netns', 'add', name])
  try {
    const [command, args] = inNamespace(name, 'nft', ['-f', '-'])
    await run(command, args, { input: ruleset({ filter: 'address', ports: 'random' }, {}) })
  } finally {
    await run('ip', ['netns', 'del', name])
  }
}
