/**
 * What the Hedera network, its mirror nodes and their SDK report, in our codes.
 *
 * - A status of the network (ResponseCodeEnum of `response_code.proto`) has a name, and the name decides.
 * - gRPC has status codes of its own (https://grpc.io/docs/guides/status-codes/): they tell how the call went, not the message.
 * - The SDK is read by the shape of its errors: it is loaded late, and its classes are not for all of them.
 */
import { type ErrorCode, isPeerlineError, PeerlineError } from '../errors.ts'

/** Statuses by what they mean to us. All others are failures of the network: `ERR_PEERLINE_REMOTE`. */
const STATUSES: readonly (readonly [ErrorCode, readonly string[]])[] = [
  ['ERR_PEERLINE_PAYMENT', ['INSUFFICIENT_PAYER_BALANCE', 'INSUFFICIENT_ACCOUNT_BALANCE', 'INSUFFICIENT_TX_FEE']],
  ['ERR_PEERLINE_INVALID', ['INVALID_TOPIC_ID', 'TOPIC_EXPIRED', 'INVALID_TOPIC_MESSAGE', 'MEMO_TOO_LONG']],
  ['ERR_PEERLINE_TOO_LARGE', ['MESSAGE_SIZE_TOO_LARGE', 'TRANSACTION_OVERSIZE']],
  [
    'ERR_PEERLINE_DENIED',
    [
      'UNAUTHORIZED',
      'INVALID_SIGNATURE',
      'INVALID_PAYER_SIGNATURE',
      'INVALID_SUBMIT_KEY',
      'INVALID_ACCOUNT_ID',
      'PAYER_ACCOUNT_NOT_FOUND',
      'PAYER_ACCOUNT_DELETED',
      'PAYER_ACCOUNT_UNAUTHORIZED',
      'ACCOUNT_DELETED',
      // Whoever made the topic wants money for each message: we pay none (hedera.ts).
      'MAX_CUSTOM_FEE_LIMIT_EXCEEDED',
      'NO_VALID_MAX_CUSTOM_FEE',
    ],
  ],
  ['ERR_PEERLINE_BUSY', ['BUSY', 'PLATFORM_TRANSACTION_NOT_CREATED', 'PLATFORM_NOT_ACTIVE', 'THROTTLED_AT_CONSENSUS']],
  // A transaction lives for two minutes from its start, by the clock of who makes it.
  ['ERR_PEERLINE_EXPIRED', ['TRANSACTION_EXPIRED', 'INVALID_TRANSACTION_START']],
  // The node does not know yet what became of it.
  ['ERR_PEERLINE_TIMEOUT', ['UNKNOWN', 'RECEIPT_NOT_FOUND', 'RECORD_NOT_FOUND']],
]

const CODE_OF_STATUS = new Map(STATUSES.flatMap(([code, names]) => names.map((name) => [name, code] as const)))

/** Statuses that are told apart. */
export const KNOWN_STATUSES: readonly string[] = [...CODE_OF_STATUS.keys()]

/** gRPC status codes; those not here are `ERR_PEERLINE_REMOTE`. 17 is the SDK's own, for a node that does not become ready. */
const CODE_OF_CALL: ReadonlyMap<number, ErrorCode> = new Map([
  [1, 'ERR_PEERLINE_UNREACHABLE'], // CANCELLED: not by us, who do not listen any more then
  [2, 'ERR_PEERLINE_UNREACHABLE'], // UNKNOWN: a mirror node that has a fault of its own
  [3, 'ERR_PEERLINE_INVALID'], // INVALID_ARGUMENT
  [4, 'ERR_PEERLINE_TIMEOUT'], // DEADLINE_EXCEEDED
  [5, 'ERR_PEERLINE_INVALID'], // NOT_FOUND
  [7, 'ERR_PEERLINE_DENIED'], // PERMISSION_DENIED
  [8, 'ERR_PEERLINE_BUSY'], // RESOURCE_EXHAUSTED
  [13, 'ERR_PEERLINE_UNREACHABLE'], // INTERNAL: a stream that was reset
  [14, 'ERR_PEERLINE_UNREACHABLE'], // UNAVAILABLE
  [16, 'ERR_PEERLINE_DENIED'], // UNAUTHENTICATED
  [17, 'ERR_PEERLINE_UNREACHABLE'],
])

/** NOT_FOUND of gRPC: a mirror node does not know the topic, or not yet. */
export const GRPC_NOT_FOUND = 5

/** Characters of a remote's text that go into a message of ours. */
const MAX_SAID = 200

/** The name of the network's status in an error of the SDK. */
export function statusOf(error: unknown): string | undefined {
  const status = fieldOf(error, 'status')
  return fieldOf(error, 'name') === 'StatusError' ? textOf(status) : undefined
}

/** The gRPC status code in an error of the SDK, or of the call itself. */
export function callCodeOf(error: unknown): number | undefined {
  const status = fieldOf(error, 'status')
  const code =
    fieldOf(error, 'name') === 'GrpcServiceError' ? Number(textOf(status?.valueOf())) : fieldOf(error, 'code')
  return typeof code === 'number' ? code : undefined
}

/** An error of the SDK as one of ours. `what` was being done: `appending to 0.0.7`. */
export function hederaError(error: unknown, what: string): PeerlineError {
  if (isPeerlineError(error)) return error
  const status = statusOf(error) ?? lastStatus(error)
  if (status !== undefined) return statusError(status, what, error)
  // On one line, without control characters: it ends in a terminal or a log.
  const said = textOf(fieldOf(error, 'message') ?? error)
    .slice(0, MAX_SAID)
    .replace(/[\p{C}\p{Zl}\p{Zp}]/gu, ' ')
  const call = callCodeOf(error)
  // What has no code is the SDK that has no node left to ask.
  const code = call === undefined ? 'ERR_PEERLINE_UNREACHABLE' : (CODE_OF_CALL.get(call) ?? 'ERR_PEERLINE_REMOTE')
  return new PeerlineError(code, `${what} failed: ${said}`, { cause: error })
}

function statusError(status: string, what: string, cause: unknown): PeerlineError {
  const code = CODE_OF_STATUS.get(status) ?? 'ERR_PEERLINE_REMOTE'
  const recover = RECOVER[status] ?? RECOVER[code]
  return new PeerlineError(code, `${what} failed: the network says ${status}`, {
    cause,
    ...(recover !== undefined && { recover }),
  })
}

/** Where the hint of the code is not to the point. */
const RECOVER: { readonly [name: string]: string } = {
  MAX_CUSTOM_FEE_LIMIT_EXCEEDED: 'Whoever made this topic takes money for each message: use another topic.',
  NO_VALID_MAX_CUSTOM_FEE: 'Whoever made this topic takes money for each message: use another topic.',
  ERR_PEERLINE_DENIED: 'Check the account and its key, and that this topic is open to it.',
  ERR_PEERLINE_EXPIRED: 'Check the clock of this machine: it may be at most two minutes behind, and not ahead.',
  ERR_PEERLINE_REMOTE: 'Look the status up in the documentation of Hedera.',
}

/**
 * The status that the SDK saw last when it gave up trying. It has it in no field; the text ends with it
 * (`MaxAttemptsOrTimeoutError` of its Executable.js).
 */
function lastStatus(error: unknown): string | undefined {
  return /last error being: ([A-Z_]+)$/.exec(textOf(fieldOf(error, 'message')))?.[1]
}

function fieldOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as { [name: string]: unknown })[name] : undefined
}

/** Of whatever was thrown; not all of that has a text. */
function textOf(value: unknown): string {
  try {
    return String(value)
  } catch {
    return 'no reason given'
  }
}
