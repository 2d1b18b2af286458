/**
 * Rate limits: a token bucket, and a bounded map of them by key.
 */
import { Bucket, type MonotonicClock } from '../bucket.ts'
import { PeerlineError } from '../errors.ts'

export type { MonotonicClock } from '../bucket.ts'

export interface Rate {
  /** Tokens gained per second; 0 never refills. */
  rate: number
  /** Tokens held at most, and at the start. */
  burst: number
}

export interface TokenBucketOptions extends Rate {
  /** @default performance.now */
  now?: MonotonicClock
}

export interface KeyedLimiterOptions extends TokenBucketOptions {
  /** Keys remembered at most. @default 10_000 */
  capacity?: number
}

// Keys. An entry costs about 200 bytes, so 2 MB at most; more distinct sources than this within one refill of a bucket
// is a flood, and a flood of sources is the business of a global bucket.
const DEFAULT_CAPACITY = 10_000

function checkRate({ rate, burst }: Rate): void {
  if (!(Number.isFinite(rate) && rate >= 0)) throw new PeerlineError('ERR_PEERLINE_INVALID', `rate ${rate} is not >= 0`)
  if (!(Number.isFinite(burst) && burst > 0)) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `burst ${burst} is not > 0`)
  }
}

/** Grants bursts of up to `burst`, and `rate` per second in the long run. */
export class TokenBucket extends Bucket {
  /** @throws PeerlineError `ERR_PEERLINE_INVALID` for a rate or a burst that is none */
  constructor(options: TokenBucketOptions) {
    checkRate(options)
    super(options.rate, options.burst, options.now)
  }
}

/**
 * A token bucket per key, for at most `capacity` keys.
 *
 * When full, the key asked for longest ago is forgotten; were it to come back it would find a full bucket. So a flood of
 * made-up keys can win tokens but never memory, and never takes any from an honest key: put a global bucket beside it.
 */
export class KeyedLimiter {
  readonly #options: TokenBucketOptions
  readonly #capacity: number
  // a Map keeps insertion order, and a key is put in again at each use: the first one is the least recently used
  readonly #buckets = new Map<string, TokenBucket>()

  constructor(options: KeyedLimiterOptions) {
    checkRate(options)
    const { capacity = DEFAULT_CAPACITY, ...bucket } = options
    if (!(Number.isSafeInteger(capacity) && capacity > 0)) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `capacity ${capacity} is not a whole number > 0`)
    }
    this.#capacity = capacity
    this.#options = bucket
  }

  /** Keys remembered now; never more than the capacity. */
  get size(): number {
    return this.#buckets.size
  }

  /** Takes `n` tokens of `key`, or none and returns false. */
  take(key: string, n = 1): boolean {
    let bucket = this.#buckets.get(key)
    if (bucket === undefined) {
      if (this.#buckets.size >= this.#capacity) this.#forgetOldest()
      bucket = new TokenBucket(this.#options)
    } else {
      this.#buckets.delete(key)
    }
    this.#buckets.set(key, bucket)
    return bucket.take(n)
  }

  /** Whole milliseconds until `take(key, n)` would succeed; asking does not make the key remembered. */
  msUntil(key: string, n = 1): number {
    return (this.#buckets.get(key) ?? new TokenBucket(this.#options)).msUntil(n)
  }

  #forgetOldest(): void {
    for (const oldest of this.#buckets.keys()) {
      this.#buckets.delete(oldest)
      return
    }
  }
}
