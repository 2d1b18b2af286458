/**
 * How a peer stands to others, as its owner set it up: whom it trusts, which nodes it comes in by, who may give it orders, and
 * what it is called. None of it decides by itself: trust and authority become rules of the one firewall.
 */
import type { Section } from '../discovery/index.ts'
import { PeerlineError } from '../errors.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'
import { Authorities } from '../policy/authorities.ts'
import { type BootstrapOptions, BootstrapPolicy } from '../policy/bootstrap-policy.ts'
import type { Firewall, FirewallOptions } from '../policy/firewall.ts'
import { Identifier, type IdentifierPolicy } from '../policy/identifier-policy.ts'
import type { RuleInput } from '../policy/rule.ts'
import { Trust, type TrustOptions } from '../policy/trust.ts'
import { ORDER_PROTOCOL } from './orders.ts'

/** The group of the firewall whose members may give orders. Its members are ours alone: others are taken out of it. */
const AUTHORITIES = 'authorities'

/** What authorities may do. A rule of the owner's that says otherwise of the group, or of one of them, stands. */
const ORDER_RULES: readonly RuleInput[] = ['connection', ORDER_PROTOCOL].map((object) => {
  return { subject: `group:${AUTHORITIES}`, object, direction: 'in', action: 'allow' }
})

/** ms that the firewall waits longer than a placement, which says itself why it is over. */
const MORE_THAN_DECIDE_MS = 1_000
/** ms: the longest that a firewall waits. */
const MAX_APPROVE_MS = 24 * 3_600_000

/** Which nodes a peer comes in by, and who of them may give it orders. */
export interface BootstrapSettings extends BootstrapOptions {
  /** Peer ids, or did:key, of those that may give orders. @default nobody */
  readonly authorities?: readonly string[]
}

export interface StandingOptions {
  readonly trust?: TrustOptions | undefined
  readonly bootstrap?: BootstrapSettings | undefined
  readonly naming?: IdentifierPolicy | undefined
  /** The peers behind the rendezvous. */
  readonly nodes: readonly PeerId[]
}

export class Standing {
  readonly trust: Trust | undefined
  readonly bootstrap: BootstrapPolicy
  readonly authorities: Authorities
  readonly identifier: Identifier
  /** The authorities that the options name. */
  readonly #named: ReadonlySet<PeerId>
  /** Whom no rule names waits to be let in. */
  readonly #places: boolean

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` for what contradicts itself, and for a node that the policy does not admit */
  constructor({ trust, bootstrap = {}, naming, nodes }: StandingOptions) {
    const { authorities = [], ...flags } = bootstrap
    this.trust = trust === undefined ? undefined : new Trust(trust)
    this.#places = trust?.placement !== undefined
    const named = new Set(authorities.map(parsePeerId))
    this.#named = named
    // Whoever names authorities wants them to be some.
    this.bootstrap = new BootstrapPolicy(
      named.size > 0 && flags.authority === undefined ? { ...flags, authority: true } : flags,
    )
    this.authorities = new Authorities({ policy: this.bootstrap })
    this.identifier = new Identifier({
      authorities: this.authorities,
      ...(naming === undefined ? {} : { policy: naming }),
    })
    for (const node of [...nodes, ...named]) {
      const role = named.has(node) ? 'authority' : 'trustless'
      if (this.bootstrap.admits(node, role)) continue
      throw new PeerlineError('ERR_PEERLINE_INVALID', `the bootstrap policy admits no ${role} node, and ${node} is one`)
    }
    // Not one by one: where the first is to be the only one, that is the first that gives an order.
    this.authorities.load({ version: 1, authorities: [...named].map((id) => ({ id, last: 0 })) })
  }

  /** The options of the firewall, with what trust makes of them. @throws PeerlineError `ERR_PEERLINE_INVALID` */
  firewall(options: FirewallOptions = {}): FirewallOptions {
    const { trust } = this
    if (trust === undefined) return options
    if (options.ask !== undefined || options.approve !== undefined) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', 'with trust its placement asks: give neither ask nor approve')
    }
    const rules = [...trust.rules, ...(options.rules ?? [])]
    // Where nobody is asked, who is not let in any more is put out: an open question would keep it here.
    if (!this.#places) return { ...options, rules }
    const { approveTimeoutMs = 0 } = options
    const longer = Math.min(trust.decideMs + MORE_THAN_DECIDE_MS, MAX_APPROVE_MS)
    return { ...options, rules, ask: trust.ask, approveTimeoutMs: Math.max(approveTimeoutMs, longer) }
  }

  /**
   * Lets authorities in from now on, those that are named later among them, and no longer those that are none any more.
   * @throws PeerlineError `ERR_PEERLINE_LIMIT` when the firewall has no room
   */
  attach(firewall: Firewall): void {
    const { authorities, bootstrap } = this
    const look = (peer: PeerId) => {
      const may = authorities.has(peer)
      if (may === firewall.concerns([`group:${AUTHORITIES}`], peer)) return
      if (!may) return firewall.removeFromGroup(AUTHORITIES, peer)
      const rules = new Set(firewall.list().map(({ id }) => id))
      for (const rule of ORDER_RULES) {
        if (!rules.has(`${rule.subject} ${rule.object} ${rule.direction}`)) firewall.set(rule)
      }
      firewall.addToGroup(AUTHORITIES, peer)
    }
    const all = () => new Set([...(firewall.groups.get(AUTHORITIES) ?? []), ...authorities.list()])
    const lookAt = (peers: Iterable<PeerId>) => {
      try {
        for (const peer of peers) look(peer)
      } catch {} // no room: it is not let in, which the next change may mend
    }
    for (const peer of all()) look(peer)
    authorities.addEventListener('change', ({ detail: { peer } }) => lookAt([peer]))
    bootstrap.addEventListener('locked', () => lookAt(all()))
    firewall.addEventListener('change', ({ detail: { subjects } }) => {
      const peers = subjects.filter((subject) => !subject.startsWith('group:')) as PeerId[]
      // Of everyone: all rules and groups may have been replaced.
      lookAt(subjects.includes('everyone') ? all() : peers)
    })
  }

  /** What of it is kept, in the order in which it is loaded. */
  get sections(): Readonly<Record<string, Section>> {
    return {
      bootstrap: { export: () => this.bootstrap.export(), load: (json) => this.bootstrap.load(json) },
      authorities: {
        export: () => ({ ...this.authorities.export(), named: [...this.#named] }),
        load: (json) => this.#loadAuthorities(json),
      },
      identifier: { export: () => this.identifier.export(), load: (json) => this.identifier.load(json) },
    }
  }

  /** What the options name, they name at each start, or it is an authority no longer; the orders it gave are remembered. */
  #loadAuthorities(json: unknown): void {
    const { authorities } = this
    const { named } = (json ?? {}) as { named?: unknown }
    // Read before anything is changed: either all of it counts, or none.
    const before = Array.isArray(named) ? named.map(parsePeerId) : []
    authorities.load(json)
    for (const peer of before) if (!this.#named.has(peer)) authorities.remove(peer)
    const all = new Map([...this.#named].map((id) => [id as string, { id: id as string, last: 0 }]))
    for (const one of authorities.export().authorities) {
      all.set(one.id, all.has(one.id) ? { id: one.id, last: one.last } : one)
    }
    authorities.load({ version: 1, authorities: [...all.values()] })
  }

  /** Calls `changed` when something is to be kept. */
  onChange(changed: () => void): void {
    this.bootstrap.addEventListener('locked', changed)
    this.authorities.addEventListener('change', changed)
    this.identifier.addEventListener('change', changed)
  }
}
