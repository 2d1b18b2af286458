export { fromDidKey, toDidKey } from './did-key.ts'
export { Identity, SEED_BYTES, SIGNATURE_BYTES, type StaticKey, toX25519, verifySignature } from './identity.ts'
export {
  PEER_ID_LENGTH,
  type PeerId,
  PUBLIC_KEY_BYTES,
  parsePeerId,
  peerIdFromPublicKey,
  publicKeyOf,
} from './peer-id.ts'
export { MAX_RECORD_BYTES, openRecord, type PeerRecord, type RecordContent, signRecord } from './record.ts'
export { readTicket, type Ticket, type TicketContent, writeTicket } from './ticket.ts'
