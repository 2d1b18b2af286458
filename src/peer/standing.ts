/**
 * How a peer stands to others, as its owner set it up: whom it trusts, which nodes it comes in by, who may give it orders, and
 * what it is called. None of it decides by itself: trust and authority become rules of the one firewall.
 */
import type { Section } from '../discovery/index.ts'
import { PeerlineError } from '../errors.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'
import { Authorities } from '../policy/authorities.ts'
import { type BootstrapOptions, BootstrapPolicy } from '../policy/bootstrap-policy.ts'
import type { FirewallOptions } from '../policy/firewall.ts'
import { Identifier, type IdentifierPolicy } from '../policy/identifier-policy.ts'
import type { RuleInput } from '../policy/rule.ts'
import { Trust, type TrustOptions } from '../policy/trust.ts'
import { ORDER_PROTOCOL } from './orders.ts'

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

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` for what contradicts itself, and for a node that the policy does not admit */
  constructor({ trust, bootstrap = {}, naming, nodes }: StandingOptions) {
    const { authorities = [], ...flags } = bootstrap
    this.trust = trust === undefined ? undefined : new Trust(trust)
    const named = authorities.map(parsePeerId)
    // Whoever names authorities wants them to be some.
    this.bootstrap = new BootstrapPolicy(
      named.length > 0 && flags.authority === undefined ? { ...flags, authority: true } : flags,
    )
    this.authorities = new Authorities({ policy: this.bootstrap })
    this.identifier = new Identifier({
      authorities: this.authorities,
      ...(naming === undefined ? {} : { policy: naming }),
    })
    for (const node of [...nodes, ...named]) {
      const role = named.includes(node) ? 'authority' : 'trustless'
      if (this.bootstrap.admits(node, role)) continue
      throw new PeerlineError('ERR_PEERLINE_INVALID', `the bootstrap policy admits no ${role} node, and ${node} is one`)
    }
    for (const authority of named) this.authorities.add(authority)
  }

  /** The options of the firewall, with what trust and authority make of them. @throws PeerlineError `ERR_PEERLINE_INVALID` */
  firewall(options: FirewallOptions = {}): FirewallOptions {
    const orders = this.authorities.list().flatMap((subject): RuleInput[] => [
      { subject, object: 'connection', direction: 'in', action: 'allow' },
      { subject, object: ORDER_PROTOCOL, direction: 'in', action: 'allow' },
    ])
    const { trust } = this
    if (trust === undefined) {
      if (orders.length === 0) return options
      // Without rules of its own it is as open as it would be without these.
      const open: RuleInput[] =
        options.rules === undefined && options.ask === undefined && options.policy === undefined
          ? [{ subject: 'everyone', object: '*', direction: 'in', action: 'allow' }]
          : []
      return { ...options, rules: [...open, ...orders, ...(options.rules ?? [])] }
    }
    if (options.ask !== undefined || options.approve !== undefined) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', 'with trust its placement asks: give neither ask nor approve')
    }
    const { approveTimeoutMs = 0 } = options
    return {
      ...options,
      rules: [...trust.rules, ...orders, ...(options.rules ?? [])],
      ask: trust.ask,
      approveTimeoutMs: Math.max(approveTimeoutMs, trust.decideMs),
    }
  }

  /** What of it is kept, in the order in which it is loaded. */
  get sections(): Readonly<Record<string, Section>> {
    return {
      bootstrap: { export: () => this.bootstrap.export(), load: (json) => this.bootstrap.load(json) },
      authorities: { export: () => this.authorities.export(), load: (json) => this.authorities.load(json) },
      identifier: { export: () => this.identifier.export(), load: (json) => this.identifier.load(json) },
    }
  }

  /** Calls `changed` when something is to be kept. */
  onChange(changed: () => void): void {
    this.bootstrap.addEventListener('locked', changed)
    this.authorities.addEventListener('change', changed)
    this.identifier.addEventListener('change', changed)
  }
}
