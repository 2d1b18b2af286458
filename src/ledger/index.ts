export { ConsensusClock, type LocalClock } from './clock.ts'
export {
  Kind,
  MAX_ENVELOPE_BYTES,
  MAX_MESSAGE_BYTES,
  type Message,
  type MessageContent,
  openMessage,
  type Place,
  sealMessage,
} from './envelope.ts'
export {
  type Heartbeat,
  Heartbeats,
  heartbeatIntervalMs,
  Liveness,
  type LivenessChange,
  type LivenessState,
} from './heartbeat.ts'
export { LedgerContradiction } from './history.ts'
export type { AppendOptions, CreateTopicOptions, Entry, Ledger, Price, ReadOptions, Receipt, Topics } from './ledger.ts'
export { type OwnContent, Registry, type RegistryOptions } from './registry.ts'
export { RemoteLedger, type RemoteLedgerOptions } from './remote.ts'
export { LEDGER_PROTOCOL } from './remote-wire.ts'
export { type ReaderCounts, type ReaderState, TopicReader, type TopicReaderOptions } from './topic-reader.ts'
export { type Appended, type AppendMessageOptions, TopicWriter, type TopicWriterOptions } from './topic-writer.ts'
export { makeTopics, namedTopics, namesTopics, topicEntries, topicsOf } from './topics.ts'
export {
  type Comparison,
  compareHeads,
  type LeafSource,
  openHead,
  type PlacedEntry,
  type TreeHead,
} from './tree-head.ts'
export { RECOVER_ACTIONS, type RecoverAction, recoverActionOf, type Trouble } from './trouble.ts'
