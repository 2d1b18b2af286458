/**
 * What a bootstrap node may be to us.
 *
 *   trustless    it hands out peers, and that is all
 *   authority    it hands out peers, and gives signed orders (order.ts)
 *
 * - The four flags imply each other. What they imply is filled in and can be read; a contradiction is refused when the policy
 *   is made, and nothing changes it afterwards.
 * - Each opening is asked: a role that the flags do not allow is refused, not played down to another.
 * - With `firstSingleLockingAuthority` the first authority is the only one, for good: the lock is kept (`export`, `load`).
 */
import { fields } from '../bytes/index.ts'
import { asPeerlineError, invalid, PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'

export type BootstrapRole = 'trustless' | 'authority'

export interface BootstrapOptions {
  /** Nodes that only hand out peers are let be used. @default true, unless an authority is a must */
  readonly trustless?: boolean
  /** Nodes that may give orders are let be used. @default false, unless an authority is a must */
  readonly authority?: boolean
  /** A node must be an authority. @default false, unless the first one locks, or trustless ones are ruled out */
  readonly mustBeAuthority?: boolean
  /** The first authority is the only one, for good. @default false */
  readonly firstSingleLockingAuthority?: boolean
}

/** What {@link BootstrapPolicy.export} gives. */
export interface BootstrapJson {
  readonly version: 1
  /** The one authority. */
  readonly locked?: string
}

export type BootstrapEvents = {
  /** The first authority was opened: it is the only one from now on. To be saved. */
  locked: { readonly peer: PeerId }
}

/** A flag that is true, and a value that another cannot have then. */
const CONTRADICTIONS: readonly (readonly [keyof BootstrapOptions, keyof BootstrapOptions, boolean])[] = [
  ['firstSingleLockingAuthority', 'mustBeAuthority', false],
  ['firstSingleLockingAuthority', 'authority', false],
  ['firstSingleLockingAuthority', 'trustless', true],
  ['mustBeAuthority', 'authority', false],
  ['mustBeAuthority', 'trustless', true],
]

const FLAGS = ['trustless', 'authority', 'mustBeAuthority', 'firstSingleLockingAuthority'] as const

export class BootstrapPolicy extends TypedEventTarget<BootstrapEvents> {
  /** As given, or as implied. */
  readonly flags: Readonly<Required<BootstrapOptions>>
  #locked: PeerId | undefined

  /** @throws PeerlineError `ERR_PEERLINE_INVALID`, which names the two flags that contradict each other */
  constructor(options: BootstrapOptions = {}) {
    super()
    this.flags = resolve(options)
  }

  /** The one authority, when the first was to be the only one and was opened. */
  get locked(): PeerId | undefined {
    return this.#locked
  }

  /** Whether a node may be opened in that role now. Nothing is locked by asking. */
  admits(peer: PeerId, role: BootstrapRole): boolean {
    return this.#refusal(peer, role) === undefined
  }

  /**
   * Opens a node in a role; the same again is fine.
   * @throws PeerlineError `ERR_PEERLINE_DENIED`; `ERR_PEERLINE_INVALID` for a peer id or a role that is none
   */
  open(peer: PeerId, role: BootstrapRole): void {
    const node = parsePeerId(peer)
    if (role !== 'trustless' && role !== 'authority') throw invalid('a role is trustless or authority')
    const refusal = this.#refusal(node, role)
    if (refusal !== undefined) {
      const recover = 'Use another node, or another bootstrap policy.'
      throw new PeerlineError('ERR_PEERLINE_DENIED', `${node} cannot be opened as ${role}: ${refusal}`, { recover })
    }
    if (role !== 'authority' || !this.flags.firstSingleLockingAuthority || this.#locked !== undefined) return
    this.#locked = node
    this.emit('locked', { peer: node })
  }

  /** The lock, to be kept. */
  export(): BootstrapJson {
    return { version: 1, ...(this.#locked === undefined ? {} : { locked: this.#locked }) }
  }

  /**
   * Takes over the lock that {@link export} gave. It is kept, and without effect, while the flags do not ask for one.
   * @throws PeerlineError `ERR_PEERLINE_INVALID` for what is none, and when another authority was locked meanwhile
   */
  load(json: unknown): void {
    const locked = readLock(json)
    if (locked === undefined || locked === this.#locked) return
    if (this.#locked !== undefined) throw invalid(`${this.#locked} was locked before the lock on ${locked} was loaded`)
    this.#locked = locked
  }

  #refusal(peer: PeerId, role: BootstrapRole): string | undefined {
    const { trustless, authority, firstSingleLockingAuthority } = this.flags
    if (role === 'trustless') return trustless ? undefined : 'only an authority may be used'
    if (!authority) return 'no authority may be used'
    if (!firstSingleLockingAuthority || this.#locked === undefined || this.#locked === peer) return undefined
    return `${this.#locked} came first, and is the only one`
  }
}

function resolve(options: BootstrapOptions): Readonly<Required<BootstrapOptions>> {
  for (const [name, value] of Object.entries(options)) {
    if (!(FLAGS as readonly string[]).includes(name)) throw invalid(`a bootstrap policy has no ${name.slice(0, 64)}`)
    if (value !== undefined && typeof value !== 'boolean') throw invalid(`${name} is true or false`)
  }
  for (const [flag, other, value] of CONTRADICTIONS) {
    if (options[flag] === true && options[other] === value) throw invalid(`${flag} contradicts ${other}: ${value}`)
  }
  const { firstSingleLockingAuthority = false } = options
  const onlyAuthorities = options.trustless === false && options.authority === true
  if (onlyAuthorities && options.mustBeAuthority === false) {
    throw invalid('mustBeAuthority: false contradicts trustless: false: only an authority could be used')
  }
  const { mustBeAuthority = firstSingleLockingAuthority || onlyAuthorities } = options
  const { authority = mustBeAuthority, trustless = !mustBeAuthority } = options
  // the right to give orders does not follow from what somebody else may not do
  if (!trustless && !authority) throw invalid('trustless: false contradicts authority: false: no node could be used')
  return Object.freeze({ trustless, authority, mustBeAuthority, firstSingleLockingAuthority })
}

function readLock(json: unknown): PeerId | undefined {
  try {
    const all = fields(json, 'bootstrap lock')
    all.integer('version', { min: 1, max: 1 })
    return all.optional('locked', (at) => parsePeerId(all.text(at, { max: 64 })))
  } catch (error) {
    throw invalid(asPeerlineError(error, 'ERR_PEERLINE_INVALID').message, error)
  }
}
