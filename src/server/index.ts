/**
 * The server: rendezvous, relay and reflectors behind one port. `import { Server } from 'peerline/server'`.
 */

export type { LedgerLimits } from './ledger-quota.ts'
export type { RelayLimits } from './relay-service.ts'
export { type DrainOptions, Server, type ServerOptions } from './server.ts'
