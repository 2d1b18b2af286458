export { type AcceptOptions, Arrival, type RefuseOptions } from './arrivals.ts'
export type { Answer, Ask, Asked, AskedQuestion } from './asking.ts'
export type { AuditEntry, AuditLog, AuditOptions, AuditSink } from './audit.ts'
export type { Authorities } from './authorities.ts'
export type { Ban, Bans, BansEvents } from './bans.ts'
export { type BootstrapOptions, BootstrapPolicy } from './bootstrap-policy.ts'
export type { Decision, Reason } from './decision.ts'
export {
  type Approver,
  type ConnectionRequest,
  type DefaultRule,
  Firewall,
  type FirewallEvents,
  type FirewallOptions,
} from './firewall.ts'
export type { Identifier, IdentifierPolicy } from './identifier-policy.ts'
export type {
  Grant,
  Invitation,
  InvitationState,
  Invitations,
  MintOptions,
} from './invitations.ts'
export type { ConnectionLimitsOptions } from './peer-limits.ts'
export { definePermissions, type PermissionKind, Permissions } from './permissions.ts'
export type { PolicyJson } from './policy-json.ts'
export type {
  Action,
  Direction,
  PermissionNames,
  Predicate,
  Question,
  Rule,
  RuleInput,
  RuleRate,
  Subject,
} from './rule.ts'
export type {
  Answering,
  DemotedReason,
  Handshake,
  HandshakeContext,
  ReadyHandshake,
  Trust,
  TrustEvents,
  TrustOptions,
} from './trust.ts'
export { allOf, openVoucher, secretHandshake, signVoucher, vouchedBy } from './trust-handshakes.ts'
