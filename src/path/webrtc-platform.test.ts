import { afterEach, describe, expect, test, vi } from 'vitest'
import { loadPeerConnection, openPeerConnection, type PeerConnectionConstructor } from './webrtc-platform.ts'

const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })

afterEach(() => {
  vi.unstubAllGlobals()
  vi.doUnmock('node-datachannel')
  vi.doUnmock('node-datachannel/polyfill')
  vi.resetModules()
})

describe('the platform', () => {
  test('is node-datachannel, with SCTP buffers set once', async () => {
    const setSctpSettings = vi.fn()
    vi.doMock('node-datachannel', () => ({ setSctpSettings }))
    const fresh = await import('./webrtc-platform.ts')
    const { RTCPeerConnection } = await import('node-datachannel/polyfill')
    expect(await fresh.loadPeerConnection()).toBe(RTCPeerConnection)
    expect(await fresh.loadPeerConnection()).toBe(RTCPeerConnection)
    const bytes = 4 * 1_048_576
    expect(setSctpSettings.mock.calls).toEqual([[{ recvBufferSize: bytes, sendBufferSize: bytes }]])
  })

  test.each(['node-datachannel', 'node-datachannel/polyfill'])('without %s is not supported', async (name) => {
    vi.doMock(name, () => {
      throw new Error('Cannot find module')
    })
    const fresh = await import('./webrtc-platform.ts')
    await expect(fresh.loadPeerConnection()).rejects.toThrow(code('ERR_PEERLINE_UNSUPPORTED'))
  })

  test("is the browser's own where there is one", async () => {
    class Native {}
    vi.stubGlobal('RTCPeerConnection', Native)
    expect(await loadPeerConnection()).toBe(Native)
  })
})

describe('ICE servers', () => {
  const servers = [
    { urls: 'stun:[2001:db8::7]:3479' },
    { urls: ['turn:192.0.2.2', 'turns:192.0.2.2'], username: '17:ann@home', credential: 'a/b?c' },
  ] as const
  const seen: unknown[] = []
  class Native {
    constructor(configuration: unknown) {
      seen.push(structuredClone(configuration))
    }
  }
  class Polyfill extends Native {
    get ext_maxMessageSize(): number {
      return 0
    }
  }
  afterEach(() => void seen.splice(0))

  test.each([
    ['as they are to a browser', Native, 'stun:[2001:db8::7]:3479', { username: '17:ann@home', credential: 'a/b?c' }],
    [
      'quoted to node-datachannel',
      Polyfill,
      'stun:2001%3Adb8%3A%3A7:3479',
      { username: '17%3Aann%40home', credential: 'a%2Fb%3Fc' },
    ],
  ])('are given %s', (_, PeerConnection, stun, account) => {
    openPeerConnection(PeerConnection as unknown as PeerConnectionConstructor, servers, 'relay')
    const turn = { urls: ['turn:192.0.2.2', 'turns:192.0.2.2'], ...account }
    expect(seen).toEqual([{ iceServers: [{ urls: [stun] }, turn], iceTransportPolicy: 'relay' }])
  })
})
