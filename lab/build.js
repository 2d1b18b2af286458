/** Turns a list of kinds into hosts, homes, links and what every namespace is to be told. Builds nothing itself. */

import { LabError } from './errors.js'
import { Home, Host } from './home.js'
import { kinds, UDP_SECONDS, UDP_STREAM_SECONDS } from './kinds.js'
import { ruleset } from './nat.js'
import * as plan from './plan.js'

/**
 * @typedef {object} Blueprint
 * @property {Map<string, Host>} hosts
 * @property {Map<string, Home>} homes
 * @property {string[]} namespaces
 * @property {{ name: string, a: object, b: object, settings: Partial<import('./wire.js').LinkSettings> }[]} links
 * @property {string[]} pairs lines of ip(8) that make the cables inside homes
 * @property {import('./namespaces.js').Setup[]} setups
 */

const ROUTER = { 'ipv4/ip_forward': 1, 'ipv6/conf/all/forwarding': 1 }

class Builder {
  /** @type {Blueprint} */
  blueprint = { hosts: new Map(), homes: new Map(), namespaces: [], links: [], pairs: [], setups: [] }
  #prefix
  #control
  #congestion
  #core

  constructor(prefix, congestion) {
    this.#prefix = prefix
    this.#control = congestion
    this.#congestion = `congctl ${congestion}`
    this.#core = { namespace: this.namespace('core'), settings: ROUTER, ip: [] }
    this.#core.ip.push(`addr add ${plan.GATEWAY_V4}/32 dev lo`, `addr add ${plan.CORE_V6}/128 dev lo nodad`)
    this.blueprint.setups.push(this.#core)
  }

  namespace(name) {
    const full = `${this.#prefix}${name}`
    this.blueprint.namespaces.push(full)
    return full
  }

  /** A cable to the core. Gives its number, and the lines the other end needs. */
  street(name, namespace, device, { v4, v6, routedV6 }, settings) {
    const number = this.blueprint.links.length + 1
    const inCore = `l${number}`
    const ends = [plan.mac(number, 0), plan.mac(number, 1)]
    this.blueprint.links.push({
      name,
      a: { namespace, device, mac: ends[0] },
      b: { namespace: this.#core.namespace, device: inCore, mac: ends[1] },
      settings,
    })
    this.#core.ip.push(`link set ${inCore} up`, `addr add ${plan.GATEWAY_V6}/64 dev ${inCore} nodad`)
    for (const address of v4) {
      this.#core.ip.push(
        `route add ${address}/32 dev ${inCore}`,
        `neigh add ${address} lladdr ${ends[0]} dev ${inCore} nud permanent`,
      )
    }
    this.#core.ip.push(`neigh add ${plan.STREET_V6} lladdr ${ends[0]} dev ${inCore} nud permanent`)
    for (const route of routedV6) this.#core.ip.push(`route add ${route} via ${plan.STREET_V6} dev ${inCore}`)

    const lines = [`link set ${device} up`, `addr add ${plan.STREET_V6}/64 dev ${device} nodad`]
    for (const address of v4) lines.push(`addr add ${address}/24 dev ${device} noprefixroute`)
    for (const address of v6) lines.push(`addr add ${address}/64 dev ${device} nodad noprefixroute`)
    if (v4.length > 0) {
      lines.push(
        `route add ${plan.GATEWAY_V4}/32 dev ${device} scope link ${this.#congestion}`,
        `neigh add ${plan.GATEWAY_V4} lladdr ${ends[1]} dev ${device} nud permanent`,
        `route add default via ${plan.GATEWAY_V4} dev ${device} ${this.#congestion}`,
      )
    }
    if (routedV6.length > 0) {
      lines.push(
        `neigh add ${plan.GATEWAY_V6} lladdr ${ends[1]} dev ${device} nud permanent`,
        `route add ::/0 via ${plan.GATEWAY_V6} dev ${device} ${this.#congestion}`,
      )
    }
    return { number, lines }
  }

  publicHost(name, { v4, v6, delayMs }, settings) {
    const namespace = this.namespace(name)
    const host = new Host({ name, kind: 'public', namespace, addresses: { v4: [...v4], v6: [...v6] }, home: null })
    const routedV6 = v6.map((address) => `${address}/128`)
    const { lines } = this.street(name, namespace, 'eth0', { v4, v6, routedV6 }, { delayMs, ...settings })
    this.blueprint.setups.push({ namespace, ip: lines })
    this.blueprint.hosts.set(name, host)
  }

  home(name, kind, index) {
    const definition = kinds[kind]
    const { v4, v6 } = definition
    const hostNames = definition.hosts === 1 ? [name] : ['a', 'b'].map((letter) => `${name}${letter}`)
    const hostSpaces = hostNames.map((each) => this.namespace(each))
    const layers = definition.routers.length
    const routers = definition.routers.map((rules, at) => {
      const outermost = at === layers - 1
      const label = at === 0 ? 'router' : 'provider'
      const lan = at === 0 ? plan.INSIDE_ROUTER_V4 : plan.providerRouterV4(index, at)
      const wan = outermost ? plan.streetV4(index, 0) : plan.providerV4(index, at + 1)
      const namespace = this.namespace(`${name}-${label}`)
      return { name: label, namespace, lan: v4 ? lan : undefined, wan: v4 ? wan : undefined, rules }
    })
    const street = this.street(
      name,
      layers === 0 ? hostSpaces[0] : routers.at(-1).namespace,
      layers === 0 ? 'eth0' : 'wan0',
      {
        v4: v4 ? [plan.streetV4(index, 0)] : [],
        v6: v6 && layers === 0 ? [plan.streetV6(index, 0)] : [],
        routedV6: v6 ? [plan.routedV6(index)] : [],
      },
      { delayMs: plan.HOME_DELAY_MS },
    )
    const core = this.#core.namespace
    const home = new Home({
      name,
      kind,
      definition,
      index,
      linkNumber: street.number,
      core,
      congestion: this.#control,
      routers,
    })
    if (layers === 0) {
      this.blueprint.setups.push({ namespace: hostSpaces[0], ip: street.lines })
    } else {
      this.#inside(index, definition, hostSpaces)
      this.#routers(index, definition, routers, hostSpaces, street.lines)
    }
    home.hosts = hostNames.map((each, at) => {
      const inside = {
        v4: v4 ? [layers === 0 ? plan.streetV4(index, 0) : plan.insideV4(index, at)] : [],
        v6: v6 ? [layers === 0 ? plan.streetV6(index, 0) : plan.insideV6(index, 0, 0x10 + at)] : [],
      }
      return new Host({ name: each, kind, namespace: hostSpaces[at], addresses: inside, home })
    })
    for (const host of home.hosts) this.blueprint.hosts.set(host.name, host)
    this.blueprint.homes.set(name, home)
  }

  /** Hosts behind a router. */
  #inside(index, { v4, v6 }, hostSpaces) {
    for (const [at, namespace] of hostSpaces.entries()) {
      const lines = ['link set eth0 up']
      if (v4) {
        lines.push(
          `addr add ${plan.insideV4(index, at)}/24 dev eth0 noprefixroute`,
          `route add 192.168.1.0/24 dev eth0 scope link ${this.#congestion}`,
          `route add default via ${plan.INSIDE_ROUTER_V4} dev eth0 ${this.#congestion}`,
        )
      }
      if (v6) {
        lines.push(
          `addr add ${plan.insideV6(index, 0, 0x10 + at)}/64 dev eth0 nodad`,
          `route add ::/0 via ${plan.GATEWAY_V6} dev eth0 ${this.#congestion}`,
        )
      }
      this.blueprint.setups.push({ namespace, ip: lines })
    }
  }

  /** The routers of one home, and the cables between them and the hosts. */
  #routers(index, { v4, v6, isolated = false, udpSeconds }, routers, hostSpaces, streetLines) {
    const { pairs, setups } = this.blueprint
    for (const [at, { namespace, lan, wan, rules }] of routers.entries()) {
      const outermost = at === routers.length - 1
      const ip = []
      if (at > 0)
        pairs.push(`link add wan0 netns ${routers[at - 1].namespace} type veth peer name lan0 netns ${namespace}`)
      else if (hostSpaces.length === 1)
        pairs.push(`link add eth0 netns ${hostSpaces[0]} type veth peer name lan0 netns ${namespace}`)
      else {
        ip.push('link add lan0 type bridge')
        for (const [port, host] of hostSpaces.entries()) {
          pairs.push(`link add eth0 netns ${host} type veth peer name port${port} netns ${namespace}`)
          ip.push(`link set port${port} master lan0`, `link set port${port} up`)
          if (isolated) ip.push(`link set port${port} type bridge_slave isolated on`)
        }
      }
      ip.push('link set lan0 up')
      if (v4) ip.push(`addr add ${lan}/24 dev lan0`)
      if (v6)
        ip.push(
          `addr add ${plan.GATEWAY_V6}/64 dev lan0 nodad`,
          `addr add ${plan.insideV6(index, 0, 1)}/64 dev lan0 nodad`,
        )
      if (outermost) ip.push(...streetLines)
      else {
        const provider = plan.providerRouterV4(index, at + 1)
        ip.push('link set wan0 up', `addr add ${wan}/24 dev wan0`, `route add default via ${provider} dev wan0`)
      }
      const settings = {
        ...ROUTER,
        'netfilter/nf_conntrack_udp_timeout': udpSeconds ?? UDP_SECONDS,
        'netfilter/nf_conntrack_udp_timeout_stream': udpSeconds ?? UDP_STREAM_SECONDS,
      }
      setups.push({ namespace, settings, ip, rules: ruleset(rules, { lan, wan }) })
    }
  }
}

/**
 * @param {{ prefix: string, homes: string[], congestion: string, pub: Partial<import('./wire.js').LinkSettings>[] }} what
 * @returns {Blueprint}
 */
export function design({ prefix, homes, congestion, pub }) {
  const unknown = homes.find((kind) => !Object.hasOwn(kinds, kind))
  if (unknown !== undefined) {
    throw new LabError('ERR_LAB_UNKNOWN', `no home is called "${unknown}"; there are ${Object.keys(kinds).join(', ')}`)
  }
  if (homes.length > plan.MOST_HOMES) throw new LabError('ERR_LAB_UNKNOWN', `at most ${plan.MOST_HOMES} homes`)
  const builder = new Builder(prefix, congestion)
  for (const [name, host] of Object.entries(plan.publicHosts)) {
    builder.publicHost(name, host, { pub1: pub[0], pub2: pub[1] }[name])
  }
  const made = new Map()
  for (const [at, kind] of homes.entries()) {
    made.set(kind, (made.get(kind) ?? 0) + 1)
    builder.home(`${kind}-${made.get(kind)}`, kind, at + 1)
  }
  return builder.blueprint
}
