/**
 * What Peerline needs of a validator: the part of Standard Schema, version 1, that validates
 * (https://standardschema.dev, "The Specification"). Whatever library implements that fits, and none is needed.
 */
import { PeerlineError } from '../errors.ts'

/** A schema of any library. `Input` is what it takes, `Output` what it makes of that. */
export interface StandardSchema<Input = unknown, Output = Input> {
  readonly '~standard': {
    readonly version: 1
    readonly vendor: string
    readonly validate: (value: unknown) => SchemaResult<Output> | Promise<SchemaResult<Output>>
    /** For the type checker alone; it is never there. */
    readonly types?: { readonly input: Input; readonly output: Output } | undefined
  }
}

export type SchemaResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly SchemaIssue[] }

export interface SchemaIssue {
  readonly message: string
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined
}

/** Issues that are named in a message: the first few tell what is wrong. */
const MAX_NAMED = 3

/** True for a schema of version 1. */
export function isStandardSchema(value: unknown): value is StandardSchema {
  // Schemas may be functions.
  if ((typeof value !== 'object' && typeof value !== 'function') || value === null) return false
  const standard: unknown = (value as { '~standard'?: unknown })['~standard']
  if (typeof standard !== 'object' || standard === null) return false
  const { version, validate } = standard as { version?: unknown; validate?: unknown }
  return version === 1 && typeof validate === 'function'
}

/**
 * What `schema` makes of `value`; at once, when the schema answers at once.
 * @throws SchemaError when it has issues, also when it throws
 */
export function validate<Input, Output>(
  schema: StandardSchema<Input, Output>,
  value: unknown,
  what: string,
): Output | Promise<Output> {
  let result: SchemaResult<Output> | Promise<SchemaResult<Output>>
  try {
    result = schema['~standard'].validate(value)
  } catch (cause) {
    throw thrown(what, cause)
  }
  if (!(result instanceof Promise)) return outcome(result, what)
  return result.then(
    (later) => outcome(later, what),
    (cause) => {
      throw thrown(what, cause)
    },
  )
}

/** A value that its schema does not take. */
export class SchemaError extends PeerlineError {
  readonly issues: readonly SchemaIssue[]

  constructor(what: string, issues: readonly SchemaIssue[], cause?: unknown) {
    super('ERR_PEERLINE_INVALID', `${what} is not valid: ${issues.slice(0, MAX_NAMED).map(named).join('; ')}`, {
      cause,
    })
    this.issues = issues
  }
}

function outcome<Output>(result: SchemaResult<Output>, what: string): Output {
  if (result.issues === undefined) return result.value
  throw new SchemaError(what, result.issues)
}

/** What a validator throws may tell of this machine, and stays here, as the cause. */
function thrown(what: string, cause: unknown): SchemaError {
  return new SchemaError(what, [{ message: 'its schema failed' }], cause)
}

function named({ message, path = [] }: SchemaIssue): string {
  const place = path.map((part) => String(typeof part === 'object' ? part.key : part)).join('.')
  return place === '' ? String(message) : `${place}: ${message}`
}
