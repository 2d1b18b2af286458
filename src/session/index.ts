export { toNodeDuplex, toReadable, toWritable } from './adapters.ts'
export { sessionIdOf } from './attach.ts'
export type { ByteRate } from './byte-rate.ts'
export {
  Channel,
  type ChannelLimits,
  type ChannelOptions,
  type ChannelPolicy,
  DEFAULT_CAPACITY,
  MAX_WAITING_PUSHES,
} from './channel.ts'
export { FIRST_APPLICATION_CODE, StreamCode } from './codes.ts'
export type { DatagramCounts, DatagramLimits, Datagrams } from './datagrams.ts'
export { TypedEventTarget } from './events.ts'
export { MAX_CANDIDATES_BYTES, MAX_DATAGRAM_BYTES, MAX_PROTOCOL_BYTES } from './frame.ts'
export { type Incoming, type IncomingOptions, IncomingStreams } from './incoming.ts'
export { MemoryBudget } from './memory-budget.ts'
export { MessageStream, type MessageStreamOptions } from './message-stream.ts'
export type { RekeyLimits } from './outbox.ts'
export type { PathChange } from './path-chooser.ts'
export type { PathEvent, PathInfo } from './path-log.ts'
export type { KeepAlive } from './path-watch.ts'
export type { PathTiming } from './paths.ts'
export { Session } from './session.ts'
export type { Opening, SessionEvents, SessionOptions, SessionRate } from './session-options.ts'
export { Stream, type StreamSink } from './stream.ts'
export { type WatchOptions, watch } from './watch.ts'
export type { Explanation, NatSummary, PathAttempt, SignalingAttempt, WhyReport } from './why.ts'
