/**
 * When a ledger at Hedera is closed nothing of it is left, whatever it was doing: each case is a process of its own
 * (`ends-child.js`, of what was built), which must end by itself soon after.
 */
import { spawn } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished, test, vi } from 'vitest'
import { HederaLedger } from '../../src/ledger/hedera.ts'
import { PAYER, StandIn } from './stand-in.ts'

const CHILD = fileURLToPath(new URL('ends-child.js', import.meta.url))

test.each([
  ['idle', undefined],
  ['reading', undefined],
  ['busy', 'ERR_PEERLINE_CLOSED'],
  ['hanging', 'ERR_PEERLINE_CLOSED'],
])(
  'a program whose ledger is closed while it is %s ends by itself',
  async (state, ended) => {
    const { x, d } = generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' })
    const standIn = await new StandIn(Buffer.from(x!, 'base64url')).start()
    onTestFinished(() => standIn.stop())
    const options = {
      network: standIn.network,
      account: `0.0.${PAYER}`,
      key: Buffer.from(d!, 'base64url').toString('hex'),
    }
    const ledger = await HederaLedger.open(options)
    const topic = await ledger.createTopic('', { signal: AbortSignal.timeout(10_000) })
    await ledger.close()
    if (state === 'busy') standIn.answers.push(...Array.from({ length: 50 }, () => 'BUSY' as const))
    if (state === 'hanging') standIn.answers.push('hang')

    const child = spawn(process.execPath, [CHILD], {
      env: { ...process.env, ENDS: JSON.stringify({ ...options, topic, state }) },
    })
    onTestFinished(() => void child.kill())
    let said = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (said += data))
    const exit = new Promise((resolve) => child.on('exit', resolve))
    if (state === 'busy' || state === 'hanging') {
      await vi.waitFor(() => expect(standIn.asked.transactions).toBeGreaterThan(1), { timeout: 10_000, interval: 10 })
      child.stdin.write('go on')
    }
    await vi.waitFor(() => expect(said).toContain('\n'), { timeout: 15_000, interval: 10 })
    const closedAt = performance.now()
    expect(await exit).toBe(0)
    expect(performance.now() - closedAt).toBeLessThan(3_000)
    expect(JSON.parse(said).ended).toBe(state === 'reading' ? 'ERR_PEERLINE_CLOSED' : ended)
  },
  60_000,
)
