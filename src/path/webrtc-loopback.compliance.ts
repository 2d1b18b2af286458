/** WebRTC for tests: attempts on loopback, ends that keep no rules, and a look at what is left over. */
import { once } from 'node:events'
import { expect } from 'vitest'
import { WebRtcAttempt, type WebRtcOptions } from './webrtc.ts'
import { decodeDescription, encodeDescription, readSdp, writeSdp } from './webrtc-description.ts'
import type { DataChannelPipe } from './webrtc-pipe.ts'
import { loadPeerConnection, type PeerConnectionConstructor } from './webrtc-platform.ts'

const Native = await loadPeerConnection()

/** Every connection opened since the last {@link closeAll}. */
export const connections: RTCPeerConnection[] = []

/** node-datachannel, bound to one address: it hands on to libdatachannel what is not in the standard. */
export function boundTo(bindAddress: string): PeerConnectionConstructor {
  return class extends Native {
    constructor(configuration?: RTCConfiguration) {
      super({ ...configuration, bindAddress } as RTCConfiguration)
      connections.push(this)
    }
  }
}

export const Loopback = boundTo('127.0.0.1')

/** Options of one side. */
export function options(more: Partial<WebRtcOptions> = {}): WebRtcOptions {
  return { mayDial: () => true, RTCPeerConnection: Loopback, signal: new AbortController().signal, ...more }
}

/** Two ends of one open channel: the offering side's, and the answering side's. */
export async function openPipes(a = options(), b = options()): Promise<[DataChannelPipe, DataChannelPipe]> {
  const offer = await WebRtcAttempt.offer(a)
  const answer = await WebRtcAttempt.answer(offer.description, b)
  return Promise.all([offer.connectPipe(answer.description), answer.connectPipe()])
}

/** A pipe of ours, and the bare channel at the other end, that says what it likes. */
export async function openBare(): Promise<{ pipe: DataChannelPipe; channel: RTCDataChannel; far: RTCPeerConnection }> {
  const offer = await WebRtcAttempt.offer(options())
  const far = new Loopback({ iceServers: [] })
  const remote = decodeDescription(offer.description, 'offer')
  await far.setRemoteDescription({ type: 'offer', sdp: writeSdp({ ...remote, candidates: [] }) })
  const channel = far.createDataChannel('bare', { negotiated: true, id: 0 })
  await far.setLocalDescription(await far.createAnswer())
  await expect.poll(() => far.iceGatheringState).toBe('complete')
  const connecting = offer.connectPipe(encodeDescription(readSdp(far.localDescription!.sdp, 'answer')))
  if (channel.readyState !== 'open') await once(channel, 'open')
  return { pipe: await connecting, channel, far }
}

/** Closes what a test left open. */
export function closeAll(): void {
  for (const connection of connections.splice(0)) connection.close()
}

/** Waits until everything that was opened is closed. */
export async function expectAllClosed(count: number): Promise<void> {
  expect(connections.length).toBe(count)
  const states = (): string[] => connections.map(({ connectionState }) => connectionState)
  await expect.poll(states).toEqual(new Array(count).fill('closed'))
}
