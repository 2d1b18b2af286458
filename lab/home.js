/** Hosts, and the homes they are in: what they are told to do while the lab runs. */

import { spawn } from 'node:child_process'
import { Agent } from './agent.js'
import { environment, inNamespace, run } from './command.js'
import { LabError } from './errors.js'
import { ipIn, loadRules } from './namespaces.js'
import { ruleset, UDP_BLOCK } from './nat.js'
import { INSIDE_ROUTER_V4, insideV4, insideV6, mac, ROAMED_ROUTER_V4, roamedV4, streetV4, streetV6 } from './plan.js'

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

const inShell = (namespace, line) => run(...inNamespace(namespace, 'sh', ['-c', line]))

/** A router that has lost its memory: with this, TCP that it has not seen begin is nothing to it. */
const takeUpNothing = (namespace) => inShell(namespace, 'echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose')

/** One home: its hosts, its routers and its cable to the core. */
export class Home {
  #index
  #linkNumber
  #core
  #change = 0
  #roamed = false
  #definition
  #congestion

  /**
   * @param {object} what
   * @param {string} what.name
   * @param {string} what.kind
   * @param {import('./kinds.js').Kind} what.definition
   * @param {number} what.index
   * @param {number} what.linkNumber
   * @param {string} what.core the core's namespace
   * @param {string} what.congestion of TCP on its hosts
   * @param {{ name: string, namespace: string, lan: string | undefined, wan: string | undefined, rules: import('./nat.js').RouterRules }[]} what.routers
   */
  constructor({ name, kind, definition, index, linkNumber, core, congestion, routers }) {
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
    this.#congestion = congestion
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
   * @param {object} [options]
   * @param {number} [options.downMs] how long the home is without network meanwhile; @default 0
   * @param {boolean} [options.strict] they refuse TCP whose beginning they have not seen, from now on, as many do. Linux takes
   *   it up in the middle, and gives it the port that it had; @default false
   */
  async reboot({ downMs = 0, strict = false } = {}) {
    if (downMs > 0) await this.link.set({ up: false })
    if (strict) await Promise.all(this.routers.map(({ namespace }) => takeUpNothing(namespace)))
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

  /**
   * The hosts come into another network, as from Wi-Fi to mobile: another router, another private address, another public
   * one, and no connection is known there. Gives the new public addresses.
   */
  async roam() {
    if (this.routers.length > 0 && this.#definition.v4) await this.#moveInside()
    return this.changeAddress()
  }

  async #moveInside() {
    const [router] = this.routers
    const before = { router: router.lan, hosts: this.hosts.map(({ addresses }) => addresses.v4[0]) }
    this.#roamed = !this.#roamed
    router.lan = this.#roamed ? ROAMED_ROUTER_V4 : INSIDE_ROUTER_V4
    const subnet = (address) => address.replace(/\d+$/, '0/24')
    await ipIn(router.namespace, [`addr add ${router.lan}/24 dev lan0`, `addr del ${before.router}/24 dev lan0`])
    for (const [at, host] of this.hosts.entries()) {
      const now = (this.#roamed ? roamedV4 : insideV4)(this.#index, at)
      const way = `dev eth0 congctl ${this.#congestion}`
      await ipIn(host.namespace, [
        `route del ${subnet(before.router)} dev eth0`,
        `addr del ${before.hosts[at]}/24 dev eth0`,
        `addr add ${now}/24 dev eth0 noprefixroute`,
        `route add ${subnet(router.lan)} scope link ${way}`,
        `route replace default via ${router.lan} ${way}`,
      ])
      host.addresses.v4 = [now]
    }
  }

  /**
   * Pulls the plug of a host, or puts it back: its `eth0` has no carrier meanwhile, which its system knows at once. What the
   * home's own cable does (`link.set({ up })`) it cannot know.
   *
   * @param {boolean} pulled
   * @param {number} [at] which host
   */
  async unplug(pulled, at = 0) {
    const [router] = this.routers
    if (router === undefined) throw new LabError('ERR_LAB_UNKNOWN', `the cable of ${this.name} has no other end here`)
    const device = this.hosts.length === 1 ? 'lan0' : `port${at}`
    const { v4, v6 } = this.#definition
    if (pulled && v4) await this.#knowRouter(at)
    // A router does not forget its own address because nobody is there.
    if (pulled && v6) await inShell(router.namespace, `echo 1 > /proc/sys/net/ipv6/conf/${device}/keep_addr_on_down`)
    await ipIn(router.namespace, [`link set ${device} ${pulled ? 'down' : 'up'}`])
  }

  /** Enters the router for good at a host: the kernel asks again only after a second, however short the cable was out. */
  async #knowRouter(at) {
    const [router] = this.routers
    const link = await run('ip', ['-n', router.namespace, '-json', 'link', 'show', 'lan0'])
    const [{ address }] = JSON.parse(link)
    await ipIn(this.hosts[at].namespace, [`neigh replace ${router.lan} lladdr ${address} dev eth0 nud permanent`])
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
