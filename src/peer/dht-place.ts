/**
 * What a peer does in a DHT: it says there how it may be asked, and looks there for peers that nothing else finds.
 *
 * - What is said is signed anew each time, for a day: who is gone is soon not to be found any more.
 * - Without a place to be asked at, nothing is said.
 */
import { Dht, type DhtSettings, type KnownPeers, signDhtRecord } from '../discovery/index.ts'
import { PeerlineError } from '../errors.ts'
import type { Identity, PeerId, RecordContent } from '../identity/index.ts'

/** ms that a record is valid. */
const LIFE_MS = 86_400_000

export interface DhtPlaceHost {
  readonly identity: Identity
  readonly known: KnownPeers
  /** What may be said now. */
  readonly content: () => Pick<RecordContent, 'addresses' | 'relays' | 'rendezvous' | 'topics'>
}

export class DhtPlace {
  readonly #host: DhtPlaceHost
  readonly #settings: DhtSettings
  readonly #dht: Dht
  #sequence = 0
  /** What was said last. */
  #said: string | undefined

  private constructor(host: DhtPlaceHost, settings: DhtSettings, dht: Dht) {
    this.#host = host
    this.#settings = settings
    this.#dht = dht
  }

  /** @throws PeerlineError as `Dht.open` */
  static async open(host: DhtPlaceHost, settings: DhtSettings): Promise<DhtPlace> {
    return new DhtPlace(host, settings, await Dht.open({ ...settings, identity: host.identity }))
  }

  /** Says what is new; what fails is tried again by itself. */
  tell(): void {
    const { addresses = [], relays = [], rendezvous = [], topics = [] } = this.#host.content()
    const lists = [this.#settings.addresses === true ? addresses : [], relays, rendezvous, topics]
    const said = JSON.stringify(lists)
    if (said === this.#said || (this.#said === undefined && lists.flat().length === 0)) return
    this.#said = said
    this.#dht.publish(() => this.#record()).catch(() => {})
  }

  /** Learns where `to` may be asked, or is. @throws PeerlineError `ERR_PEERLINE_OFFLINE` when there is no record; as `Dht.find` */
  async seek(to: PeerId, signal: AbortSignal): Promise<void> {
    const record = await this.#dht.find(to, { signal })
    if (record === undefined) throw new PeerlineError('ERR_PEERLINE_OFFLINE', `no record of ${to} is in the DHT`)
    this.#host.known.learnRecord(record)
  }

  close(): Promise<void> {
    return this.#dht.close()
  }

  #record(): Uint8Array {
    const now = Date.now()
    this.#sequence = Math.max(now, this.#sequence + 1) // the clock may have been set back
    const content = { ...this.#host.content(), sequence: this.#sequence, expiresAt: now + LIFE_MS }
    return signDhtRecord(this.#host.identity, content, { addresses: this.#settings.addresses === true })
  }
}
