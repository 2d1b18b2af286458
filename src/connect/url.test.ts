import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isPeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { ipToBytes } from '../network/address.ts'
import { DEFAULT_PORT, MAX_URL_LENGTH, parseServerAddress, parseServerUrl } from './url.ts'

const INVALID = expect.objectContaining({ name: 'PeerlineError', code: 'ERR_PEERLINE_INVALID' })
const { peerId } = Identity.fromSeed(new Uint8Array(32).fill(9))

function attempt<T>(run: () => T): T | undefined {
  try {
    return run()
  } catch (error) {
    expect(error).toEqual(INVALID)
    return undefined
  }
}

describe('the address of a server', () => {
  test.each([
    ['ws://127.0.0.1:4400', { scheme: 'ws', host: '127.0.0.1', port: 4400 }],
    ['ws://example.org', { scheme: 'ws', host: 'example.org', port: 80 }],
    ['wss://example.org', { scheme: 'wss', host: 'example.org', port: 443 }],
    ['wss://example.org:8443/peer/line', { scheme: 'wss', host: 'example.org', port: 8443 }],
    ['tcp://example.org', { scheme: 'tcp', host: 'example.org', port: DEFAULT_PORT }],
    ['tcp://[2001:4860::1]:1', { scheme: 'tcp', host: '2001:4860::1', port: 1 }],
  ])('%s', (text, parts) => {
    expect(parseServerAddress(text)).toEqual({ address: text, ...parts })
    expect(parseServerAddress(`${text}#anything`)).toEqual({ address: text, ...parts })
  })

  test.each([
    '',
    'ws://',
    'ws:///path',
    'http://example.org',
    'WS://example.org',
    'ws://example.org:0',
    'ws://example.org:65536',
    'ws://:4400',
    'ws://example.org?x=1',
    'ws://example.org/path?x=1',
    'ws://user@example.org',
    'ws://198.41.0.4@127.0.0.1/',
    'ws://198.41.0.4\\@127.0.0.1/',
    'ws://::1:4400',
    'ws://127.1:4400',
    'ws://0x7f.1:4400',
    'ws://2130706433:4400',
    `ws://example.org/${'x'.repeat(MAX_URL_LENGTH)}`,
  ])('is not %s', (text) => {
    expect(() => parseServerAddress(text)).toThrow(INVALID)
  })

  test('that is taken leads where the URL parser that dials it leads, whatever the text', () => {
    const letters = [
      ...'aZ019.:-_@%[]\\/?#\n\t \u2028\u3002',
      'ws://',
      '127.0.0.1',
      '::1',
      '0x7f',
      '169.254.169.254',
      '@',
    ]
    let taken = 0
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom(...letters), { maxLength: 8 }),
        fc.constantFrom('', ':80'),
        (parts, port) => {
          const parsed = attempt(() => parseServerAddress(`ws://${parts.join('')}${port}`))
          if (parsed === undefined) return
          taken++
          let url: URL
          try {
            url = new URL(parsed.address)
          } catch {
            return // nothing is dialled then
          }
          const hostname = url.hostname.replace(/^\[|\]$/g, '')
          expect(ipToBytes(hostname) ?? hostname).toEqual(ipToBytes(parsed.host) ?? parsed.host.toLowerCase())
          expect(Number(url.port || 80)).toBe(parsed.port)
          expect(url.username + url.password).toBe('')
        },
      ),
      { numRuns: 3_000 },
    )
    expect(taken).toBeGreaterThan(50)
  })
})

describe('the URL of a server', () => {
  test('names the peer that must answer', () => {
    expect(parseServerUrl(`ws://127.0.0.1:4400#${peerId}`)).toMatchObject({
      host: '127.0.0.1',
      port: 4400,
      peer: peerId,
    })
  })

  test('never tells the peer id to anybody on the way', () => {
    expect(parseServerUrl(`wss://example.org/x#${peerId}`).address).toBe('wss://example.org/x')
  })

  test.each(['ws://127.0.0.1:4400', 'ws://127.0.0.1:4400#'])('%s lacks it, and says how to mend that', (text) => {
    const error = attempt(() => parseServerUrl(text)) ?? captured(() => parseServerUrl(text))
    expect(isPeerlineError(error) && error.recover).toMatch(/#<peer id>/)
  })

  test.each([`ws://127.0.0.1#${peerId.slice(1)}`, `ws://127.0.0.1#${'y'.repeat(52)}`, `ws://127.0.0.1#x${peerId}`])(
    '%s has none',
    (text) => {
      expect(() => parseServerUrl(text)).toThrow(INVALID)
    },
  )

  test('is a typed error for any other text', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 400 }), (text) => {
        expect(attempt(() => parseServerUrl(text))).toBeUndefined()
      }),
    )
  })
})

function captured(run: () => unknown): unknown {
  try {
    return run()
  } catch (error) {
    return error
  }
}
