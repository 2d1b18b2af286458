/**
 * Dialling a peer at the addresses where it listens, in order of preference: the next one when the one before has failed,
 * or a moment later; the first to open wins (RFC 8305 section 5).
 */
import type { Socket } from 'node:net'
import { connectTcp, type FramedPath, tcpPath } from '../path/index.ts'
import { under } from '../pause.ts'
import { type NoneSucceeded, STAGGER_MS, staggered } from '../staggered.ts'

/** ms for one path to be opened: a TCP connection that has sent its SYN three times will hardly come. */
export const PATH_ATTEMPT_MS = 8_000

interface Address {
  readonly host: string
  readonly port: number
}

/** The first of several addresses to open. @throws PeerlineError of the first address when none does */
export function raceTcp(addresses: readonly Address[], signal: AbortSignal): Promise<FramedPath> {
  const tiers = addresses.map((address) => ({ ways: [address], afterMs: STAGGER_MS }))
  return under([signal, AbortSignal.timeout(PATH_ATTEMPT_MS)], async (limited) => {
    const connect = ({ host, port }: Address, each: AbortSignal) => connectTcp(host, port, { signal: each })
    const late = (socket: Socket) => void socket.destroy()
    try {
      return tcpPath(await staggered(tiers, { run: connect, late, signal: limited }))
    } catch (error) {
      const { failures, last } = error as NoneSucceeded<Address>
      throw failures.get(addresses[0]!) ?? last
    }
  })
}
