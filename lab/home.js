/** Hosts, and the homes they are in: what they are told to do while the lab runs. */

import { spawn } from 'node:child_process'
import { Agent } from './agent.js'
import { environment, inNamespace, run } from './command.js'
import { LabError } from './errors.js'
import { ipIn, loadRules } from './namespaces.js'
import { ruleset, UDP_BLOCK } from './nat.js'
import { insideV6, mac, streetV4, streetV6 } from './plan.js'

/**
 * A machine: a namespace whose only way out is `eth0`.
 *
 * @typedef {{ v4: string[], v6: string[] }} Addresses
 */
export class Host {
  /** @type {Set<import('node:child_process').ChildProcess>} */
  #children = new Set()

  /** @param {{ name: string, kind: string, namespace: string, addresses: Addresses, home: Home | null }} what */
  constructor({ name, kind, namespace, addresses, home }) {
    this.name = name
    /** The home's kind, or 'public'. */
    this.kind = kind
    this.namespace = namespace
    /** On its own `eth0`: behind a NAT these are the private ones. */
    this.addresses = addresses
    /** null for a public host. */
    this.home = home
  }

  /** The home's routers, from the host outward: `{ name, namespace }`. */
  get routers() {
    return this.home?.routers ?? []
  }

  /**
   * Starts a program in the host; the child is the program itself, not a wrapper. The lab's end ends it.
   *
   * @param {string} command
   * @param {string[]} [args]
   * @param {import('node:child_process').SpawnOptions} [options]
   */
  spawn(command, args = [], options = {}) {
    const [ip, all] = inNamespace(this.namespace, command, args)
    const env = options.env === undefined ? environment() : { PATH: environment().PATH, ...options.env }
    const child = spawn(ip, all, { ...options, env })
    this.#children.add(child)
    child.once('close', () => this.#children.delete(child))
    return child
  }

  /**
   * Runs a program in the host to its end and gives its stdout; any exit code but 0 is an error.
   *
   * @param {string} command
   * @param {string[]} [args]
   * @param {{ input?: string, timeoutMs?: number }} [options]
   */
  exec(command, args = [], options = {}) {
    return run(...inNamespace(this.namespace, command, args), options)
  }

  /**
   * Starts a Node script that calls `serve` of agent.js.
   *
   * @param {string | URL} script
   * @param {{ args?: string[], nodeArgs?: string[], env?: Record<string, string> }} [options]
   */
  agent(script, { args = [], nodeArgs = [], env } = {}) {
    const path = script instanceof URL ? script.pathname : script
    const child = this.spawn(process.execPath, [...nodeArgs, path, ...args], {
      stdio: ['pipe', 'pipe', 'pipe'],
      ...(env === undefined ? {} : { env: { ...process.env, ...env } }),
    })
    return new Agent(this.name, child)
  }

  /** Ends what `spawn` and `agent` started here. */
  endAll() {
    for (const child of this.#children) child.kill('SIGKILL')
  }
}

/** One home: its hosts, its routers and its cable to the core. */
export class Home {
  #index
  #linkNumber
  #core
  #change = 0
  #definition

  /**
   * @param {object} what
   * @param {string} what.name
   * @param {string} what.kind
   * @param {import('./kinds.js').Kind} what.definition
   * @param {number} what.index
   * @param {number} what.linkNumber
   * @param {string} what.core the core's namespace
   * @param {{ name: string, namespace: string, lan: string | undefined, wan: string | undefined, rules: import('./nat.js').RouterRules }[]} what.routers
   */
  constructor({ name, kind, definition, index, linkNumber, core, routers }) {
    this.name = name
    this.kind = kind
    this.routers = routers
    /** @type {Host[]} */
    this.hosts = []
    /** @type {import('./wire.js').Link} */
    this.link = undefined
    this.#definition = definition
    this.#index = index
    this.#linkNumber = linkNumber
    this.#core = core
  }

  /** As the others see it; null for a family it does not have. */
  get publicAddress() {
    const { v4, v6, routers } = this.#definition
    const change = this.#change
    const street = routers.length === 0 ? streetV6(this.#index, change) : null
    return { v4: v4 ? streetV4(this.#index, change) : null, v6: v6 ? (street ?? this.hosts[0].addresses.v6[0]) : null }
  }

  /** Where the public address is: the outermost router, or the host itself. */
  get #edge() {
    return this.routers.at(-1) ?? this.hosts[0]
  }

  async #forgetMappings() {
    for (const { namespace, rules, lan, wan } of this.routers) {
      await loadRules(namespace, ruleset(rules, { lan, wan }))
      await run(...inNamespace(namespace, 'conntrack', ['-F']))
    }
  }

  /**
   * The routers start again and know no connection any more.
   *
   * @param {{ downMs?: number }} [options] how long the home is without network meanwhile; @default 0
   */
  async reboot({ downMs = 0 } = {}) {
    if (downMs > 0) await this.link.set({ up: false })
    await this.#forgetMappings()
    if (downMs === 0) return
    await new Promise((resolve) => setTimeout(resolve, downMs))
    await this.link.set({ up: true })
  }

  /** The provider gives another public address, of each family; the old one leads nowhere. Gives the new ones. */
  async changeAddress() {
    const before = this.publicAddress
    const home = this.#index
    this.#change += 1
    const { v4, v6 } = this.#definition
    const device = this.routers.length === 0 ? 'eth0' : 'wan0'
    const lines = { core: [], edge: [] }
    if (v4) {
      const now = streetV4(home, this.#change)
      const neighbour = `lladdr ${mac(this.#linkNumber, 0)} dev l${this.#linkNumber} nud permanent`
      lines.core.push(
        `route del ${before.v4}/32 dev l${this.#linkNumber}`,
        `route add ${now}/32 dev l${this.#linkNumber}`,
        `neigh add ${now} ${neighbour}`,
      )
      lines.edge.push(`addr add ${now}/24 dev ${device} noprefixroute`, `addr del ${before.v4}/24 dev ${device}`)
    }
    if (v6 && this.routers.length === 0) {
      const now = streetV6(home, this.#change)
      lines.edge.push(`addr add ${now}/64 dev ${device} nodad noprefixroute`, `addr del ${before.v6}/64 dev ${device}`)
      this.hosts[0].addresses.v6 = [now]
    }
    await ipIn(this.#core, lines.core)
    await ipIn(this.#edge.namespace, lines.edge)
    if (v4 && this.routers.length === 0) this.hosts[0].addresses.v4 = [streetV4(home, this.#change)]
    if (v6 && this.routers.length > 0) await this.#renumberInside()
    if (this.routers.length > 0) this.routers.at(-1).wan = this.publicAddress.v4 ?? undefined
    await this.#forgetMappings()
    return this.publicAddress
  }

  /** A new prefix from the provider: the router and every host move to it. */
  async #renumberInside() {
    const [change, home] = [this.#change, this.#index]
    const move = (last) => [
      `addr add ${insideV6(home, change, last)}/64 dev DEVICE nodad`,
      `addr del ${insideV6(home, change - 1, last)}/64 dev DEVICE`,
    ]
    const on = (device, lines) => lines.map((line) => line.replace('DEVICE', device))
    await ipIn(this.routers[0].namespace, on('lan0', move(1)))
    for (const [at, host] of this.hosts.entries()) {
      await ipIn(host.namespace, on('eth0', move(0x10 + at)))
      host.addresses.v6 = [insideV6(home, change, 0x10 + at)]
    }
  }

  /**
   * The provider or the router drops every UDP packet, until told otherwise.
   *
   * @param {boolean} blocked
   */
  async blockUdp(blocked) {
    // Added before it is deleted, so that deleting never misses it.
    await loadRules(this.#edge.namespace, `add table inet chaos\ndelete table inet chaos\n${blocked ? UDP_BLOCK : ''}`)
  }

  /** A host of it, by its place. */
  host(at = 0) {
    const host = this.hosts[at]
    if (host === undefined) throw new LabError('ERR_LAB_UNKNOWN', `${this.name} has ${this.hosts.length} hosts`)
    return host
  }
}
