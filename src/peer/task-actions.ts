/**
 * What each task is done by: the executor of a peer's own queue.
 */

import type { KnownPeers } from '../discovery/index.ts'
import { PeerlineError } from '../errors.ts'
import { type PeerId, verifySignature } from '../identity/index.ts'
import type { Bans } from '../policy/bans.ts'
import type { Firewall } from '../policy/firewall.ts'
import type { Identifier } from '../policy/identifier-policy.ts'
import type { Trust } from '../policy/trust.ts'
import { ping } from '../protocol/index.ts'
import type { Session } from '../session/index.ts'
import type { Executor } from '../tasks/index.ts'
import type { Exchanges } from './exchanges.ts'
import type { SettingsHandler } from './options.ts'

/** Asked about a hash, a peer answers with one byte: 1 when it knows it. For a handler of the application. */
export const VERIFY_PROTOCOL = '/peerline/verify/1'

export interface ActionsHost {
  readonly self: PeerId
  readonly firewall: Firewall
  readonly bans: Bans
  readonly known: KnownPeers
  readonly identifier: Identifier
  readonly trust: Trust | undefined
  readonly exchanges: Exchanges
  readonly onSettings: SettingsHandler | undefined
  readonly reach: (peer: PeerId, options: { signal: AbortSignal }) => Promise<Session>
  readonly sessionsOf: (peer: PeerId) => readonly Session[]
}

export function taskActions(host: ActionsHost): Executor {
  const { firewall, bans, known, identifier, trust, exchanges, onSettings } = host
  const ask = (to: PeerId, protocol: string, body: Uint8Array, { id, signal }: { id: string; signal: AbortSignal }) =>
    exchanges.request(to, protocol, body, { signal, key: id })
  return {
    block: ({ peer, addresses, until, why }) => {
      bans.ban(peer ?? addresses, { until, why })
    },
    unblock: ({ peer, addresses }) => bans.unban(peer ?? addresses),
    send: ({ peer, protocol, body }, { signal }) => exchanges.send(peer, protocol, body, { signal }),
    'send-data': async ({ peer, protocol, body }, context) => {
      await ask(peer, protocol, body, context)
    },
    'request-data': ({ peer, protocol, body }, context) => ask(peer, protocol, body, context),
    synchronise: ({ peer, protocol, have }, context) => ask(peer, protocol, have, context),
    ping: async ({ peer }, { signal }) => ping(await host.reach(peer, { signal }), { signal }),
    disconnect: async ({ peer }, { signal }) => {
      await Promise.all(host.sessionsOf(peer).map((session) => session.close({ signal })))
    },
    authorise: ({ peer, protocol, until }) => {
      if (trust !== undefined && protocol === undefined && until === undefined) return trust.trust(peer)
      firewall.set({
        subject: peer,
        object: protocol ?? 'anything',
        direction: 'in',
        action: 'allow',
        ...(until === undefined ? {} : { expiresAt: until }),
      })
    },
    revoke: ({ peer, protocol }) => {
      if (protocol === undefined) trust?.distrust(peer)
      firewall.remove(`${peer} ${protocol ?? 'anything'} in`)
    },
    verify: async (task, { signal }) => {
      const { peer } = task
      if (task.hash === undefined) return verifySignature(peer, task.message, task.signature)
      const [known] = await exchanges.request(peer, VERIFY_PROTOCOL, task.hash, { signal })
      return known === 1
    },
    'assign-identifier': ({ peer, identifier: name }, { origin }) => {
      if (peer === host.self) identifier.set(name, origin)
      else known.describe(peer, { name })
    },
    'update-settings': async ({ settings }, { origin, signal }) => {
      if (onSettings === undefined) {
        throw new PeerlineError('ERR_PEERLINE_UNSUPPORTED', 'this peer takes no settings', {
          recover: 'Give it onSettings.',
        })
      }
      await onSettings(settings, { origin, signal })
    },
  }
}
