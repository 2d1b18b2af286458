/**
 * What a peer remembers from one start to the next, in one store: the peers it knows, its rules, its bans and its invitations. Without a store it
 * remembers them until it ends.
 *
 *     { "peers": address book, "rules": firewall, "bans": bans, … }      see discovery/saved-state.ts
 *
 * - What the options of a firewall say is not kept: they say it again at each start.
 * - A change is saved within a second, and at `close`.
 */
import { type Damage, KnownPeers, SavedState, type Section, type Store } from '../discovery/index.ts'
import { PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import type { PeerId } from '../identity/index.ts'
import { Bans } from '../policy/bans.ts'
import { Firewall, type FirewallOptions } from '../policy/firewall.ts'
import { Invitations } from '../policy/invitations.ts'

export type MemoryEvents = {
  /** Saving failed; it is tried again. */
  error: { readonly error: PeerlineError }
}

export class Memory extends TypedEventTarget<MemoryEvents> {
  readonly known = new KnownPeers()
  readonly bans = new Bans()
  readonly firewall: Firewall
  readonly invitations: Invitations
  readonly #state: SavedState | undefined
  #damages: readonly Damage[] = []

  private constructor(store: Store | undefined, firewall: FirewallOptions, more: Readonly<Record<string, Section>>) {
    super()
    this.firewall = new Firewall(firewall)
    const invitations = new Invitations({ firewall: this.firewall })
    this.invitations = invitations
    if (store === undefined) return
    const { known, bans } = this
    this.#state = new SavedState(store, {
      peers: { export: () => known.export(), load: (json) => known.load(json) },
      rules: { export: () => this.firewall.kept(), load: (json) => this.firewall.restore(json) },
      bans: { export: () => bans.toJSON(), load: (json) => bans.fromJSON(json) },
      invitations: { export: () => invitations.toJSON(), load: (json) => invitations.fromJSON(json) },
      ...more,
    })
    const touch = () => this.touch()
    for (const type of ['add', 'remove', 'change', 'load'] as const) known.addEventListener(type, touch)
    for (const type of ['ban', 'unban'] as const) bans.addEventListener(type, touch)
    for (const type of ['mint', 'redeem', 'revoke', 'load'] as const) invitations.addEventListener(type, touch)
    this.firewall.addEventListener('change', touch)
    this.firewall.addEventListener('spent', touch)
    this.#state.addEventListener('error', ({ detail }) => this.emit('error', detail))
  }

  /**
   * @param more other sections that are kept in the same store
   * @throws PeerlineError `ERR_PEERLINE_INVALID` for an option of the firewall; `ERR_PEERLINE_FILE`, `ERR_PEERLINE_VERSION`,
   *   `ERR_PEERLINE_TOO_LARGE` of the store
   */
  static async open(
    store: Store | undefined,
    firewall: FirewallOptions = {},
    more: Readonly<Record<string, Section>> = {},
  ): Promise<Memory> {
    const memory = new Memory(store, firewall, more)
    try {
      memory.#damages = (await memory.#state?.load()) ?? []
      return memory
    } catch (error) {
      await memory.close().catch(() => {}) // nothing was read, and nothing is to be saved
      throw error
    }
  }

  /**
   * Lets a peer in by an invitation; that it was used is saved first, so that it is not used again after a crash.
   * @throws PeerlineError as `Invitations.redeem`; `ERR_PEERLINE_BUSY` when it cannot be saved, which says nothing of the store
   */
  readonly redeem = async (capability: Uint8Array, peer: PeerId): Promise<void> => {
    const keep = () =>
      this.flush().catch((cause) => {
        throw new PeerlineError('ERR_PEERLINE_BUSY', 'the invitation cannot be used now: try again later', { cause })
      })
    await this.invitations.redeemKept(capability, peer, keep)
  }

  /** What was stored and could not be read; it was set aside, and what it held began empty. */
  get damages(): readonly Damage[] {
    return this.#damages
  }

  /** Something that is kept has changed. */
  touch(): void {
    this.#state?.touch()
  }

  /** Resolves when all changes are saved. @throws PeerlineError of the store */
  async flush(): Promise<void> {
    await this.#state?.flush()
  }

  /** Saves what has changed, and ends; nobody is let in any more. @throws PeerlineError of the store */
  async close(): Promise<void> {
    this.firewall.close()
    await this.#state?.close()
  }
}
