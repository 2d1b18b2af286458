/**
 * A stand-in for a Hedera network on loopback: two consensus nodes and a mirror node, over gRPC, made from the SDK's own protobuf
 * definitions, so that the SDK itself is under test.
 *
 *     SDK --submitMessage--> precheck --> consensus: time, sequence, running hash --mirrorMs--> subscribers
 *
 * It holds transactions to the network's rules: the node, the valid time, the signature of the payer (checked with node:crypto, not with
 * the SDK), duplicates, the balance, topics, submit keys, chunks, custom fees. The mirror node does as
 * `TopicMessageServiceImpl` of hiero-mirror-node: history, then what comes; ends at the limit, and at an end time that is past.
 */
import { createHash, createPublicKey, verify } from 'node:crypto'
import * as grpc from '@grpc/grpc-js'
import { com, proto } from '@hiero-ledger/proto'

type Body = proto.ITransactionBody
const { ResponseCodeEnum: Code } = proto
const { ConsensusTopicQuery, ConsensusTopicResponse } = com.hedera.mirror.api.proto

/** The accounts of the nodes, and that of whoever pays. */
const NODES = [3, 4]
export const PAYER = 1_001

/** s that a transaction is valid for. */
const VALID_SECONDS = 120

/** Hundred-millionths of an hbar for a transaction and for a record. */
export const FEE = 600_000
const RECORD_FEE = 100_000

const NS = 1_000_000_000n

/** The number of a protobuf Long, or of nothing. */
const num = (long: { toString(): string } | null | undefined): number => Number(long?.toString() ?? 0)

export type Status = keyof typeof proto.ResponseCodeEnum

export interface StandInEntry {
  nanos: bigint
  readonly sequence: number
  hash: Uint8Array
  message: Uint8Array
  readonly chunkInfo: proto.IConsensusMessageChunkInfo | null
  readonly visibleAt: number
}

interface StandInTopic {
  readonly entries: StandInEntry[]
  readonly memo: string
  submitKey: Uint8Array | undefined
  /** What whoever made it takes for a message, hundred-millionths of an hbar. */
  customFee: number
  hasAdminKey: boolean
  /** When the mirror node knows it, by performance.now(). */
  visibleAt: number
}

interface Outcome {
  readonly receipt: proto.ITransactionReceipt
  readonly nanos: bigint
}

interface Effect {
  readonly status: Status
  readonly receipt?: proto.ITransactionReceipt
  readonly nanos?: bigint
}

export class StandIn {
  /** `host:port` of each. */
  readonly nodes: string[] = []
  mirror = ''
  balance = 100_000_000_000
  /** ms from taking a transaction to consensus, and from there to the mirror node. */
  consensusMs = 0
  mirrorMs = 0
  /** ns that the network's clock is ahead of this machine's. */
  aheadNanos = 0n
  /** s that an end time must be past when it was not at first, before the mirror node ends a stream. */
  endTimeSeconds = 30
  /** What the next transactions are answered, each once; `hang`: nothing at all; `lost`: it is taken, and the answer does not arrive. */
  readonly answers: (Status | 'hang' | 'lost' | 'unavailable')[] = []
  /** What becomes of the next transactions at consensus, each once. */
  readonly outcomes: Status[] = []
  /** What the next records cost. */
  recordFee = RECORD_FEE
  /** Called for each entry that the mirror node is about to send; what it returns is sent in its place. */
  onSend: ((entry: StandInEntry, sentBefore: number) => (StandInEntry | Uint8Array)[]) | undefined
  /** Ends each stream with this gRPC status after so many entries. */
  cut: { readonly after: number; readonly code: number } | undefined
  /** What was asked. */
  readonly asked = { transactions: 0, receipts: 0, records: 0, streams: 0 }
  /** Bytes of each transaction that was taken, and queries to the mirror node. */
  readonly sizes: number[] = []
  readonly queries: com.hedera.mirror.api.proto.IConsensusTopicQuery[] = []
  readonly paid: number[] = []
  readonly topics = new Map<number, StandInTopic>()
  readonly #publicKey: Uint8Array
  readonly #outcomes = new Map<string, Outcome | undefined>()
  readonly #changed = new Set<() => void>()
  readonly #timers = new Set<NodeJS.Timeout>()
  #servers: grpc.Server[] = []
  #lastNanos = 0n
  #nextTopic = 5_000

  /** @param publicKey the payer's, Ed25519, 32 bytes */
  constructor(publicKey: Uint8Array) {
    this.#publicKey = publicKey
  }

  async start(): Promise<this> {
    for (const _ of NODES) {
      const address = await this.#serve({
        '/proto.ConsensusService/createTopic': this.#transaction,
        '/proto.ConsensusService/submitMessage': this.#transaction,
        '/proto.CryptoService/getTransactionReceipts': this.#receipt,
        '/proto.CryptoService/getTxRecordByTxID': this.#record,
      })
      this.nodes.push(address)
    }
    this.mirror = await this.#serve({ '/com.hedera.mirror.api.proto.ConsensusService/subscribeTopic': this.#subscribe })
    return this
  }

  /** The mirror node goes away, and is back at the same place when this is called again. */
  async stopMirror(): Promise<() => Promise<void>> {
    this.#servers.pop()!.forceShutdown()
    return async () => {
      const subscribe = { '/com.hedera.mirror.api.proto.ConsensusService/subscribeTopic': this.#subscribe }
      await this.#serve(subscribe, this.mirror)
    }
  }

  async stop(): Promise<void> {
    for (const timer of this.#timers) clearTimeout(timer)
    for (const server of this.#servers) server.forceShutdown()
  }

  /** How an SDK finds it. */
  get network(): { name: string; nodes: { [address: string]: string }; mirrors: string[] } {
    const nodes = Object.fromEntries(this.nodes.map((address, i) => [address, `0.0.${NODES[i]}`]))
    return { name: 'stand-in', nodes, mirrors: [this.mirror] }
  }

  /** Another writer's entry. */
  put(topic: string, message: Uint8Array, chunkInfo: proto.IConsensusMessageChunkInfo | null = null): StandInEntry {
    return this.#append(Number(topic.split('.')[2]), message, chunkInfo)
  }

  topic(id: string): StandInTopic {
    return this.topics.get(Number(id.split('.')[2]))!
  }

  async #serve(methods: { readonly [path: string]: unknown }, address = '127.0.0.1:0'): Promise<string> {
    const server = new grpc.Server()
    const raw = (value: Buffer) => value
    for (const [path, handler] of Object.entries(methods)) {
      const definition = {
        [path]: {
          path,
          requestStream: false,
          responseStream: path.endsWith('subscribeTopic'),
          ...{ requestSerialize: raw, requestDeserialize: raw, responseSerialize: raw, responseDeserialize: raw },
        },
      }
      server.addService(definition, { [path]: handler as grpc.UntypedHandleCall })
    }
    const port = await new Promise<number>((resolve, reject) => {
      server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, bound) =>
        error ? reject(error) : resolve(bound),
      )
    })
    this.#servers.push(server)
    return `127.0.0.1:${port}`
  }

  #later(ms: number, what: () => void): void {
    if (ms === 0) return what()
    const timer = setTimeout(() => {
      this.#timers.delete(timer)
      what()
    }, ms)
    this.#timers.add(timer)
  }

  #now(): bigint {
    return BigInt(Date.now()) * 1_000_000n + this.aheadNanos
  }

  readonly #transaction = (call: { request: Buffer }, reply: grpc.sendUnaryData<Buffer>): void => {
    this.asked.transactions++
    const injected = this.answers.shift()
    if (injected === 'hang') return
    if (injected === 'unavailable') return reply({ code: grpc.status.UNAVAILABLE, details: 'as the test wants it' })
    const { signedTransactionBytes } = proto.Transaction.decode(call.request)
    const signed = proto.SignedTransaction.decode(signedTransactionBytes)
    const body = proto.TransactionBody.decode(signed.bodyBytes)
    const status = injected !== undefined && injected !== 'lost' ? injected : this.#precheck(body, signed)
    const answer = () =>
      reply(null, Buffer.from(proto.TransactionResponse.encode({ nodeTransactionPrecheckCode: Code[status] }).finish()))
    if (status !== 'OK') return answer()
    this.sizes.push(call.request.length)
    const id = idOf(body.transactionID)
    this.#outcomes.set(id, undefined)
    this.#later(this.consensusMs, () => this.#handle(id, body, signersOf(signed)))
    if (injected !== 'lost') answer()
    else reply({ code: grpc.status.UNAVAILABLE, details: 'as the test wants it' })
  }

  /** What a node checks before it takes a transaction. */
  #precheck(body: Body, signed: proto.ISignedTransaction): Status {
    const start = nanosOf(body.transactionID?.transactionValidStart)
    if (!NODES.includes(num(body.nodeAccountID?.accountNum))) return 'INVALID_NODE_ACCOUNT'
    if (start > this.#now()) return 'INVALID_TRANSACTION_START'
    if (start + BigInt(VALID_SECONDS) * NS < this.#now()) return 'TRANSACTION_EXPIRED'
    if (this.#outcomes.has(idOf(body.transactionID))) return 'DUPLICATE_TRANSACTION'
    if (num(body.transactionID?.accountID?.accountNum) !== PAYER) return 'PAYER_ACCOUNT_NOT_FOUND'
    if (!this.#isSigned(signed)) return 'INVALID_SIGNATURE'
    if (this.balance < FEE) return 'INSUFFICIENT_PAYER_BALANCE'
    if (num(body.transactionFee) < FEE) return 'INSUFFICIENT_TX_FEE'
    const submit = body.consensusSubmitMessage
    if (submit && !submit.message?.length) return 'INVALID_TOPIC_MESSAGE'
    if (submit && !this.topics.has(num(submit.topicID?.topicNum))) return 'INVALID_TOPIC_ID'
    return 'OK'
  }

  /** Whether the payer's key has signed exactly these bytes. */
  #isSigned({ bodyBytes, sigMap }: proto.ISignedTransaction): boolean {
    const x = Buffer.from(this.#publicKey).toString('base64url')
    const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' })
    return (sigMap?.sigPair ?? []).some(({ ed25519 }) => ed25519 != null && verify(null, bodyBytes!, key, ed25519))
  }

  /** What the network does with a transaction at consensus. */
  #handle(id: string, body: Body, signers: readonly Uint8Array[]): void {
    this.balance -= FEE
    const injected = this.outcomes.shift()
    const { status, receipt, nanos }: Effect =
      injected !== undefined ? { status: injected } : this.#effect(body, signers)
    this.#outcomes.set(id, { receipt: { ...receipt, status: Code[status] }, nanos: nanos ?? this.#nextNanos() })
  }

  #effect(body: Body, signers: readonly Uint8Array[]): Effect {
    const create = body.consensusCreateTopic
    if (create) {
      const topicNum = this.#nextTopic++
      const visibleAt = performance.now() + this.mirrorMs
      const submitKey = create.submitKey?.ed25519 ?? undefined
      const hasAdminKey = create.adminKey != null
      this.topics.set(topicNum, {
        entries: [],
        memo: create.memo ?? '',
        submitKey,
        customFee: 0,
        hasAdminKey,
        visibleAt,
      })
      return { status: 'SUCCESS', receipt: { topicID: { topicNum: longOf(topicNum) } } }
    }
    const submit = body.consensusSubmitMessage!
    const topicNum = num(submit.topicID?.topicNum)
    const { submitKey, customFee } = this.topics.get(topicNum)!
    if (submit.message!.length > 1_024) return { status: 'MESSAGE_SIZE_TOO_LARGE' }
    const isOurs = submitKey === undefined || signers.some((key) => Buffer.compare(key, submitKey) === 0)
    if (!isOurs) return { status: 'INVALID_SIGNATURE' }
    const chunk = submit.chunkInfo
    if (chunk && !(chunk.number! >= 1 && chunk.number! <= chunk.total!)) return { status: 'INVALID_CHUNK_NUMBER' }
    if (chunk && num(chunk.initialTransactionID?.accountID?.accountNum) !== PAYER) {
      return { status: 'INVALID_CHUNK_TRANSACTION_ID' }
    }
    if (customFee > 0 && body.maxCustomFees?.length) {
      const most = Math.max(...body.maxCustomFees.flatMap(({ fees }) => (fees ?? []).map(({ amount }) => num(amount))))
      if (most < customFee) return { status: 'MAX_CUSTOM_FEE_LIMIT_EXCEEDED' }
    }
    this.balance -= customFee
    const entry = this.#append(topicNum, submit.message!, chunk ?? null)
    const receipt = { topicSequenceNumber: longOf(entry.sequence), topicRunningHash: entry.hash }
    return { status: 'SUCCESS', receipt, nanos: entry.nanos }
  }

  #nextNanos(): bigint {
    const now = this.#now()
    this.#lastNanos = now > this.#lastNanos ? now : this.#lastNanos + 1_000n
    return this.#lastNanos
  }

  #append(topicNum: number, message: Uint8Array, chunkInfo: proto.IConsensusMessageChunkInfo | null): StandInEntry {
    const { entries } = this.topics.get(topicNum)!
    const nanos = this.#nextNanos()
    const hash = createHash('sha384')
      .update(entries.at(-1)?.hash ?? new Uint8Array(48))
      .update(`${topicNum} ${nanos}`)
      .update(message)
      .digest()
    const visibleAt = performance.now() + this.mirrorMs
    const entry = { nanos, sequence: entries.length + 1, hash, message: Buffer.from(message), chunkInfo, visibleAt }
    entries.push(entry)
    this.#later(this.mirrorMs, () => this.#wake())
    return entry
  }

  #wake(): void {
    for (const changed of this.#changed) changed()
  }

  readonly #receipt = (call: { request: Buffer }, reply: grpc.sendUnaryData<Buffer>): void => {
    this.asked.receipts++
    const id = idOf(proto.Query.decode(call.request).transactionGetReceipt?.transactionID)
    const outcome = this.#outcomes.get(id)
    const header = { nodeTransactionPrecheckCode: this.#outcomes.has(id) ? Code.OK : Code.RECEIPT_NOT_FOUND }
    const receipt = outcome?.receipt ?? { status: Code.UNKNOWN }
    reply(null, Buffer.from(proto.Response.encode({ transactionGetReceipt: { header, receipt } }).finish()))
  }

  readonly #record = (call: { request: Buffer }, reply: grpc.sendUnaryData<Buffer>): void => {
    const { header, transactionID } = proto.Query.decode(call.request).transactionGetRecord!
    const isCost = header!.responseType === proto.ResponseType.COST_ANSWER
    const outcome = this.#outcomes.get(idOf(transactionID))
    const answer = (status: Status) => {
      const responseType = header!.responseType ?? null
      const transactionRecord =
        outcome === undefined || isCost
          ? null
          : { receipt: outcome.receipt, transactionID: transactionID!, consensusTimestamp: timestampOf(outcome.nanos) }
      const cost = longOf(this.recordFee)
      const answered = { header: { nodeTransactionPrecheckCode: Code[status], responseType, cost }, transactionRecord }
      reply(null, Buffer.from(proto.Response.encode({ transactionGetRecord: answered }).finish()))
    }
    if (isCost) return answer('OK')
    this.asked.records++
    const signed = proto.SignedTransaction.decode(header!.payment!.signedTransactionBytes!)
    const transfers = proto.TransactionBody.decode(signed.bodyBytes).cryptoTransfer?.transfers?.accountAmounts ?? []
    const amount = transfers
      .map((one) => (NODES.includes(num(one.accountID?.accountNum)) ? num(one.amount) : 0))
      .reduce((a, b) => a + b, 0)
    if (!this.#isSigned(signed)) return answer('INVALID_SIGNATURE')
    if (amount < this.recordFee) return answer('INSUFFICIENT_TX_FEE')
    this.paid.push(amount)
    answer(outcome === undefined ? 'RECORD_NOT_FOUND' : 'OK')
  }

  readonly #subscribe = (call: grpc.ServerWritableStream<Buffer, Buffer>): void => {
    this.asked.streams++
    const query = ConsensusTopicQuery.decode(call.request)
    this.queries.push(query)
    const refuse = (code: number, details: string) => call.emit('error', { code, details })
    const topic = this.topics.get(num(query.topicID?.topicNum))
    if (topic === undefined || topic.visibleAt > performance.now())
      return void refuse(grpc.status.NOT_FOUND, 'no such topic')
    const from = query.consensusStartTime ? nanosOf(query.consensusStartTime) : this.#now()
    const until = query.consensusEndTime ? nanosOf(query.consensusEndTime) : undefined
    if (from > this.#now())
      return void refuse(grpc.status.INVALID_ARGUMENT, 'Start time must be before the current time')
    if (until !== undefined && until <= from) {
      return void refuse(grpc.status.INVALID_ARGUMENT, 'End time must be after start time')
    }
    const limit = num(query.limit) || Number.POSITIVE_INFINITY
    let [next, sent] = [0, 0]
    let isOver = false
    const end = () => {
      isOver = true
      this.#changed.delete(go)
      call.end()
    }
    const go = () => {
      for (; !isOver && next < topic.entries.length; next++) {
        const entry = topic.entries[next]!
        if (entry.visibleAt > performance.now()) return
        if (entry.nanos < from) continue
        if (until !== undefined && entry.nanos >= until) return end()
        for (const one of this.onSend?.(entry, sent) ?? [entry]) {
          call.write(Buffer.from(one instanceof Uint8Array ? one : responseOf(one)))
          sent++
        }
        if (this.cut !== undefined && sent >= this.cut.after) {
          if (this.cut.code === grpc.status.OK) return end()
          isOver = true
          this.#changed.delete(go)
          return void refuse(this.cut.code, 'as the test wants it')
        }
        if (sent >= limit) return end()
      }
    }
    go()
    if (isOver) return
    if (until !== undefined && until <= this.#now()) return end()
    if (until !== undefined) this.#later(Number((until - this.#now()) / 1_000_000n) + this.endTimeSeconds * 1_000, end)
    this.#changed.add(go)
    call.on('cancelled', () => this.#changed.delete(go))
  }
}

function responseOf({ nanos, message, hash, sequence, chunkInfo }: StandInEntry): Uint8Array {
  const consensusTimestamp = timestampOf(nanos)
  const sequenceNumber = longOf(sequence)
  return ConsensusTopicResponse.encode({
    consensusTimestamp,
    message,
    runningHash: hash,
    sequenceNumber,
    chunkInfo,
  }).finish()
}

function signersOf({ sigMap }: proto.ISignedTransaction): Uint8Array[] {
  return (sigMap?.sigPair ?? []).map(({ pubKeyPrefix }) => pubKeyPrefix ?? new Uint8Array())
}

function idOf(id: proto.ITransactionID | null | undefined): string {
  return `${num(id?.accountID?.accountNum)}@${nanosOf(id?.transactionValidStart)}`
}

function nanosOf(time: proto.ITimestamp | null | undefined): bigint {
  return BigInt(time?.seconds?.toString() ?? 0) * NS + BigInt(time?.nanos ?? 0)
}

function timestampOf(nanos: bigint): proto.ITimestamp {
  return { seconds: longOf(nanos / NS), nanos: Number(nanos % NS) }
}

type Long = NonNullable<proto.ITimestamp['seconds']>
const fromText = (proto.Timestamp.create().seconds.constructor as unknown as { fromString(text: string): Long })
  .fromString

function longOf(value: number | bigint): Long {
  return fromText(value.toString())
}
