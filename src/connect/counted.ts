/**
 * Connections that count, from before they are sessions until they are none. Whoever counts them is above this room.
 */
import type { PeerId } from '../identity/index.ts'
import type { Session } from '../session/index.ts'

/** A connection that counts, until it is released. */
export interface Counted {
  /** It is a session with `peer` from now on. @throws PeerlineError when there are too many of those */
  establish(peer: PeerId): void
  release(): void
}

/** A connection that is to count. */
export interface Claim {
  readonly direction: 'in' | 'out'
  /** The address (an IP literal) of the other end, where there is a path. */
  readonly host?: string | undefined
  /** Who it is, where that is known. */
  readonly peer?: PeerId | undefined
}

/** Makes a session that counts until it is closed, or until it turns out that there is none. */
export async function held<T extends { readonly session?: Session | undefined }>(
  counted: Counted,
  make: () => Promise<T>,
): Promise<T> {
  let session: Session | undefined
  try {
    const made = await make()
    session = made.session
    return made
  } finally {
    if (session === undefined) counted.release()
    else void session.closed.then(() => counted.release())
  }
}
