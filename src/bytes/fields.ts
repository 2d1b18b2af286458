/**
 * Takes a decoded CBOR map apart, field by field. Every field is checked for its kind and its limit as it is read; the first
 * that fails is named in an ERR_PEERLINE_PROTOCOL. Fields nobody reads are ignored, so that a later version may add some.
 *
 *   const f = fields(decodeCbor(bytes, { maxBytes: 1024 }), 'offer')
 *   const name = f.text('name', { max: 64 })
 *   const size = f.optional('size', (at) => f.integer(at, { min: 0 }))
 */

import { invalid, isPeerlineError, PeerlineError } from '../errors.ts'

/** The latest time that a `Date` can hold, ms since 1970 (ECMA-262 section 21.4.1.1). */
export const MAX_TIME_MS = 8.64e15

/** A decoded map whose fields are read one by one. */
export class Fields {
  readonly #map: Record<string, unknown>
  readonly #what: string

  constructor(value: unknown, what: string) {
    if (typeof value !== 'object' || value === null || Array.isArray(value) || value instanceof Uint8Array) {
      throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `The ${what} is not a map`)
    }
    this.#map = value as Record<string, unknown>
    this.#what = what
  }

  /** Whether the field is there and not null. */
  has(name: string): boolean {
    return this.#get(name) !== undefined
  }

  /** What `read` makes of the field, or undefined when it is absent or null. */
  optional<T>(name: string, read: (name: string) => T): T | undefined {
    return this.has(name) ? read(name) : undefined
  }

  /** Text of `min` (0 by default) to `max` UTF-16 units. */
  text(name: string, { min = 0, max }: { min?: number; max: number }): string {
    const value = this.#get(name)
    return this.#isText(value, min, max) ? value : this.#fail(name, `text of ${min} to ${max} characters`)
  }

  /** Exactly `length` bytes, or at most `max`. */
  bytes(name: string, limit: { length: number } | { max: number }): Uint8Array {
    const value = this.#get(name)
    if (value instanceof Uint8Array) {
      if ('length' in limit ? value.length === limit.length : value.length <= limit.max) return value
    }
    return this.#fail(name, 'length' in limit ? `${limit.length} bytes` : `at most ${limit.max} bytes`)
  }

  /** A whole number from `min` (0 by default) to `max` (2^53 - 1 by default). */
  integer(name: string, { min = 0, max = Number.MAX_SAFE_INTEGER }: { min?: number; max?: number } = {}): number {
    const value = this.#get(name)
    if (Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max) return value as number
    return this.#fail(name, `an integer from ${min} to ${max}`)
  }

  boolean(name: string): boolean {
    const value = this.#get(name)
    return typeof value === 'boolean' ? value : this.#fail(name, 'true or false')
  }

  /** One of the given texts. */
  oneOf<const T extends string>(name: string, allowed: readonly T[]): T {
    const value = this.#get(name)
    return allowed.find((one) => one === value) ?? this.#fail(name, `one of ${allowed.join(', ')}`)
  }

  /** A list of at most `max` items of any kind: check each of them. */
  list(name: string, { max }: { max: number }): readonly unknown[] {
    const value = this.#get(name)
    return Array.isArray(value) && value.length <= max ? value : this.#fail(name, `a list of at most ${max}`)
  }

  /** A list of at most `max` texts of at most `maxLength` UTF-16 units each. */
  texts(name: string, { max, maxLength }: { max: number; maxLength: number }): readonly string[] {
    const list = this.list(name, { max })
    if (list.every((item) => this.#isText(item, 0, maxLength))) return list as readonly string[]
    return this.#fail(name, `a list of texts of at most ${maxLength} characters`)
  }

  /** A map in this map. */
  map(name: string): Fields {
    return new Fields(this.#get(name), `${name} of the ${this.#what}`)
  }

  /** Own fields only: what the prototype holds is no field. */
  #get(name: string): unknown {
    return Object.hasOwn(this.#map, name) ? (this.#map[name] ?? undefined) : undefined
  }

  #isText(value: unknown, min: number, max: number): value is string {
    return typeof value === 'string' && value.length >= min && value.length <= max
  }

  #fail(name: string, expected: string): never {
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `${name} of the ${this.#what} must be ${expected}`)
  }
}

/** The fields of a decoded map; `what` names it in errors. */
export function fields(value: unknown, what = 'message'): Fields {
  return new Fields(value, what)
}

/** What `read` makes of what was kept here. What it finds wrong is `ERR_PEERLINE_INVALID` then: it is no fault of another peer. */
export function strictly<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (isPeerlineError(error) && error.code === 'ERR_PEERLINE_PROTOCOL') throw invalid(error.message, error)
    throw error
  }
}
