/**
 * A ledger kept by the Hedera network: the Hedera Consensus Service, by its official SDK.
 *
 *     append --TopicMessageSubmitTransaction, signed and paid by our account--> a node --gossip--> consensus
 *     reader <--gRPC-- a mirror node <--record files-- the nodes
 *
 * - A topic is an entity of the network, such as `0.0.4711`; the network gives it its name.
 * - Every entry of a topic carries the network's hash over all before it. What we read last and what we wrote last is remembered, so a
 *   mirror node that has another history is noticed.
 * - The SDK does not stop what it has begun. What is aborted here is told to try no more, and what it does then is not waited for.
 * - A topic may ask for money beside the network's fee (HIP-991), and a peer may name such a topic as its own: we pay none.
 *
 * Limits: 1,024 bytes a message, or 20 chunks of that; a minute an operation. docs/ledger-hedera.md says what it costs and what is public.
 */
import type { Client, Executable, PrivateKey, TransactionId } from '@hiero-ledger/sdk'
import { copyBytes } from '../bytes/index.ts'
import { abortError, PeerlineError } from '../errors.ts'
import { firstOf, whenAborted, within } from '../pause.ts'
import { keyOf, loadSdk, type OpenClient, openClient, type Sdk } from './hedera-client.ts'
import { hederaError, statusOf } from './hedera-errors.ts'
import { msOf, nanosOf } from './hedera-mirror.ts'
import { type HederaNetwork, NETWORKS } from './hedera-network.ts'
import { entriesOf, TopicMemory } from './hedera-topic.ts'
import type { AppendOptions, CreateTopicOptions, Entry, Ledger, Price, ReadOptions, Receipt } from './ledger.ts'

/** Bytes of a message that fits one transaction (`consensus.message.maxBytesAllowed` of the network). */
const CHUNK_BYTES = 1_024

/** Chunks of the largest message: what the SDK allows of itself. */
const MAX_CHUNKS = 20

/**
 * What ConsensusSubmitMessage costs, in USD: 0.0008 with the first 100 bytes, and 0.00000068 for each further byte. It was 0.0001
 * until January 2026 (release 0.69), and has counted bytes since May 2026 (release 0.73, HIP-1261). Read on 2026-08-20 at
 * https://docs.hedera.com/networks/fees and https://docs.hedera.com/learn/core-concepts/fee-model.
 */
const MESSAGE_USD = 0.0008
const FREE_BYTES = 100
const BYTE_USD = 0.000_000_68

/** What TransactionGetRecord costs, in USD: it tells the consensus time, and is asked once for each message that is waited for. */
const RECORD_USD = 0.0001

/**
 * ms until readers have a message: consensus is final after 3 to 5 s
 * (https://docs.hedera.com/learn/getting-started/what-is-hedera), and mirror nodes have it "usually a few seconds" later
 * (https://docs.hedera.com/operators/mirror-node/architecture). Neither is promised.
 */
const LATENCY_MS = 7_000

/** ms between two readers: mirror nodes take in files that nodes close every 2 s. */
const SPREAD_MS = 2_000

/** ms for one operation: some 10 s as a rule, and much patience with nodes that are busy. */
const OPERATION_MS = 60_000

/** Times that the outcome is asked for: more often than there is time for. */
const ASKING_ATTEMPTS = 40

/** Entries of a page, as a rule and at most. */
const PAGE = 100
const MAX_PAGE = 1_000

/** ms that a mirror node may take to know of a new topic, or of our own message. */
const VISIBLE_MS = 15_000

/** Topics of which something is remembered: 10 KB each at most. */
const MAX_TOPICS = 1_024

/** An account or a topic: shard, realm and number. */
const ENTITY = /^\d{1,10}\.\d{1,10}\.(\d{1,19})$/

/** The largest number of one: the network counts in 64 bits with a sign. */
const MAX_NUMBER = 2n ** 63n - 1n

export type { HederaNetwork }

export interface HederaOptions {
  readonly network: (typeof NETWORKS)[number] | HederaNetwork
  /** The account that signs and pays: `0.0.1234`. */
  readonly account: string
  /** Its private key: DER in hex; or 32 bytes in hex, Ed25519, or with `0x` before them, ECDSA secp256k1. */
  readonly key: string
  /** Bytes of the largest message, up to 20,480. Above 1,024, a message is several transactions. @default 1_024 */
  readonly maxMessageBytes?: number
  /** ms that a mirror node may take to know of a new topic. @default 15_000 */
  readonly visibleMs?: number
}

export interface HederaTopicOptions extends CreateTopicOptions {
  /** What everybody may read about the topic, up to 100 bytes. @default nothing */
  readonly memo?: string
  /** Who may append: `us`, the account that makes it. @default 'us' for a topic of our own, else 'anyone' */
  readonly writers?: 'anyone' | 'us'
  /** Whether our account may change and delete it. @default false */
  readonly changeable?: boolean
}

export class HederaLedger implements Ledger {
  readonly name: string
  readonly id: string
  readonly maxMessageBytes: number
  readonly latencyMs = LATENCY_MS
  readonly spreadMs = SPREAD_MS
  readonly #sdk: Sdk
  readonly #client: Client
  readonly #closeClient: () => void
  readonly #key: PrivateKey
  readonly #account: string
  readonly #visibleMs: number
  readonly #topics = new Map<string, TopicMemory>()
  /** Ends what is under way. */
  readonly #closing = new AbortController()

  private constructor(sdk: Sdk, { client, close }: OpenClient, key: PrivateKey, options: HederaOptions) {
    const { network } = options
    const name = typeof network === 'string' ? network : network.name
    this.name = `hedera ${name}`
    this.id = `hedera:${name}`
    this.maxMessageBytes = options.maxMessageBytes ?? CHUNK_BYTES
    this.#sdk = sdk
    this.#client = client
    this.#closeClient = close
    this.#key = key
    this.#account = options.account
    this.#visibleMs = options.visibleMs ?? VISIBLE_MS
  }

  /**
   * Loads the SDK. Nothing is sent yet.
   * @throws PeerlineError `ERR_PEERLINE_UNSUPPORTED` when `@hiero-ledger/sdk` is not installed, `ERR_PEERLINE_INVALID`
   */
  static async open(options: HederaOptions): Promise<HederaLedger> {
    const { network, maxMessageBytes = CHUNK_BYTES } = options
    check(
      Number.isSafeInteger(maxMessageBytes) && maxMessageBytes >= 1 && maxMessageBytes <= MAX_CHUNKS * CHUNK_BYTES,
      `maxMessageBytes must be 1 to ${MAX_CHUNKS * CHUNK_BYTES}`,
    )
    if (typeof network === 'string') check(NETWORKS.includes(network), `${network} is no network of Hedera`)
    else check(/^[a-z0-9._-]{1,40}$/.test(network.name), 'the name of the network must be 1 to 40 of a-z 0-9 . _ -')
    check(isEntity(options.account), `${options.account} is no account of Hedera; it looks like 0.0.1234`)
    const sdk = await loadSdk()
    const key = keyOf(sdk, options.key)
    return new HederaLedger(sdk, openClient(sdk, network, options.account, key), key, options)
  }

  /**
   * As {@link open}, with `PEERLINE_HEDERA_NETWORK` (`mainnet`, `testnet` or `previewnet`), `PEERLINE_HEDERA_ACCOUNT` and
   * `PEERLINE_HEDERA_KEY`.
   * @throws PeerlineError as {@link open}; `ERR_PEERLINE_INVALID` names the variable that is missing or wrong
   */
  static async fromEnvironment(
    options: Omit<HederaOptions, 'network' | 'account' | 'key'> & {
      /** @default process.env */
      readonly environment?: { readonly [name: string]: string | undefined }
    } = {},
  ): Promise<HederaLedger> {
    const { environment = process.env, ...rest } = options
    const variable = (name: string) => {
      const value = environment[name]?.trim()
      if (value) return value
      throw new PeerlineError('ERR_PEERLINE_INVALID', `the environment variable ${name} is not set`)
    }
    const network = NETWORKS.find((name) => name === variable('PEERLINE_HEDERA_NETWORK'))
    if (network === undefined) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `PEERLINE_HEDERA_NETWORK is one of ${NETWORKS.join(', ')}`)
    }
    const [account, key] = [variable('PEERLINE_HEDERA_ACCOUNT'), variable('PEERLINE_HEDERA_KEY')]
    return HederaLedger.open({ ...rest, network, account, key })
  }

  /** In USD, of a message whose place is waited for; {@link RECORD_USD} less when it is only sent. A topic is 0.01 USD. */
  price(bytes: number): Price {
    const chunks = Math.max(1, Math.ceil(bytes / CHUNK_BYTES))
    const last = bytes - (chunks - 1) * CHUNK_BYTES
    const paid = (chunks - 1) * (CHUNK_BYTES - FREE_BYTES) + Math.max(0, last - FREE_BYTES)
    return { amount: chunks * MESSAGE_USD + paid * BYTE_USD + RECORD_USD, unit: 'USD' }
  }

  /** Makes a topic, for 0.01 USD. The hint is not used: the network names it, and what it holds is nobody's business. */
  createTopic(_hint: string, options: HederaTopicOptions): Promise<string> {
    const { memo = '', own = false, writers = own ? 'us' : 'anyone', changeable = false } = options
    return this.#during(options.signal, 'making a topic', async (signal) => {
      const transaction = new this.#sdk.TopicCreateTransaction({ topicMemo: memo })
      if (writers === 'us') transaction.setSubmitKey(this.#key.publicKey)
      if (changeable) transaction.setAdminKey(this.#key.publicKey)
      const { transactionId } = await this.#execute(transaction, signal, () => transaction.execute(this.#client))
      const { topicId } = await this.#receipt(transactionId, signal)
      if (topicId === null) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'the network does not name the topic')
      return topicId.toString()
    })
  }

  append(topic: string, message: Uint8Array, { signal, wait = 'consensus' }: AppendOptions): Promise<Receipt> {
    const bytes = copyBytes(message)
    const what = `appending to ${topic}`
    return this.#during(signal, what, async (stop) => {
      checkTopic(topic)
      check(bytes.length > 0, 'a message at Hedera has at least one byte')
      if (bytes.length > this.maxMessageBytes) {
        const text = `the message has ${bytes.length} bytes, the limit is ${this.maxMessageBytes}`
        throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', text)
      }
      const sent = await this.#submit(topic, bytes, stop)
      if (wait === 'sent') return {}
      return this.#placeOf(topic, sent, stop)
    })
  }

  async read(
    topic: string,
    options: ReadOptions & { readonly max?: number },
  ): Promise<{ readonly entries: readonly Entry[]; readonly next: number | undefined }> {
    const max = Math.min(options.max ?? PAGE, MAX_PAGE)
    return this.#during(options.signal, `reading ${topic}`, async (signal) => {
      const entries: Entry[] = []
      for await (const entry of this.#entries(topic, { ...options, signal }, 'what is there')) {
        if (entries.length === max) return { entries, next: entry.sequence }
        entries.push(entry)
      }
      return { entries, next: undefined }
    })
  }

  async *subscribe(topic: string, options: ReadOptions): AsyncGenerator<Entry, void, undefined> {
    if (options.signal.aborted) return
    if (this.#closing.signal.aborted) throw closed()
    const over = new AbortController()
    const signal = firstOf(options.signal, this.#closing.signal, over.signal)
    try {
      yield* this.#entries(topic, { ...options, signal }, 'what comes')
    } catch (error) {
      if (!options.signal.aborted) throw hederaError(error, `reading ${topic}`)
    } finally {
      over.abort()
    }
  }

  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return
    this.#closing.abort(closed())
    this.#closeClient()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Sends a message, all chunks of it. */
  async #submit(topic: string, message: Uint8Array, signal: AbortSignal): Promise<TransactionId[]> {
    const { TopicMessageSubmitTransaction, CustomFeeLimit, CustomFixedFee } = this.#sdk
    // One hundred-millionth of an hbar is the least that can be named; naming nothing would mean any amount.
    const most = new CustomFeeLimit({ accountId: this.#account, fees: [new CustomFixedFee({ amount: 1 })] })
    for (let isFirst = true; ; isFirst = false) {
      const transaction = new TopicMessageSubmitTransaction({ topicId: topic, message })
        .setChunkSize(CHUNK_BYTES)
        .setMaxChunks(MAX_CHUNKS)
        .setCustomFeeLimits([most])
      try {
        const responses = await this.#execute(transaction, signal, () => transaction.executeAll(this.#client))
        return responses.map(({ transactionId }) => transactionId)
      } catch (error) {
        const status = statusOf(error)
        // A node took it, its answer was lost, and the next knows it already.
        if (status === 'DUPLICATE_TRANSACTION' && message.length <= CHUNK_BYTES) {
          return [(error as { readonly transactionId: TransactionId }).transactionId]
        }
        // It waited too long, as while this machine slept. If it is our clock, that happens again.
        if (status !== 'TRANSACTION_EXPIRED' || !isFirst) throw error
      }
    }
  }

  /** Where the last of these chunks got its place. */
  async #placeOf(topic: string, sent: readonly TransactionId[], signal: AbortSignal): Promise<Receipt> {
    let last: { sequence: number; hash: Uint8Array; transactionId: TransactionId } | undefined
    for (const transactionId of sent) {
      const { topicSequenceNumber, topicRunningHash: hash } = await this.#receipt(transactionId, signal)
      const sequence = topicSequenceNumber?.toNumber() ?? 0
      if (hash !== null && sequence > (last?.sequence ?? 0)) last = { sequence, hash, transactionId }
    }
    if (last === undefined) {
      throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'the network does not say where the message is')
    }
    const { sequence, hash, transactionId } = last
    const query = new this.#sdk.TransactionRecordQuery({ transactionId }).setMaxAttempts(ASKING_ATTEMPTS)
    const record = await this.#execute(query, signal, () => query.execute(this.#client))
    const nanos = nanosOf(record.consensusTimestamp)
    this.#memoryOf(topic).wrote({ sequence, hash, nanos })
    return { sequence, at: msOf(nanos) }
  }

  #receipt(transactionId: TransactionId, signal: AbortSignal) {
    const query = new this.#sdk.TransactionReceiptQuery({ transactionId }).setMaxAttempts(ASKING_ATTEMPTS)
    return this.#execute(query, signal, () => query.execute(this.#client))
  }

  /** Has the SDK do something, which tries no more once the signal fires. */
  #execute<T>(
    task: Pick<Executable<unknown, unknown, unknown>, 'setMaxAttempts'>,
    signal: AbortSignal,
    run: () => Promise<T>,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        task.setMaxAttempts(0)
        reject(abortError(signal, 'waiting for Hedera'))
      }
      if (signal.aborted) return onAbort()
      whenAborted(signal, onAbort)
      run()
        .then(resolve, reject)
        .finally(() => signal.removeEventListener('abort', onAbort))
    })
  }

  #entries(topic: string, options: ReadOptions, which: 'what is there' | 'what comes') {
    checkTopic(topic)
    const maxChunks = Math.ceil(this.maxMessageBytes / CHUNK_BYTES)
    return entriesOf(
      { sdk: this.#sdk, client: this.#client, memory: this.#memoryOf(topic), maxChunks, visibleMs: this.#visibleMs },
      topic,
      options,
      which,
    )
  }

  #memoryOf(topic: string): TopicMemory {
    const memory = this.#topics.get(topic) ?? new TopicMemory()
    this.#topics.delete(topic)
    this.#topics.set(topic, memory)
    if (this.#topics.size > MAX_TOPICS) this.#topics.delete(this.#topics.keys().next().value!)
    return memory
  }

  /** Does something that ends in time, and whose failures are ours. */
  async #during<T>(signal: AbortSignal, what: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    if (this.#closing.signal.aborted) throw closed()
    try {
      if (signal.aborted) throw abortError(signal, what)
      return await within(OPERATION_MS, tookTooLong(), [signal, this.#closing.signal], work)
    } catch (error) {
      throw hederaError(error, what)
    }
  }
}

function isEntity(text: string): boolean {
  const number = ENTITY.exec(text)?.[1]
  return number !== undefined && BigInt(number) <= MAX_NUMBER
}

function checkTopic(topic: string): void {
  check(isEntity(topic), `${topic.slice(0, 100)} is no topic of Hedera; it looks like 0.0.1234`)
}

function check(isSo: boolean, message: string): void {
  if (!isSo) throw new PeerlineError('ERR_PEERLINE_INVALID', message)
}

function tookTooLong(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_TIMEOUT', `the network did not do it within ${OPERATION_MS / 1_000} s`)
}

function closed(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_CLOSED', 'the ledger was closed')
}
