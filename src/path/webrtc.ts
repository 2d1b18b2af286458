/**
 * Paths over WebRTC: ICE (RFC 8445) finds a way, DTLS and SCTP make a data channel of it (RFC 8831).
 *
 *     offering side                    sealed channel                   answering side
 *     WebRtcAttempt.offer()  -- description ------------------------->  WebRtcAttempt.answer(description)
 *     connect(description)  <------------------------- description --   connect()
 *     |== ICE checks ====== DTLS, certificates as described ====== SCTP, data channel 0 ==|
 *
 * - Each side describes itself once: with the candidates it has after {@link GATHER_MS}. Addresses that show up later are
 *   found by ICE itself (peer reflexive candidates).
 * - The certificate must be the described one. The description travels sealed, so DTLS is bound to the identity.
 * - Of what the other side describes, only checked values reach the WebRTC stack: see `webrtc-description.ts`.
 * - The answering side is the DTLS client, so it must be ready last: libdatachannel may lose a hello that comes before its
 *   own ICE is done, and repeats one only after a second. ICE is done first at the side whose check gets through first. So
 *   the answering side sends none before it connects, when its answer is on the way, and leaves near addresses to the
 *   offering side for {@link PATIENCE_MS}. To far ones it sends at once: that opens its NAT for the offerer's checks.
 * - One attempt is one connection, open or in the making; it ends with its signal or after {@link ATTEMPT_MS}. A path that
 *   has come of it is its owner's.
 */
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import { FramedPath } from './framing.ts'
import {
  type DescriptionRole,
  decodeDescription,
  encodeDescription,
  type IceCandidate,
  type IceDescription,
  isNear,
  readSdp,
  writeCandidate,
  writeSdp,
} from './webrtc-description.ts'
import { DataChannelPipe } from './webrtc-pipe.ts'
import {
  type IceServer,
  isNodeDataChannel,
  loadPeerConnection,
  openPeerConnection,
  type PeerConnectionConstructor,
} from './webrtc-platform.ts'

/** ms for candidates, once there is one: TURN takes two round trips (the first is refused), to the far side of the globe. */
export const GATHER_MS = 600

/** ms for the first candidate: with a relay policy there is none before a TURN server has answered. */
const FIRST_CANDIDATE_MS = 5_000

/** ms that the offerer has to get the answer and to begin: above one way through most signaling. */
const PATIENCE_MS = 300

/**
 * An address of this very machine is near, whoever saw it: a check from there and the DTLS hello behind it wait for the
 * offerer, and libdatachannel begins DTLS before it has taken note of the certificate that the answer describes.
 */
const LOOPBACK = /^127\.|^::1$/

/** ms from the first step to an open path: as long as an offer is good for. */
export const ATTEMPT_MS = 30_000

export interface WebRtcOptions {
  /** STUN and TURN servers. node-datachannel uses one STUN server and two TURN servers of them, over UDP. @default [] */
  readonly iceServers?: readonly IceServer[]
  /**
   * `relay`: tells the other side of relayed addresses only. It hides nothing with node-datachannel, which sends its own
   * checks from the machine's addresses all the same.
   * @default 'all'
   */
  readonly iceTransportPolicy?: RTCIceTransportPolicy
  /** Whether our packets may go to an address (an IP literal, or an mDNS name) that the other side describes. */
  readonly mayDial: (host: string) => boolean
  /** @default the platform's, or node-datachannel's */
  readonly RTCPeerConnection?: PeerConnectionConstructor
  /** Ends the attempt; a path that has come of it stays. */
  readonly signal: AbortSignal
}

/** One try at a WebRTC path. */
export class WebRtcAttempt {
  readonly role: DescriptionRole
  /** What the other side needs, to be sent sealed. */
  readonly description: Uint8Array
  readonly #making: Making
  #connecting = false

  private constructor(role: DescriptionRole, description: Uint8Array, making: Making) {
    this.role = role
    this.description = description
    this.#making = making
  }

  /**
   * Begins an attempt and describes this side.
   * @throws PeerlineError `ERR_PEERLINE_UNSUPPORTED` without WebRTC, `ERR_PEERLINE_INVALID` for ICE servers that are none,
   * `ERR_PEERLINE_UNREACHABLE` when there is no candidate, or what the signal says
   */
  static async offer(options: WebRtcOptions): Promise<WebRtcAttempt> {
    const making = await Making.begin(options)
    return making.step(async (connection) => {
      making.openChannel()
      await connection.setLocalDescription(await connection.createOffer())
      return new WebRtcAttempt('offer', await making.describe('offer'), making)
    })
  }

  /**
   * Begins the other side of an attempt.
   * @throws PeerlineError as {@link offer}, and `ERR_PEERLINE_PROTOCOL` or `ERR_PEERLINE_TOO_LARGE` for a malformed offer
   */
  static async answer(offer: Uint8Array, options: WebRtcOptions): Promise<WebRtcAttempt> {
    const remote = decodeDescription(offer, 'offer')
    const making = await Making.begin(options)
    return making.step(async (connection) => {
      await making.setRemote(remote)
      making.openChannel()
      await connection.setLocalDescription(await connection.createAnswer())
      return new WebRtcAttempt('answer', await making.describe('answer'), making)
    })
  }

  /**
   * Waits for the path to open. The offering side gives the answer that it got; the answering side connects when it has
   * sent its own.
   * @throws PeerlineError `ERR_PEERLINE_PROTOCOL` or `ERR_PEERLINE_TOO_LARGE` for a malformed answer,
   * `ERR_PEERLINE_UNREACHABLE` when no way worked, `ERR_PEERLINE_HANDSHAKE` when the other side showed another certificate
   * than it described, `ERR_PEERLINE_TIMEOUT`, `ERR_PEERLINE_CLOSED` after `close`, or what the signal says
   */
  async connect(answer?: Uint8Array): Promise<FramedPath> {
    return new FramedPath('webrtc', await this.connectPipe(answer))
  }

  /** As {@link connect}, for the bare byte pipe under the path. */
  async connectPipe(answer?: Uint8Array): Promise<DataChannelPipe> {
    if ((answer === undefined) === (this.role === 'offer')) {
      throw new PeerlineError(
        'ERR_PEERLINE_INVALID',
        'the side that offered, and only that one, connects with an answer',
      )
    }
    if (this.#connecting) throw new PeerlineError('ERR_PEERLINE_INVALID', 'an attempt connects once')
    this.#connecting = true
    return this.#making.step(async () => {
      if (answer !== undefined) await this.#making.setRemote(decodeDescription(answer, 'answer'))
      return this.#making.opened()
    })
  }

  /** Ends the attempt at once; a path that has come of it stays. */
  close(): void {
    this.#making.end(new PeerlineError('ERR_PEERLINE_CLOSED', 'the WebRTC attempt was closed'))
  }
}

/** A connection in the making: whatever ends it ends every wait on it, and closes it. */
class Making {
  readonly #connection: RTCPeerConnection
  readonly #options: WebRtcOptions
  readonly #ended: Promise<never>
  #reject!: (error: PeerlineError) => void
  /** Why it ended; undefined while it goes on. */
  #error: PeerlineError | undefined
  #deadline: ReturnType<typeof setTimeout>
  /** ICE had found a way: what fails after that is DTLS. */
  #reached = false
  #channel: RTCDataChannel | undefined
  #pipe: DataChannelPipe | undefined
  #handedOver = false
  /** Candidates of the other side that ICE does not know yet. */
  #kept: readonly IceCandidate[] = []
  #patience: ReturnType<typeof setTimeout> | undefined

  private constructor(connection: RTCPeerConnection, options: WebRtcOptions) {
    this.#connection = connection
    this.#options = options
    this.#ended = new Promise((_, reject) => {
      this.#reject = reject
    })
    this.#ended.catch(() => {}) // it may end when nobody waits
    this.#deadline = setTimeout(() => {
      this.end(new PeerlineError('ERR_PEERLINE_TIMEOUT', `WebRTC did not connect within ${ATTEMPT_MS} ms`))
    }, ATTEMPT_MS)
    options.signal.addEventListener('abort', this.#onAbort)
    connection.addEventListener('connectionstatechange', this.#onState)
    connection.addEventListener('iceconnectionstatechange', this.#onIceState)
  }

  static async begin(options: WebRtcOptions): Promise<Making> {
    const { signal, iceServers = [], iceTransportPolicy = 'all' } = options
    const PeerConnection = options.RTCPeerConnection ?? (await loadPeerConnection())
    if (signal.aborted) throw abortError(signal, 'WebRTC')
    return new Making(openPeerConnection(PeerConnection, iceServers, iceTransportPolicy), options)
  }

  /** Takes one step; when it fails, the attempt has failed. */
  async step<T>(take: (connection: RTCPeerConnection) => Promise<T>): Promise<T> {
    if (this.#error !== undefined) throw this.#error
    const taken = take(this.#connection)
    taken.catch(() => {}) // when the end comes first
    try {
      return await Promise.race([taken, this.#ended])
    } catch (cause) {
      const error = this.#error ?? asPeerlineError(cause, 'ERR_PEERLINE_UNREACHABLE', 'WebRTC failed')
      this.end(error)
      throw error
    }
  }

  /** To be called when the platform knows whether it offers or answers: node-datachannel would offer otherwise. */
  openChannel(): void {
    this.#channel = this.#connection.createDataChannel('peerline', { negotiated: true, id: 0, ordered: true })
    this.#pipe = new DataChannelPipe(this.#connection, this.#channel)
  }

  async setRemote(remote: IceDescription): Promise<void> {
    const candidates = remote.candidates.filter(({ host }) => this.#options.mayDial(host))
    if (remote.role === 'offer' && isNodeDataChannel(this.#connection)) this.#kept = candidates.splice(0)
    await this.#connection.setRemoteDescription({ type: remote.role, sdp: writeSdp({ ...remote, candidates }) })
  }

  /** Gives ICE the candidates that were kept back. */
  #dialKept(): void {
    if (this.#kept.length === 0) return
    const own = this.#describeNow('answer').candidates
    const near = this.#kept.filter(({ type, host }) => LOOPBACK.test(host) || (type === 'host' && isNear(host, own)))
    const dial = (candidates: readonly IceCandidate[]): void => {
      for (const candidate of candidates) {
        const init = { candidate: writeCandidate(candidate, this.#kept.indexOf(candidate) + 1), sdpMid: '0' }
        this.#connection.addIceCandidate(init).catch(() => {}) // one way less
      }
    }
    dial(this.#kept.filter((candidate) => !near.includes(candidate)))
    this.#patience = setTimeout(dial, PATIENCE_MS, near)
  }

  #describeNow(role: DescriptionRole): IceDescription {
    return readSdp(this.#connection.localDescription?.sdp ?? '', role)
  }

  /** This side's description, when it has the candidates that may be waited for. */
  async describe(role: DescriptionRole): Promise<Uint8Array> {
    const own = (): IceDescription => this.#describeNow(role)
    const complete = (): boolean => this.#connection.iceGatheringState === 'complete'
    await this.#gathering(GATHER_MS, complete)
    if (own().candidates.length === 0) {
      await this.#gathering(FIRST_CANDIDATE_MS - GATHER_MS, () => complete() || own().candidates.length > 0)
    }
    const description = own()
    if (description.candidates.length > 0) return encodeDescription(description)
    const relay = this.#options.iceTransportPolicy === 'relay'
    const what = relay ? 'no TURN server gave us a relayed address' : 'this machine has no address to be reached at'
    throw new PeerlineError('ERR_PEERLINE_UNREACHABLE', `WebRTC: ${what}`)
  }

  /** Waits while it gathers, until `enough` or for `ms`. */
  #gathering(ms: number, enough: () => boolean): Promise<void> {
    const connection = this.#connection
    return new Promise((resolve) => {
      const look = (): void => {
        if (enough()) done()
      }
      const done = (): void => {
        clearTimeout(timer)
        connection.removeEventListener('icecandidate', look)
        connection.removeEventListener('icegatheringstatechange', look)
        resolve()
      }
      const timer = setTimeout(done, ms)
      this.#ended.catch(done)
      connection.addEventListener('icecandidate', look)
      connection.addEventListener('icegatheringstatechange', look)
      look()
    })
  }

  /** The pipe, when the channel is open. */
  async opened(): Promise<DataChannelPipe> {
    const [channel, pipe] = [this.#channel!, this.#pipe!]
    this.#dialKept()
    if (channel.readyState !== 'open') {
      await new Promise((resolve) => channel.addEventListener('open', resolve, { once: true }))
    }
    pipe.remote = await selectedRemote(this.#connection)
    if (this.#error !== undefined) throw this.#error
    this.#handedOver = true
    this.#release()
    return pipe
  }

  end(error: PeerlineError): void {
    if (this.#error !== undefined || this.#handedOver) return
    this.#error = error
    this.#release()
    if (this.#pipe !== undefined) this.#pipe.destroy()
    else this.#connection.close()
    this.#reject(error)
  }

  #release(): void {
    clearTimeout(this.#deadline)
    clearTimeout(this.#patience)
    this.#options.signal.removeEventListener('abort', this.#onAbort)
    this.#connection.removeEventListener('connectionstatechange', this.#onState)
    this.#connection.removeEventListener('iceconnectionstatechange', this.#onIceState)
  }

  readonly #onAbort = (): void => this.end(abortError(this.#options.signal, 'WebRTC'))

  readonly #onIceState = (): void => {
    const state = this.#connection.iceConnectionState
    if (state === 'connected' || state === 'completed') this.#reached = true
  }

  readonly #onState = (): void => {
    // By the time we are told of a failure, node-datachannel may say `closed`: states are read late.
    const state = this.#connection.connectionState
    if (state !== 'failed' && state !== 'closed') return
    this.end(
      this.#reached
        ? new PeerlineError(
            'ERR_PEERLINE_HANDSHAKE',
            'the DTLS handshake failed: is the certificate the described one?',
          )
        : new PeerlineError('ERR_PEERLINE_UNREACHABLE', 'WebRTC: no way to the other side worked'),
    )
  }
}

/** Where the other end of the way that ICE chose is, for people. */
async function selectedRemote(connection: RTCPeerConnection): Promise<string> {
  const stats = new Map<string, Record<string, unknown>>()
  ;(await connection.getStats()).forEach((stat: { id: string }) => {
    stats.set(stat.id, stat as unknown as Record<string, unknown>)
  })
  const all = [...stats.values()]
  const chosen = all.find(({ type }) => type === 'transport')?.selectedCandidatePairId
  const pair =
    stats.get(String(chosen)) ??
    all.find(({ type, nominated, state }) => type === 'candidate-pair' && nominated === true && state === 'succeeded')
  const [local, remote] = [stats.get(String(pair?.localCandidateId)), stats.get(String(pair?.remoteCandidateId))]
  const host = remote?.address ?? remote?.ip
  const type = local?.candidateType === 'relay' ? 'relay' : remote?.candidateType
  if (typeof host !== 'string') return 'webrtc'
  return `webrtc ${host.includes(':') ? `[${host}]` : host}:${remote?.port} (${type})`
}
