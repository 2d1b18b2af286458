/**
 * Named permissions: what a request needs, and what a peer has, as a set of up to 32 names.
 *
 * A set is a value: `add` and `remove` make another one. Names travel and are stored, never bits, so that the order in
 * which an application defines them may change from one version to the next.
 */
import { invalid } from '../errors.ts'

/** Names in one definition: the bits of a whole number in JavaScript's bitwise operators. */
export const MAX_PERMISSIONS = 32
/** A short word of letters, digits, `.`, `_`, `:` and `-`: it is shown to people, and stored. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$/

/** @internal True for the name that a permission may have. */
export function isPermissionName(name: unknown): name is string {
  return typeof name === 'string' && NAME.test(name)
}

/** Some of the permissions of one definition; never changes. Iterating gives the names, in the order of definition. */
export class Permissions<N extends string = string> implements Iterable<N> {
  readonly #bitOf: ReadonlyMap<N, number>
  readonly #bits: number

  /** @internal {@link definePermissions} makes them. */
  constructor(bitOf: ReadonlyMap<N, number>, bits: number) {
    this.#bitOf = bitOf
    this.#bits = bits
  }

  /** The names in it, in the order of definition. */
  get names(): readonly N[] {
    return [...this.#bitOf].filter(([, bit]) => (this.#bits & bit) !== 0).map(([name]) => name)
  }

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` for a name that was not defined */
  add(...names: readonly N[]): Permissions<N> {
    return new Permissions(this.#bitOf, this.#bits | this.#bitsOf(names))
  }

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` for a name that was not defined */
  remove(...names: readonly N[]): Permissions<N> {
    return new Permissions(this.#bitOf, this.#bits & ~this.#bitsOf(names))
  }

  /** What is in either. @throws PeerlineError `ERR_PEERLINE_INVALID` for a set of another definition */
  union(other: Permissions<N>): Permissions<N> {
    return new Permissions(this.#bitOf, this.#bits | this.#bitsIn(other))
  }

  /**
   * True when everything that is needed is in it; so it is for nothing at all.
   * @throws PeerlineError `ERR_PEERLINE_INVALID` for a name that was not defined, or a set of another definition
   */
  permits(needed: N | Permissions<N>): boolean {
    const bits = typeof needed === 'string' ? this.#bitsOf([needed]) : this.#bitsIn(needed)
    return (bits & ~this.#bits) === 0
  }

  [Symbol.iterator](): Iterator<N> {
    return this.names[Symbol.iterator]()
  }

  /** The names. */
  toJSON(): readonly N[] {
    return this.names
  }

  #bitsIn(other: Permissions<N>): number {
    if (other.#bitOf !== this.#bitOf) throw invalid('permissions of two definitions do not mix')
    return other.#bits
  }

  #bitsOf(names: readonly N[]): number {
    return names.reduce((bits, name) => {
      const bit = this.#bitOf.get(name)
      if (bit === undefined) throw invalid(`there is no permission ${JSON.stringify(name)}`)
      return bits | bit
    }, 0)
  }
}

/** What {@link definePermissions} gives. */
export interface PermissionKind<N extends string> {
  readonly none: Permissions<N>
  readonly all: Permissions<N>
  /** The set of these. @throws PeerlineError `ERR_PEERLINE_INVALID` for a name that was not defined */
  of(...names: readonly N[]): Permissions<N>
}

/**
 * Names the permissions of an application, 1 to 32 of them.
 * @throws PeerlineError `ERR_PEERLINE_INVALID` for none, too many, a name twice, or one that is no short word
 */
export function definePermissions<const N extends string>(names: readonly N[]): PermissionKind<N> {
  if (names.length === 0 || names.length > MAX_PERMISSIONS) {
    throw invalid(`1 to ${MAX_PERMISSIONS} permissions can be defined, not ${names.length}`)
  }
  const bitOf = new Map<N, number>()
  for (const [index, name] of names.entries()) {
    if (!isPermissionName(name)) throw invalid(`${JSON.stringify(name)} cannot name a permission`)
    if (bitOf.has(name)) throw invalid(`permission ${name} is defined twice`)
    bitOf.set(name, 1 << index)
  }
  const none = new Permissions(bitOf, 0)
  return { none, all: none.add(...names), of: (...some) => none.add(...some) }
}
