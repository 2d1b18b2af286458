/** What a peer is made with, and how it dials. */
import type { BirthdayBudget, SignalingOrder, Via, WebRtcSetup } from '../connect/index.ts'
import type { DhtSettings, LanMode, Store } from '../discovery/index.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import type { QuorumSettings } from '../network/address-quorum.ts'
import type { PublicAddressSettings } from '../network/public-address.ts'
import type { FramedPath } from '../path/index.ts'
import type { FirewallOptions } from '../policy/firewall.ts'
import type { IdentifierPolicy } from '../policy/identifier-policy.ts'
import type { ConnectionLimitsOptions } from '../policy/peer-limits.ts'
import type { TrustOptions } from '../policy/trust.ts'
import type { EarlyAsk } from '../protocol/early.ts'
import type { PeerExchangeOptions, RequestOptions } from '../protocol/index.ts'
import type { PathTiming, SessionRate } from '../session/index.ts'
import type { Signaling } from '../signaling/index.ts'
import type { Setting, TaskOrigin, TaskQueueOptions } from '../tasks/index.ts'
import type { LedgerSettings } from './ledger-link.ts'
import type { ChosenRelay } from './relays.ts'
import type { BootstrapSettings } from './standing.ts'

/** Takes settings that a task brings; the names and values are whatever was sent. What it throws is the task's failure. */
export type SettingsHandler = (
  settings: Readonly<Record<string, Setting>>,
  context: { readonly origin: TaskOrigin; readonly signal: AbortSignal },
) => void | Promise<void>

/** How many connections there may be, and how much each may have going on. */
export interface PeerLimits extends ConnectionLimitsOptions {
  /** Streams open at once in one session, in each direction. @default 256 */
  readonly streams?: number
  /** Bytes of streams and datagrams per second in one session, from the other side and to it. @default as many as come */
  readonly rate?: SessionRate
  /** Bytes of memory that all sessions share, beside about 1 MiB that each has of its own. @default 536_870_912 */
  readonly memoryBytes?: number
}

export interface PeerOptions {
  /** Who this peer is. @default a new identity for as long as the peer lives */
  readonly identity?: Identity
  /** A key file to read, and to make when it is missing; `~` is the home directory. Instead of `identity`. */
  readonly identityFile?: string
  /** Servers through which others are found, and find us: `ws://host:port#<peer id>`, `wss:`, `tcp:`. @default none */
  readonly rendezvous?: readonly string[]
  /** `host:port` to listen on for direct paths; port 0 is any free one. @default every interface, a free port */
  readonly listen?: readonly string[]
  /** Who may connect, and who may do what. @default nobody may connect */
  readonly firewall?: FirewallOptions
  /**
   * Where it is kept which peers are known, what was decided about them since, and who is banned: `new FileStore(path)`, or
   * another. @default nowhere: it is forgotten when the peer ends
   */
  readonly store?: Store
  /** Whom this peer trusts of those that come to it, and what the others may do; with it, `firewall` takes no `ask`. @default off */
  readonly trust?: TrustOptions
  /** Which nodes (the rendezvous) it may come in by, and who may give it orders. @default any node, and nobody */
  readonly bootstrap?: BootstrapSettings
  /** Who may set the name of this peer, and how often. @default 'local-and-remote': itself, and its authorities */
  readonly naming?: IdentifierPolicy
  /** Takes settings that a task brings. @default such tasks fail */
  readonly onSettings?: SettingsHandler
  /** The queue of tasks. @default 1,000 tasks, 4 at a time */
  readonly tasks?: Omit<TaskQueueOptions, 'execute' | 'random'>
  /** How many connections there may be, of whom and from where, and how much each may have going on. */
  readonly limits?: PeerLimits
  /** Be listed at the rendezvous, so that others can dial; false: only dial. @default true */
  readonly listed?: boolean
  /** Ledgers through which others are found, and find us, without any server. @default none */
  readonly ledgers?: readonly LedgerSettings[]
  /**
   * Peers that nothing else finds are sought in a DHT by their id alone, and this one can be found there, without any server. It needs
   * the package `bittorrent-dht`; `{}` is the public DHT of BitTorrent. What is published is public to who knows the peer id:
   * rendezvous and topics, addresses only with `addresses: true`. Not with `via: 'relay'`. @default none
   */
  readonly dht?: DhtSettings
  /**
   * Which media carry an offer first, where there are several: those that are free, and those that cost something only when the
   * others do not find the peer; or all at once. What each did, and cost, is in `session.why().signaling`.
   * @default 'cheapest-first'
   */
  readonly signaling?: SignalingOrder
  /**
   * Ways that sessions may use, whoever dials, unless a dial says otherwise. `relay`: no address of this peer is ever
   * told to anybody but its rendezvous. @default 'auto'
   */
  readonly via?: Via
  /** Use UDP, where the optional package `udx-native` is installed. @default true */
  readonly udp?: boolean
  /** Find peers on the local network by multicast. @default true with a rendezvous that is not on this machine */
  readonly lan?: boolean
  /**
   * What is told on the local network, where `lan` is on. `announce`: who we are and where we listen, by mDNS/DNS-SD and beacons, to
   * everybody there; `listen`: nothing, but who else is there is heard; `off`: neither. A peer that is dialled by its id is found
   * all the same, and nobody learns who that is. @default 'listen'
   */
  readonly announce?: LanMode
  /** Ask the router to map our ports (UPnP, NAT-PMP, PCP). @default as `lan` */
  readonly portMapping?: boolean
  /** STUN servers (`host:port`) to ask for our address, besides those of the rendezvous. @default none */
  readonly reflectors?: readonly string[]
  /**
   * Web services to ask for our public address: where the router forwards the port that we listen on, by its owner's hand or
   * because the address is mapped as a whole, others are told of it. They learn that we are here. @default none
   */
  readonly publicAddress?: PublicAddressSettings
  /** How many peers have to agree on our address where neither rendezvous nor reflector tells it. @default 3, in 2 networks */
  readonly addressQuorum?: QuorumSettings
  /**
   * WebRTC, where `node-datachannel` is installed: tried when nothing else is direct and there are `iceServers`, or with
   * `via: 'webrtc'`. Give STUN and TURN servers of your own here; false switches it off. @default no servers
   */
  readonly webrtc?: Partial<WebRtcSetup> | false
  /** The search for the way to a NAT with random ports: its budget, or false for none. @default 256 sockets, 1,000 probes/s, 5 s */
  readonly birthday?: BirthdayBudget | false
  /**
   * Pass offers and answers, unread, between peers that this one has sessions with; a function says for which two.
   * @default false
   */
  readonly introduce?: boolean | ((from: PeerId, to: PeerId) => boolean)
  /** List peers that ask for it, and hand out their signed records: what a bootstrap node does. @default false */
  readonly handOutPeers?: boolean | PeerExchangeOptions
  /**
   * Connect to peers of the address book that may introduce us, when a peer is found in no other way; they learn then whom we
   * seek. Sessions with them stay open, for they may be of use to them as well.
   * @default true
   */
  readonly askPeers?: boolean
  /** Be found through peers that introduce, as by a rendezvous. @default true */
  readonly introducible?: boolean
  /** @internal Takes paths that ask for a circuit: what makes a relay. */
  readonly onCircuit?: (path: FramedPath, circuit: Uint8Array) => void
  /**
   * ms that a session may be without any path, `reconnecting`, while another is sought, before it fails; 0: it fails at
   * once. @default 60_000
   */
  readonly reconnectMs?: number
  /** How soon the end of a path is noticed. @default 300 ms to the first question, 4 s to the end */
  readonly timing?: Partial<PathTiming>
  /** Keep a path by a relay beside a direct one, to take over at once when that fails. @default true */
  readonly standbyRelay?: boolean
}

export interface ConnectOptions {
  /** Known addresses of the peer (`host:port`), tried first. */
  readonly addresses?: readonly string[]
  /**
   * `relay`: only relays, and none of our addresses is told; `direct`: no relay; `tcp`, `udp`, `webrtc`: only direct
   * paths of that kind. @default what `known.prefer` says of the peer, and else the peer's own
   */
  readonly via?: Via
  /** The relay to use, by its URL, before others; `exclusive`: no other, and no direct path. @default those of the rendezvous */
  readonly relay?: ChosenRelay
  /** Ends the attempt. @default after 30 s */
  readonly signal?: AbortSignal
  /** What an invitation of the peer holds: it lets us in where we are not known yet. */
  readonly capability?: Uint8Array | undefined
  /** The only medium to carry the offer, such as a person who copies it. @default all that work */
  readonly medium?: Signaling | undefined
  /** @internal Rides in the offer, when there is one. */
  readonly early?: EarlyAsk | undefined
}

/** How a request is asked of a peer that may have to be dialled. */
export interface PeerRequestOptions extends ConnectOptions, RequestOptions {
  /**
   * How often it is asked at most, within its time, when it fails for a reason that may pass. One that may have been executed
   * is asked again only with a `key`. @default 1
   */
  readonly attempts?: number
  /**
   * Executing it twice is as good as once. A small one without a key then rides in the offer, when the peer has to be
   * dialled, and is answered a round trip sooner where the handler says the same. @default as the protocol was defined, else false
   */
  readonly replaySafe?: boolean
}
