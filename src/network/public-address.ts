/**
 * The address that web services of the user's choice see this machine come from.
 *
 *     single      one service is believed
 *     failover    the first that answers is believed; each has its own time-out, and the next one is asked when it fails
 *     consensus   all are asked at once; an address counts when `quorum` of them say it, from different hosts and networks
 *
 * - IPv4 and IPv6 are asked apart, over themselves.
 * - A service that fails, hangs, lies or answers nonsense costs its own voice and nothing else.
 * - Consensus decides when all have answered or their time is up: the report tells what each said, and who is out of line.
 * - Most voices win when they make a quorum; on a tie, and below the quorum, nobody does.
 * - Settings that contradict each other are refused before anything is asked.
 *
 * The services learn that this machine is there and when it asks, so there are none unless the user names them. They see
 * an address, and no port: whether anybody listens there is for a dial to show.
 */
import { abortError, asPeerlineError, type ErrorCode, invalid, PeerlineError } from '../errors.ts'
import { elect, tally } from './address-quorum.ts'
import { askSource, type SourceAnswer } from './public-address-source.ts'

/** Services that are asked at most: more tell no more, and each is one more that learns of us. */
const MAX_SOURCES = 16
/** ms for one service: name lookup, TCP and TLS over a slow link, and one loss. */
const TIMEOUT_MS = 5_000
/** ms that a service may be given at most: nobody waits longer for a web page. */
const MAX_TIMEOUT_MS = 60_000

const OTHERS = 'Give other sources, or check that this machine reaches the internet over this family.'
const DISAGREE =
  'Leave out the sources that are wrong, or give more of them; this machine may also have several ways out.'

/** Who is asked, and who is believed. */
export interface PublicAddressSettings {
  readonly policy: 'single' | 'failover' | 'consensus'
  /** `http:` or `https:` URLs that answer with the caller's address, as text or as JSON `{"ip": …}`; 16 at most. */
  readonly sources: readonly string[]
  /** Sources that have to say the same, for `consensus` alone. @default a majority of the sources, 2 at least */
  readonly quorum?: number
  /** ms for each source, up to 60,000. @default 5_000 */
  readonly timeoutMs?: number
  /** Believe private and loopback addresses too, in a lab that stands for the internet. @default false */
  readonly anyScope?: boolean
}

/** What one source said, or how it failed. */
export type SourceReport = {
  readonly url: string
  /** How long it took. */
  readonly ms: number
} & ({ readonly address: string; readonly error?: never } | { readonly address?: never; readonly error: PeerlineError })

export interface PublicAddressReport {
  readonly address: string
  readonly family: 4 | 6
  /** Every source that was asked, in the order of the settings. */
  readonly sources: readonly SourceReport[]
  /** Those among them that said another address. */
  readonly outliers: readonly SourceReport[]
}

/** No address was found: what each source said, or how it failed. */
export class PublicAddressError extends PeerlineError {
  readonly sources: readonly SourceReport[]

  constructor(code: ErrorCode, why: string, sources: readonly SourceReport[], recover: string) {
    const said = sources.map(({ url, address, error }) => `${new URL(url).host}: ${address ?? error?.code}`)
    super(code, `${why} (${said.join(', ')})`, { recover })
    this.sources = sources
  }
}

/**
 * The address of one family that this machine is seen from.
 * @throws PeerlineError `ERR_PEERLINE_INVALID` at once, for settings that make no sense; what the signal says.
 *   PublicAddressError `ERR_PEERLINE_UNREACHABLE` when too few sources answered, `ERR_PEERLINE_CORRUPT` when enough did
 *   and they disagree
 */
export async function publicAddress(
  options: PublicAddressSettings & { readonly family: 4 | 6; readonly signal?: AbortSignal | undefined },
): Promise<PublicAddressReport> {
  const { family, signal } = options
  if (family !== 4 && family !== 6) throw invalid(`the family is 4 or 6, not ${family}`)
  const { urls, quorum } = plan(options)
  const asked: Asked[] = []
  if (options.policy === 'consensus') {
    asked.push(...(await Promise.all(urls.map((url) => ask(url, options)))))
  } else {
    for (const url of urls) {
      asked.push(await ask(url, options))
      if (asked.at(-1)?.answer !== undefined) break
    }
  }
  if (signal?.aborted) throw abortError(signal, `asking for our IPv${family} address`)
  const address = decide(asked, quorum, family)
  const sources = asked.map(({ report }) => report)
  const outliers = sources.filter((report) => report.address !== undefined && report.address !== address)
  return { address, family, sources, outliers }
}

/** One source that was asked. */
interface Asked {
  readonly host: string
  readonly report: SourceReport
  readonly answer?: SourceAnswer
}

async function ask(
  url: URL,
  { family, timeoutMs = TIMEOUT_MS, anyScope = false, signal }: Parameters<typeof publicAddress>[0],
): Promise<Asked> {
  const started = performance.now()
  const told = () => ({ url: url.href, ms: Math.round(performance.now() - started) })
  try {
    const answer = await askSource(url, { family, timeoutMs, anyScope, signal })
    return { host: url.hostname, answer, report: { ...told(), address: answer.address } }
  } catch (cause) {
    const error = asPeerlineError(cause, 'ERR_PEERLINE_UNREACHABLE')
    return { host: url.hostname, report: { ...told(), error } }
  }
}

/** The address that most say, when they are enough, and more than for any other. */
function decide(asked: readonly Asked[], quorum: number, family: 4 | 6): string {
  const counted = tally(
    asked.flatMap(({ host, answer }) => {
      return answer === undefined ? [] : { voter: host, network: answer.network, address: answer.address }
    }),
  )
  const won = elect(counted, { quorum, networks: quorum }, 0)
  if (won !== undefined) return won.address
  const reports = asked.map(({ report }) => report)
  const count = counted.networks.size
  if (count < quorum) {
    const few = quorum === 1 ? 'no source' : `${count} sources, of ${quorum} on hosts and networks of their own,`
    throw new PublicAddressError('ERR_PEERLINE_UNREACHABLE', `${few} told our IPv${family} address`, reports, OTHERS)
  }
  const why = `the sources do not agree on our IPv${family} address`
  throw new PublicAddressError('ERR_PEERLINE_CORRUPT', why, reports, DISAGREE)
}

/** The settings, checked. @throws PeerlineError `ERR_PEERLINE_INVALID` */
function plan(settings: PublicAddressSettings): { readonly urls: readonly URL[]; readonly quorum: number } {
  const { policy, sources, timeoutMs = TIMEOUT_MS } = settings
  const wrong = (why: string) => invalid(`public address: ${why}`)
  if (!['single', 'failover', 'consensus'].includes(policy)) throw wrong(`there is no policy ${JSON.stringify(policy)}`)
  if (!(timeoutMs > 0 && timeoutMs <= MAX_TIMEOUT_MS)) throw wrong(`timeoutMs is above 0 and up to ${MAX_TIMEOUT_MS}`)
  if (!(sources.length > 0 && sources.length <= MAX_SOURCES)) throw wrong(`it takes 1 to ${MAX_SOURCES} sources`)
  const urls = sources.map(sourceUrl)
  if (new Set(urls.map(({ href }) => href)).size < urls.length) throw wrong('a source is named twice')
  if (policy === 'single' && urls.length > 1) throw wrong(`the policy single has one source, not ${urls.length}`)
  if (policy !== 'consensus') {
    if (settings.quorum !== undefined) throw wrong('a quorum is for the policy consensus')
    return { urls, quorum: 1 }
  }
  const { quorum = Math.floor(urls.length / 2) + 1 } = settings
  const hosts = new Set(urls.map(({ hostname }) => hostname)).size
  if (!(Number.isInteger(quorum) && quorum >= 2)) throw wrong('a quorum is a whole number, 2 or more')
  if (quorum > hosts) throw wrong(`a quorum of ${quorum} takes sources on as many hosts, and they are on ${hosts}`)
  return { urls, quorum }
}

function sourceUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw invalid('public address: a source is an http or https URL')
  }
  // Reports and messages show where was asked.
  if (url.username !== '' || url.password !== '') throw invalid('public address: a source has no user or password')
  return url
}

/**
 * The addresses of both families, as they were last told.
 *
 * An address stays while nobody answers, and goes when the sources disagree or the network is another one.
 */
export class PublicAddress {
  readonly #settings: PublicAddressSettings
  readonly #signal: AbortSignal | undefined
  #addresses = new Map<4 | 6, string>()
  readonly #latest = new Map<4 | 6, PublicAddressReport | PeerlineError>()
  #refreshing: Promise<void> | undefined

  /**
   * @param options `signal`: ends what is under way
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  constructor(settings: PublicAddressSettings, options: { readonly signal?: AbortSignal } = {}) {
    plan(settings)
    this.#settings = settings
    this.#signal = options.signal
  }

  /** The addresses known now, IPv4 first. */
  get addresses(): readonly string[] {
    return ([4, 6] as const).flatMap((family) => this.#addresses.get(family) ?? [])
  }

  /** What the latest look brought: the report, or why there is none. Nothing before the first one is over. */
  latest(family: 4 | 6): PublicAddressReport | PeerlineError | undefined {
    return this.#latest.get(family)
  }

  /** Asks for both; while that goes on, whoever asks again waits for the same. Never rejects. */
  refresh(): Promise<void> {
    if (this.#refreshing !== undefined) return this.#refreshing
    // A look that began before `forget` writes to what was forgotten.
    const addresses = this.#addresses
    const looks = ([4, 6] as const).map(async (family) => {
      const outcome = await this.#look(family)
      if (addresses !== this.#addresses) return
      this.#latest.set(family, outcome)
      if (!(outcome instanceof PeerlineError)) addresses.set(family, outcome.address)
      else if (outcome.code === 'ERR_PEERLINE_CORRUPT') addresses.delete(family)
    })
    const refreshing = Promise.all(looks).then(() => {
      if (this.#refreshing === refreshing) this.#refreshing = undefined
    })
    this.#refreshing = refreshing
    return refreshing
  }

  async #look(family: 4 | 6): Promise<PublicAddressReport | PeerlineError> {
    try {
      return await publicAddress({ ...this.#settings, family, signal: this.#signal })
    } catch (error) {
      return asPeerlineError(error, 'ERR_PEERLINE_UNREACHABLE')
    }
  }

  /** The network is another one: nothing is known, and what was asked before counts no more. */
  forget(): void {
    this.#addresses = new Map()
    this.#latest.clear()
    this.#refreshing = undefined
  }
}
