/**
 * The client of the Hedera SDK, as we want it: loaded only when it is used, patient for as long as we are, and gone when it is closed.
 *
 * - The SDK has no way to give up a call of a node, so a node that takes a call and does not answer would keep a process alive for
 *   good. Our client knows the calls of its channels, and cancels them when it is closed.
 * - The SDK shares the connection to a node between all clients of a process, and the first that is closed closes it for all. Ours
 *   leave it to the last.
 */
import type { Client, PrivateKey } from '@hiero-ledger/sdk'
import { PeerlineError } from '../errors.ts'
import type { HederaNetwork, NETWORKS } from './hedera-network.ts'

/** What `import('@hiero-ledger/sdk')` brings. */
export type Sdk = typeof import('@hiero-ledger/sdk')

/** ms for one request of the SDK, with all its attempts; ms for one of these. Then another node is asked. */
const REQUEST_MS = 30_000
const CALL_MS = 8_000

/** Attempts of a request, and ms between two: some 5 s in all. Longer patience is with whoever appends. */
const ATTEMPTS = 5
const MAX_WAIT_MS = 2_000

/** ms that a node which failed is left alone at most. The SDK's hour would outlast the absence of our own network. */
const MAX_NODE_WAIT_MS = 30_000

/** Hbar paid for a record at most; it costs 0.0001 USD, so this is right down to 0.2 cent an hbar. */
const MAX_QUERY_HBAR = 0.05

/** A call of a node (grpc-js `ClientUnaryCall`). */
interface Call {
  cancel(): void
  once(event: 'status', listener: () => void): void
}

/** A gRPC client: the connection to a node. */
interface Connection {
  makeUnaryRequest(...args: unknown[]): Call
}

/** The SDK's channel to a node. Its connection is made, or taken from others, before each call. */
interface Channel {
  _client: Connection | null
  _initializeClient(): Promise<void>
  close(): void
}

/** How many channels have a connection. */
const holders = new WeakMap<Connection, number>()

export interface OpenClient {
  readonly client: Client
  /** Ends its calls, and leaves nothing behind. */
  close(): void
}

/** @throws PeerlineError `ERR_PEERLINE_UNSUPPORTED` when it is not installed */
export async function loadSdk(): Promise<Sdk> {
  try {
    return await import('@hiero-ledger/sdk')
  } catch (cause) {
    throw new PeerlineError('ERR_PEERLINE_UNSUPPORTED', 'the Hedera ledger needs the package @hiero-ledger/sdk', {
      cause,
      recover: 'Install it: npm install @hiero-ledger/sdk',
    })
  }
}

/** @throws PeerlineError `ERR_PEERLINE_INVALID`, which says nothing of the key */
export function keyOf({ PrivateKey }: Sdk, text: string): PrivateKey {
  try {
    if (/^0x[0-9a-f]{64}$/i.test(text)) return PrivateKey.fromStringECDSA(text)
    return /^[0-9a-f]{64}$/i.test(text) ? PrivateKey.fromStringED25519(text) : PrivateKey.fromStringDer(text)
  } catch {
    throw new PeerlineError('ERR_PEERLINE_INVALID', 'the key of the Hedera account is not a private key in hex')
  }
}

/** Opens no connection yet. */
export function openClient(
  sdk: Sdk,
  network: (typeof NETWORKS)[number] | HederaNetwork,
  account: string,
  key: PrivateKey,
): OpenClient {
  const calls = new Set<Call>()
  class KeepingClient extends sdk.Client {
    override _createNetworkChannel() {
      const create = super._createNetworkChannel()
      return (...args: Parameters<typeof create>) => {
        const channel = create(...args)
        keepCalls(channel as unknown as Channel, calls)
        return channel
      }
    }
  }
  const client =
    typeof network === 'string'
      ? new KeepingClient({ network })
      : new KeepingClient({ network: { ...network.nodes }, scheduleNetworkUpdate: false })
  if (typeof network !== 'string') client.setMirrorNetwork([...network.mirrors])
  client
    .setRequestTimeout(REQUEST_MS)
    .setMaxBackoff(MAX_WAIT_MS)
    .setMaxAttempts(ATTEMPTS)
    .setNodeMaxBackoff(MAX_NODE_WAIT_MS)
    .setDefaultMaxQueryPayment(new sdk.Hbar(MAX_QUERY_HBAR))
    .setOperator(account, key)
    .setGrpcDeadline(CALL_MS)
  return {
    client,
    close() {
      for (const call of calls) call.cancel()
      client.close()
    },
  }
}

/** Keeps the calls of a channel that are under way in `calls`, and its connection open while others have it. */
function keepCalls(channel: Channel, calls: Set<Call>): void {
  const { _initializeClient: initialize, close } = channel
  let held: Connection | undefined
  /** The same, as the SDK has it: it notes each call. */
  let keeping: Connection | undefined
  const release = () => {
    const left = (held === undefined ? 0 : holders.get(held)!) - 1
    if (left >= 0) holders.set(held!, left)
    held = undefined
    return left
  }
  channel._initializeClient = async () => {
    await initialize.call(channel)
    const connection = channel._client!
    // It kept what we gave it.
    if (connection === keeping) return
    if (connection !== held) {
      release()
      held = connection
      holders.set(held, (holders.get(held) ?? 0) + 1)
    }
    keeping = Object.create(connection, {
      makeUnaryRequest: {
        value(...args: unknown[]) {
          const call = connection.makeUnaryRequest(...args)
          calls.add(call)
          call.once('status', () => calls.delete(call))
          return call
        },
      },
    }) as Connection
    channel._client = keeping
  }
  channel.close = () => {
    if (release() === 0) close.call(channel)
  }
}
