/**
 * Peers on the local network, found without any server: by multicast DNS, and by beacons where that is dropped.
 *
 *     announce   asks who is there, answers, and tells everyone of this peer
 *     listen     asks who is there, and says nothing of itself: neither its id nor that it is this peer which asks
 *     off        no socket is open
 *
 * What the network learns of a peer that announces itself: its id, and where it listens. It is signed, so that nobody can
 * say it for another; and whoever wants to connect meets the firewall as ever.
 *
 * Records and whom to believe: lan-record.ts. The list: lan-neighbours.ts. When to speak: lan-schedule.ts.
 */
import { PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import type { InterfaceFilter, Interfaces } from '../network/address.ts'
import { BEACON_PORT, Beacons, MAX_BEACON_PORTS } from './lan-beacon.ts'
import { Mdns } from './lan-mdns.ts'
import { type LanLoss, type LanNeighbour, Neighbours } from './lan-neighbours.ts'
import { type OwnRecord, OwnRecords } from './lan-record.ts'
import { LanSchedule } from './lan-schedule.ts'

export type LanMode = 'announce' | 'listen' | 'off'

/** ms between two looks at the interfaces, and at who has not been heard for long. */
const UPKEEP_MS = 5_000

/** Times that news of ourselves are told unasked: a datagram may be lost (RFC 6762 section 8.3). */
const ANNOUNCEMENTS = 2

export interface LanDiscoveryOptions {
  /** Who this peer is: it is told when it announces itself, and never found. @default nobody, who cannot announce itself */
  readonly identity?: Identity
  /** Where this peer listens, `host:port` as it was bound. Nobody is told of a peer that listens nowhere. @default nowhere */
  readonly listening?: () => readonly string[]
  /** @default 'announce' with an identity, else 'listen' */
  readonly mode?: LanMode
  /** Use multicast DNS. @default true */
  readonly mdns?: boolean
  /** UDP ports of beacons, the same for all peers of a network; none: no beacons. @default [61457] */
  readonly beaconPorts?: readonly number[]
  /** Which interfaces; loopback only when asked. @default all but bridges and tunnels */
  readonly interfaces?: InterfaceFilter & { readonly loopback?: boolean }
  /** What to look at. @default os.networkInterfaces */
  readonly listInterfaces?: () => Interfaces
  /** @internal Instead of 5353. */
  readonly mdnsPort?: number
}

export type LanDiscoveryEvents = {
  /** A peer is there, or has said something new of itself. */
  found: LanNeighbour
  /** It said goodbye, or was not heard for 210 s, or its record has ended, or there were too many. */
  lost: { readonly peer: PeerId; readonly reason: LanLoss }
}

export class LanDiscovery extends TypedEventTarget<LanDiscoveryEvents> {
  readonly #options: LanDiscoveryOptions
  readonly #neighbours: Neighbours
  readonly #schedule: LanSchedule
  readonly #records: OwnRecords | undefined
  #mode: LanMode
  #mdns: Mdns | undefined
  #beacons: Beacons | undefined
  #upkeep: NodeJS.Timeout | undefined
  /** What we said last of ourselves, and how often it is yet to be told unasked. */
  #told: OwnRecord | undefined
  #announcements = 0
  /** One change of mode after the other. */
  #changing: Promise<void> = Promise.resolve()
  #closed = false

  private constructor(options: LanDiscoveryOptions) {
    super()
    const { identity, listening = () => [] } = options
    this.#options = options
    this.#mode = 'off'
    this.#records = identity === undefined ? undefined : new OwnRecords(identity, listening)
    this.#neighbours = new Neighbours({
      own: identity?.peerId,
      onFound: (neighbour) => {
        this.#schedule.hurry()
        this.emit('found', neighbour)
      },
      onLost: (peer, reason) => this.emit('lost', { peer, reason }),
    })
    this.#schedule = new LanSchedule({ onTurn: () => this.#onTurn(), others: () => this.#neighbours.size })
  }

  /**
   * Begins to look for peers, and to be found. It does not keep the process alive.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`; `ERR_PEERLINE_ADDRESS_IN_USE`, `ERR_PEERLINE_UNSUPPORTED` when neither multicast
   *   DNS nor a port of beacons is to be had
   */
  static async open(options: LanDiscoveryOptions = {}): Promise<LanDiscovery> {
    const { identity, mode = identity === undefined ? 'listen' : 'announce', beaconPorts = [] } = options
    if (
      beaconPorts.length > MAX_BEACON_PORTS ||
      !beaconPorts.every((port) => Number.isInteger(port) && port > 0 && port < 65_536)
    ) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `beacons have at most ${MAX_BEACON_PORTS} ports, from 1 to 65535`)
    }
    const discovery = new LanDiscovery(options)
    await discovery.setMode(mode)
    return discovery
  }

  get mode(): LanMode {
    return this.#mode
  }

  /** What works here: nothing when it is off, and less than all where another program keeps a port to itself. */
  get media(): readonly ('mdns' | 'beacon')[] {
    return [
      ...(this.#mdns === undefined ? [] : (['mdns'] as const)),
      ...(this.#beacons === undefined ? [] : (['beacon'] as const)),
    ]
  }

  /** Who is there. */
  get peers(): readonly LanNeighbour[] {
    return this.#neighbours.list
  }

  /**
   * Announces this peer from now on, or only listens, or does neither. Who stops announcing says goodbye.
   * @throws PeerlineError as {@link open}
   */
  setMode(mode: LanMode): Promise<void> {
    if (mode === 'announce' && this.#records === undefined) {
      return Promise.reject(new PeerlineError('ERR_PEERLINE_INVALID', 'who announces itself needs an identity'))
    }
    const change = this.#changing.then(() => this.#change(mode))
    this.#changing = change.catch(() => {})
    return change
  }

  /** The network is another one, or may be: looks at the interfaces, and speaks up at once. Never rejects. */
  async refresh(): Promise<void> {
    if (this.#mode === 'off' || this.#closed) return
    await Promise.all([this.#mdns?.refresh(), this.#beacons?.refresh()])
    if (this.mode === 'off') return // meanwhile
    this.#announcements = ANNOUNCEMENTS
    this.#schedule.hurry()
  }

  /** Whom this peer wanted it has a session with: speaks up once a minute from now on, until something new is heard. */
  settle(): void {
    this.#schedule.settle()
  }

  /** Says goodbye, and frees everything. */
  async close(): Promise<void> {
    if (!this.#closed) this.#changing = this.#changing.then(() => this.#change('off'))
    this.#closed = true
    this.#schedule.stop()
    await this.#changing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #change(mode: LanMode): Promise<void> {
    const before = this.#mode
    if (mode === before || (this.#closed && mode !== 'off')) return
    // From here on nobody is told of us who did not know.
    if (before === 'announce') this.#mode = 'listen'
    if (before === 'announce') await this.#sayGoodbye()
    if (mode === 'off') await this.#stop()
    if (before === 'off') await this.#start()
    this.#mode = mode
    if (mode === 'off') return
    this.#announcements = ANNOUNCEMENTS
    this.#schedule.hurry()
  }

  async #start(): Promise<void> {
    const {
      interfaces: filter = {},
      listInterfaces,
      mdns = true,
      beaconPorts = [BEACON_PORT],
      mdnsPort,
    } = this.#options
    const common = {
      filter,
      ...(listInterfaces === undefined ? {} : { interfaces: listInterfaces }),
      own: (locals: Parameters<OwnRecords['current']>[0]) => this.#own(locals),
    }
    const [byMdns, byBeacons] = await Promise.allSettled([
      mdns
        ? Mdns.open({
            ...common,
            ...{ peer: this.#options.identity?.peerId, port: mdnsPort },
            recent: (ms) => this.#neighbours.recentByMdns(ms),
            onRecord: (record, from, locals, claimed) =>
              this.#neighbours.take({ record, from, locals, claimed, by: 'mdns' }),
          })
        : undefined,
      beaconPorts.length > 0
        ? Beacons.open({
            ...common,
            ports: beaconPorts,
            others: () => this.#neighbours.size,
            onRecord: (record, from, locals) => this.#neighbours.take({ record, from, locals, by: 'beacon' }),
          })
        : undefined,
    ])
    this.#mdns = byMdns.status === 'fulfilled' ? byMdns.value : undefined
    this.#beacons = byBeacons.status === 'fulfilled' ? byBeacons.value : undefined
    const failed = [byMdns, byBeacons].find((one) => one.status === 'rejected')
    if (this.media.length === 0 && failed !== undefined) throw failed.reason
    this.#upkeep = setInterval(() => {
      this.#neighbours.sweep()
      void this.#mdns?.refresh()
      void this.#beacons?.refresh()
    }, UPKEEP_MS)
    this.#upkeep.unref()
  }

  async #stop(): Promise<void> {
    clearInterval(this.#upkeep)
    const open = [this.#mdns, this.#beacons]
    this.#mdns = undefined
    this.#beacons = undefined
    await Promise.all(open.map((one) => one?.close()))
  }

  /** What we say of ourselves. */
  #own(locals: Parameters<OwnRecords['current']>[0]): OwnRecord | undefined {
    if (this.#mode !== 'announce') return undefined
    const own = this.#records?.current(locals)
    if (own === this.#told) return own
    this.#told = own
    this.#announcements = ANNOUNCEMENTS
    this.#schedule.hurry()
    return own
  }

  #onTurn(): void {
    this.#beacons?.send()
    if (this.#announcements > 0) {
      this.#announcements--
      this.#mdns?.announce()
    }
    this.#mdns?.browse()
  }

  async #sayGoodbye(): Promise<void> {
    const told = this.#told
    this.#told = undefined
    if (told === undefined || this.#records === undefined) return
    const goodbye = this.#records.goodbye()
    this.#mdns?.sendGoodbye(told, goodbye)
    this.#beacons?.sendGoodbye(goodbye)
    // Node gives a datagram to the system in the same turn, but not before its end; a socket that is closed would drop it.
    await new Promise((resolve) => setImmediate(resolve))
  }
}
