/**
 * What `invite` has whoever holds the state of an identity do.
 *
 *     invite         objects?, group?, uses, until, capability     --> capability?, record?, id?, …    both as hexadecimal
 *     invitations    each invitation
 *     revoke         id
 */
import { type Fields, toHex } from '../bytes/index.ts'
import type { Invitation, Invitations } from '../policy/invitations.ts'
import type { Json } from './control-lines.ts'

/** Objects of one order, and characters of a text: they are checked again by who owns them. */
const MAX_LIST = 32
const MAX_TEXT = 1_000

/** What is to be had with a ticket. */
export interface Wanted {
  /** @default anything */
  readonly objects?: readonly string[] | undefined
  readonly group?: string | undefined
  /** Peers that may come by it. */
  readonly uses: number
  /** ms since 1970. */
  readonly until: number
  /** False: the ticket says where the peer is, and lets nobody in. */
  readonly capability: boolean
}

export interface InvitingDesk {
  readonly invitations: Invitations
  /** The signed record of the peer that runs, until then. */
  readonly record?: ((expiresAt: number) => Uint8Array) | undefined
}

export function invite({ invitations, record }: InvitingDesk, given: Fields): Json {
  const text = (at: string) => given.text(at, { max: MAX_TEXT })
  const expiresAt = given.integer('until')
  const uses = given.integer('uses')
  const objects = given.optional('objects', (at) => given.texts(at, { max: MAX_LIST, maxLength: MAX_TEXT }))
  const group = given.optional('group', text)
  const signed = record === undefined ? null : toHex(record(expiresAt))
  if (!given.boolean('capability')) return { capability: null, record: signed, until: expiresAt }
  const { capability, invitation } = invitations.mint({ objects, group, uses, expiresAt })
  return { capability: toHex(capability), record: signed, ...invitationJson(invitation) }
}

export async function* listInvitations({ invitations }: InvitingDesk): AsyncGenerator<Json, Json, undefined> {
  for (const invitation of invitations.list()) yield invitationJson(invitation)
  return {}
}

export function revoke({ invitations }: InvitingDesk, given: Fields): Json {
  return { was: invitations.revoke(given.text('id', { max: MAX_TEXT })) }
}

function invitationJson({ id, state, since, expiresAt, uses, peers, grant }: Invitation): Json {
  const { objects, group } = grant
  return { id, state, since, until: expiresAt, uses, peers, objects: objects ?? null, group: group ?? null }
}
