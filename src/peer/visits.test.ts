import { afterEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { type Connector, mayDial, type ServerUrl } from '../connect/index.ts'
import { PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import type { Session } from '../session/index.ts'
import { sessionPair } from '../session/session-pair.compliance.ts'
import { Visits } from './visits.ts'

/** What a name is looked up to be, one time after the other. */
const answers = vi.hoisted(() => [] as string[][])
vi.mock('node:dns', async (original) => {
  type Done = (error: null, addresses: { address: string; family: number }[]) => void
  const lookup = (_name: string, _options: object, done: Done) => {
    const addresses = answers.shift() ?? []
    done(
      null,
      addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 })),
    )
  }
  return { ...(await original<object>()), lookup }
})

const PEER = Identity.generate().peerId
const UNREACHABLE = new PeerlineError('ERR_PEERLINE_UNREACHABLE', 'nobody is there')

afterEach(() => {
  answers.length = 0
})

/** Visits, and which URLs they dial. */
function visiting(dial: () => Promise<Session> = () => Promise.reject(UNREACHABLE)) {
  const dialled: ServerUrl[] = []
  const server = (url: ServerUrl) => {
    dialled.push(url)
    return dial()
  }
  const visits = new Visits({
    connector: { direct: { server } } as unknown as Connector,
    own: () => [],
    mayDial: (host) => mayDial(host, { loopback: false }) && host !== '8.8.8.8',
    isBanned: () => false,
    closing: new AbortController().signal,
  })
  const go = (url: string) => {
    const [visit] = visits.at([`${url}#${PEER}`])
    const options = { signal: AbortSignal.timeout(5_000) }
    return visit!.medium.exchange(PEER, new Uint8Array(16), new Uint8Array(64), options).then(
      () => 'answered',
      ({ code }: PeerlineError) => code.slice('ERR_PEERLINE_'.length),
    )
  }
  return { dialled, go }
}

describe('a rendezvous that a peer named', () => {
  test.each([
    ['ws://rebind.example/x/y', ['ws://1.1.1.1:80/x/y', 'ws://[2606:4700::1111]:80/x/y']],
    ['tcp://rebind.example:4400', ['tcp://1.1.1.1:4400', 'tcp://[2606:4700::1111]:4400']],
  ])('%s is dialled as it was judged: its name may lead into our network the next time', async (url, expected) => {
    answers.push(['1.1.1.1', '2606:4700::1111'], ['127.0.0.1'], ['10.0.0.1'])
    const { dialled, go } = visiting()
    expect(await go(url)).toBe('UNREACHABLE')
    expect(dialled.map(({ address }) => address)).toEqual(expected)
    expect(dialled.map(({ host }) => host)).toEqual(['1.1.1.1', '2606:4700::1111'])
  })

  test('by TLS is dialled by its name, which its certificate has to be of', async () => {
    answers.push(['1.1.1.1'])
    const { dialled, go } = visiting()
    expect(await go('wss://named.example/x')).toBe('UNREACHABLE')
    expect(dialled).toMatchObject([{ address: 'wss://named.example/x', host: 'named.example' }])
  })

  test.each([
    ['a private one', ['1.1.1.1', 'fd00::1']],
    ['loopback', ['127.0.0.1']],
    ['one that is banned', ['8.8.8.8']],
    ['one of the link', ['169.254.169.254']],
    ['none', []],
  ])('is not visited where its name leads to %s', async (_, found) => {
    answers.push(found)
    const { dialled, go } = visiting()
    expect(await go('ws://named.example:4400')).toBe('DENIED')
    expect(dialled).toEqual([])
  })

  test('is left at once when it does not take us: whoever names it can have us come often', async () => {
    const pair = await sessionPair({ onStreamB: (stream) => stream.reset() })
    onTestFinished(() => pair.close())
    answers.push(['1.1.1.1'])
    const { go } = visiting(async () => pair.a)
    expect(await go('ws://named.example:4400')).not.toBe('answered')
    await vi.waitFor(() => expect(pair.a.state).toBe('closed'))
  })
})
