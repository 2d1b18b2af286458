/**
 * The peer's own name, for people, and who may set it. The peer id is a key: nobody sets that.
 *
 *   policy               set by                      how often
 *   strict-local         its owner                   once, then it is locked
 *   local                its owner                   always
 *   local-and-remote     its owner, an authority     always
 *   remote               an authority                always
 *   strict-remote        an authority                once, then it is locked
 *
 * Locked is the policy with the name, for good: the lock is kept (`export`, `load`), and no option undoes it.
 */
import { fields } from '../bytes/index.ts'
import { checkLabel } from '../discovery/known-peer.ts'
import { asPeerlineError, invalid, isPeerlineError, PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'

const POLICIES = ['strict-local', 'local', 'local-and-remote', 'remote', 'strict-remote'] as const

export type IdentifierPolicy = (typeof POLICIES)[number]

/** Who sets a name: the owner of this peer, or an authority. */
export type SetBy = 'local' | PeerId

export interface IdentifierOptions {
  /** @default 'local-and-remote' */
  readonly policy?: IdentifierPolicy
  /** Who is an authority, such as `Authorities`. @default nobody */
  readonly authorities?: { has(peer: PeerId): boolean }
}

/** What {@link Identifier.export} gives. */
export interface IdentifierJson {
  readonly version: 1
  readonly policy: IdentifierPolicy
  readonly name?: string
  readonly by?: string
  readonly locked: boolean
}

export type IdentifierEvents = {
  /** The name, or the policy, is another one. To be saved. */
  change: { readonly name: string | undefined; readonly policy: IdentifierPolicy; readonly locked: boolean }
}

interface State {
  readonly policy: IdentifierPolicy
  readonly name: string | undefined
  readonly by: SetBy | undefined
  readonly locked: boolean
}

export class Identifier extends TypedEventTarget<IdentifierEvents> {
  readonly #authorities: { has(peer: PeerId): boolean } | undefined
  #state: State

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` for a policy that is none */
  constructor({ policy = 'local-and-remote', authorities }: IdentifierOptions = {}) {
    super()
    this.#authorities = authorities
    this.#state = { policy: checkPolicy(policy), name: undefined, by: undefined, locked: false }
  }

  get name(): string | undefined {
    return this.#state.name
  }

  /** Who set the name. */
  get by(): SetBy | undefined {
    return this.#state.by
  }

  get policy(): IdentifierPolicy {
    return this.#state.policy
  }

  /** True when neither name nor policy can be set any more. */
  get locked(): boolean {
    return this.#state.locked
  }

  /**
   * Sets the name: 1 to 64 characters that can be seen, without spaces at its ends, and not those of a peer id.
   * @param by `local`, or the authority whose order says so: verified before
   * @throws PeerlineError `ERR_PEERLINE_DENIED` when the policy does not let `by` set it, or it is locked;
   *   `ERR_PEERLINE_INVALID` for a name that is none
   */
  set(name: string, by: SetBy): void {
    const { policy, locked } = this.#state
    if (locked) throw lockedError(policy)
    if (by !== 'local') {
      const authority = parsePeerId(by)
      if (this.#authorities?.has(authority) !== true) {
        throw denied(`${authority} is no authority, and cannot set the name of this peer`)
      }
    }
    if (!maySet(policy, by)) {
      throw denied(
        `the name of this peer is not set ${by === 'local' ? 'locally' : 'by an authority'}: it is ${policy}`,
      )
    }
    this.#become({ policy, name: checkName(name), by, locked: isStrict(policy) })
  }

  /**
   * Sets the policy, for what is set from now on. The owner's to do, never an authority's.
   * @throws PeerlineError `ERR_PEERLINE_DENIED` when it is locked; `ERR_PEERLINE_INVALID` for a policy that is none
   */
  setPolicy(policy: IdentifierPolicy): void {
    if (this.#state.locked) throw lockedError(this.#state.policy)
    this.#become({ ...this.#state, policy: checkPolicy(policy) })
  }

  /** Name and lock, to be kept. */
  export(): IdentifierJson {
    const { policy, name, by, locked } = this.#state
    return { version: 1, policy, ...(name === undefined || by === undefined ? {} : { name, by }), locked }
  }

  /**
   * Takes over the name that {@link export} gave; the policy only with its lock, which overrules the option. All of it or,
   * when something is wrong with it, nothing.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`; `ERR_PEERLINE_DENIED` when another name was locked meanwhile
   */
  load(json: unknown): void {
    const loaded = readState(json)
    const { policy, name, by, locked } = this.#state
    if (locked) {
      if (loaded.policy === policy && loaded.name === name && loaded.by === by) return
      throw lockedError(policy)
    }
    this.#become(loaded.locked ? loaded : { ...loaded, policy })
  }

  #become(state: State): void {
    const before = this.#state
    this.#state = state
    if ((Object.keys(state) as (keyof State)[]).every((key) => state[key] === before[key])) return
    const { name, policy, locked } = state
    this.emit('change', { name, policy, locked })
  }
}

function isStrict(policy: IdentifierPolicy): boolean {
  return policy === 'strict-local' || policy === 'strict-remote'
}

function maySet(policy: IdentifierPolicy, by: SetBy): boolean {
  if (policy === 'local-and-remote') return true
  return (by === 'local') === (policy === 'local' || policy === 'strict-local')
}

function checkPolicy(policy: unknown): IdentifierPolicy {
  const known = POLICIES.find((one) => one === policy)
  if (known === undefined) throw invalid(`an identifier policy is one of ${POLICIES.join(', ')}`)
  return known
}

function checkName(name: string): string {
  checkLabel(name, 'name')
  if (isPeerId(name)) throw invalid('a name cannot be a peer id: it would pass for that peer')
  return name
}

function isPeerId(text: string): boolean {
  try {
    parsePeerId(text)
    return true
  } catch {
    return false
  }
}

function readState(json: unknown): State {
  try {
    const all = fields(json, 'identifier')
    all.integer('version', { min: 1, max: 1 })
    const policy = all.oneOf('policy', POLICIES)
    const name = all.optional('name', (at) => checkName(all.text(at, { max: 64 })))
    const by = all.optional('by', (at) => readSetBy(all.text(at, { max: 64 })))
    const locked = all.boolean('locked')
    if ((name === undefined) !== (by === undefined)) throw invalid('a name was set by somebody, and nothing else was')
    if (locked && (by === undefined || !isStrict(policy) || !maySet(policy, by))) {
      throw invalid(`a name that was set ${by === undefined ? 'by nobody' : ''} under ${policy} is not locked`)
    }
    return { policy, name, by, locked }
  } catch (error) {
    if (isPeerlineError(error) && error.code === 'ERR_PEERLINE_INVALID') throw error
    throw invalid(asPeerlineError(error, 'ERR_PEERLINE_INVALID').message, error)
  }
}

function readSetBy(text: string): SetBy {
  return text === 'local' ? text : parsePeerId(text)
}

function lockedError(policy: IdentifierPolicy): PeerlineError {
  return denied(`the name of this peer is locked: it was set once, and it is ${policy}`)
}

function denied(message: string): PeerlineError {
  const recover = 'The identifier policy of this peer decides who names it.'
  return new PeerlineError('ERR_PEERLINE_DENIED', message, { recover })
}
