/**
 * A ledger: topics that grow at one end, in an order that all readers agree on. Anybody may read; what is written stays.
 *
 *     append --> consensus: the next sequence of its topic, and a time --> every reader, in order
 *
 * - It orders and keeps messages; it does not say who wrote them: what is in them is signed (envelope.ts), and sealed where it is
 *   not for everybody.
 * - Reading starts where the reader left off, so that who was offline misses nothing.
 * - Time is the ledger's: no clock of a writer or reader counts (clock.ts).
 *
 * Its contract is ledger.compliance.ts, which every back-end passes.
 */

/** One message of a topic, as the ledger has it. */
export interface Entry {
  /** Place in the topic: 1, 2, 3, … without gaps. */
  readonly sequence: number
  /** Consensus time, ms since 1970, with fractions; never before that of the entry before it. */
  readonly at: number
  readonly message: Uint8Array
}

/** What is known of a message that was appended. */
export interface Receipt {
  /** Both are undefined when the ledger took the message and consensus was not waited for. */
  readonly sequence?: number
  readonly at?: number
}

/** What appending costs whoever appends. */
export interface Price {
  readonly amount: number
  /** Such as `USD`. With an amount of 0 it is of no meaning. */
  readonly unit: string
}

export interface AppendOptions {
  readonly signal: AbortSignal
  /** `sent`: resolve when the ledger has taken the message; `consensus`: when it has its place. @default 'consensus' */
  readonly wait?: 'sent' | 'consensus'
}

export interface ReadOptions {
  readonly signal: AbortSignal
  /** The first sequence wanted. @default 1 */
  readonly from?: number
  /** Pass over what came before, in consensus time, ms since 1970. @default nothing is passed over */
  readonly since?: number
}

export interface CreateTopicOptions {
  readonly signal: AbortSignal
  /** Only we are to write to it, where the ledger can see to that. @default false */
  readonly own?: boolean
}

export interface Ledger {
  /** For people and reports: `ledger file /var/lib/…`, `hedera testnet`. */
  readonly name: string
  /**
   * What stands for this ledger where peers tell of their topics; two that use the same ledger have the same: `log:…`,
   * `hedera:testnet`. 1 to 64 characters of `a-z 0-9 : . _ -`.
   */
  readonly id: string
  /** Bytes of the largest message. */
  readonly maxMessageBytes: number
  /** ms from appending until readers have it, as a rule. */
  readonly latencyMs: number
  /** ms by which one reader may have an entry later than another, as a rule. */
  readonly spreadMs: number

  /** What a message of so many bytes costs. */
  price(bytes: number): Price

  /**
   * Makes a topic, where the ledger wants that done, and says what it is called there: 1 to 100 printable ASCII characters.
   * @param hint what it is to be called, where the ledger leaves that to us: then the same hint gives the same topic
   * @throws PeerlineError as {@link append}
   */
  createTopic(hint: string, options: CreateTopicOptions): Promise<string>

  /**
   * Puts a message at the end of a topic.
   * @throws PeerlineError `ERR_PEERLINE_TOO_LARGE`, `ERR_PEERLINE_INVALID` (no such topic), `ERR_PEERLINE_DENIED` (not ours to write),
   *   `ERR_PEERLINE_PAYMENT`, `ERR_PEERLINE_BUSY`, `ERR_PEERLINE_UNREACHABLE`, `ERR_PEERLINE_CLOSED`, or what the signal says
   */
  append(topic: string, message: Uint8Array, options: AppendOptions): Promise<Receipt>

  /**
   * What is there now, oldest first, in pages: `next` is where the page after it begins, undefined after the last one. A topic
   * that nobody has written to is empty.
   * @throws PeerlineError as {@link append}; `ERR_PEERLINE_LEDGER` when the ledger contradicts what it said before
   */
  read(
    topic: string,
    options: ReadOptions & { readonly max?: number },
  ): Promise<{ readonly entries: readonly Entry[]; readonly next: number | undefined }>

  /**
   * What is there, and then what comes, in order and without gaps, until the signal fires: that ends it without an error. It
   * does not try again by itself when the ledger is gone: it throws, and the reader comes back with the sequence it has got to.
   * @throws PeerlineError as {@link read}
   */
  subscribe(topic: string, options: ReadOptions): AsyncIterable<Entry>

  /** Ends everything: reads and subscriptions fail with `ERR_PEERLINE_CLOSED`. */
  close(): Promise<void>
}

/** The topics of one peer at one ledger. */
export interface Topics {
  /** {@link Ledger.id} */
  readonly ledger: string
  /** Others write here, to this peer: offers, sealed. */
  readonly stdin: string
  /** This peer writes here: that it is alive, and its answers, sealed. */
  readonly stdout: string
  /** This peer writes here what has gone wrong, and what to do about it. */
  readonly stderr: string
}
