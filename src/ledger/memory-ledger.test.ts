/**
 * The ledger in memory is a ledger, so that what is tested on it holds on others.
 */
import { ledgerCompliance } from './ledger.compliance.ts'
import { MemoryLedger } from './memory-ledger.compliance.ts'

for (const [name, options] of [
  ['a ledger in memory', {}],
  ['a slow ledger in memory', { latencyMs: 20, spreadMs: 15, clockAheadMs: -4_000 }],
] as const) {
  ledgerCompliance(name, async () => {
    const ledger = new MemoryLedger(options)
    const stall = () => {
      ledger.latencyMs = 3_600_000
    }
    return { ledger, stall, teardown: () => ledger.close() }
  })
}
