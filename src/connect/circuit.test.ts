import { expect, test } from 'vitest'
import { Identity } from '../identity/index.ts'
import { freePort } from '../network/free-port.compliance.ts'
import { CIRCUIT_BYTES } from '../path/index.ts'
import { openCircuit } from './circuit.ts'
import { DirectDialer } from './direct.ts'

/** What Node keeps at a signal: who listens, and each signal that follows it. */
function leftAt(signal: AbortSignal): number {
  const kept = Object.getOwnPropertySymbols(signal).map((symbol) => (signal as never)[symbol] as unknown)
  const sizes = kept.map((one) => (one as { size?: unknown } | undefined)?.size)
  return sizes.reduce<number>((sum, size) => sum + (typeof size === 'number' ? size : 0), 0)
}

test('dialling relays and servers leaves nothing at a signal that lives on: remotes name as many as they like', async () => {
  const { signal } = new AbortController()
  const identity = Identity.generate()
  const direct = new DirectDialer({
    identity,
    mayUse: () => true,
    count: () => Promise.reject() as never,
    newSession: () => Promise.reject() as never,
    closing: signal,
  })
  const port = await freePort()
  const unreached = { code: 'ERR_PEERLINE_UNREACHABLE' }
  for (const scheme of ['tcp', 'ws'] as const) {
    const address = `${scheme}://127.0.0.1:${port}`
    await expect(openCircuit(address, new Uint8Array(CIRCUIT_BYTES), signal)).rejects.toMatchObject(unreached)
    const url = { address, scheme, host: '127.0.0.1', port, peer: identity.peerId }
    await expect(direct.server(url, { signal })).rejects.toMatchObject(unreached)
  }
  expect(leftAt(signal)).toBe(0)
})
