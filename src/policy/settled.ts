/**
 * Decisions that rules by themselves have made, and will make again until one of them changes: so that a request costs a look,
 * not a search through the rules.
 *
 * Kept are only those that depend on nothing but the peer, the direction and the object: no time, no number of uses, no rate,
 * no function, no permissions.
 */
import type { PeerId } from '../identity/index.ts'
import type { Decision } from './decision.ts'
import type { Question } from './rule.ts'
import type { Deciding } from './rule-book.ts'

/** Decisions kept; above it all are forgotten, to be made again. At 200 bytes each 2 MB. */
const MAX_SETTLED = 10_000

export class Settled {
  readonly #decisions = {
    in: new Map<PeerId, Map<string, Decision>>(),
    out: new Map<PeerId, Map<string, Decision>>(),
  }
  #size = 0

  get({ peer, direction, object, how, view, needs }: Question): Decision | undefined {
    if (how !== undefined || view !== undefined || needs !== undefined) return undefined
    return this.#decisions[direction].get(peer)?.get(object)
  }

  /** True for what is kept itself, and so holds still. */
  has(decision: Decision): boolean {
    return this.get(decision.question) === decision
  }

  /** Keeps a decision, where it may be kept. */
  add(decision: Decision, deciding: Deciding): void {
    const { question, reason } = decision
    const { peer, direction, object, how, view, needs } = question
    if (reason !== 'rule' || decision.action === 'ask' || !deciding.every(({ rule }) => isPlain(rule))) return
    if (how !== undefined || view !== undefined || needs !== undefined) return
    if (this.#size >= MAX_SETTLED) this.clear()
    const ofPeer = this.#decisions[direction].get(peer)
    if (ofPeer === undefined) this.#decisions[direction].set(peer, new Map([[object, decision]]))
    else ofPeer.set(object, decision)
    this.#size++
  }

  clear(): void {
    if (this.#size === 0) return
    this.#decisions.in.clear()
    this.#decisions.out.clear()
    this.#size = 0
  }
}

function isPlain({ action, expiresAt, uses, rate }: Deciding[number]['rule']): boolean {
  return (
    (action === 'allow' || action === 'deny') && expiresAt === undefined && uses === undefined && rate === undefined
  )
}
