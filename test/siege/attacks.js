/**
 * What the attackers do. Each is one life of one of them: it ends when the connection does, and begins again.
 *
 * The first five are strangers; the others are let in and misbehave.
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { MessageKind, PROTOCOL_VERSION } from '../../dist/bytes/index.js'
import { startExchange } from '../../dist/handshake/index.js'
import { join } from './hostile-session.js'
import { framed } from './line.js'

/** Bytes of the largest first message, and of the largest body in an offer with room for the rest. */
const MAX_FIRST_MESSAGE_BYTES = 17_408
const LARGE_BODY_BYTES = 16_000

/** ms between two bytes of a slow one, and connections that each of them holds. */
const LORIS_MS = 1_000
const LORIS_LINES = 2

/** ms that whoever is not answered stays. */
const PATIENCE_MS = 3_000

/** Streams of one session, and the first window of each. */
const STREAMS = 256
const WINDOW_BYTES = 262_144
const PIECE_BYTES = 61_440

const KINDS = Object.values(MessageKind)
const head = (kind) => Uint8Array.of(PROTOCOL_VERSION, kind, 1)
const gone = (line) => Promise.race([line.closed, sleep(PATIENCE_MS)]).then(() => line.drop())

/** The `index`th of an attacker's variants. */
const choose = (variants, index) => variants[index % variants.length]

/** Valid handshakes by identities that nobody allowed, half of them XX. */
async function handshake({ index, source, offer, identity }, { lines, counts }) {
  const line = await lines.open(source)
  if (index % 2 === 0) await line.write(framed(offer().message))
  else {
    const exchange = startExchange(identity)
    await line.write(framed(exchange.message))
    const message = await line.next()
    if (message === undefined) return
    await line.write(framed(exchange.read(message).finish(new Uint8Array(0)).message))
  }
  if ((await line.next()) !== undefined) counts.answered = (counts.answered ?? 0) + 1
  await gone(line)
}

async function garbage({ source }, { lines, counts }) {
  const line = await lines.open(source)
  const bytes = randomBytes(100 + Math.floor(Math.random() * 1_900))
  const variants = [bytes, framed(bytes), ...KINDS.map((kind) => framed(head(kind), bytes))]
  await line.write(choose(variants, counts.lives))
  await gone(line)
}

/** One byte now and then, on as many connections as there may be, in the middle of the length or of the message. */
async function loris({ source }, { lines }) {
  await Promise.all(
    Array.from({ length: LORIS_LINES }, async () => {
      const line = await lines.open(source)
      for (const byte of [0, 0, 0x44, 0, ...randomBytes(1_000)]) {
        await line.write(Uint8Array.of(byte))
        await Promise.race([sleep(LORIS_MS), line.closed])
        if (line.isClosed) return
      }
    }),
  )
}

/** Arrays in arrays, or one that says that it has 2^32 members. */
function hugeCbor(index) {
  const deep = Buffer.alloc(LARGE_BODY_BYTES, 0x81)
  const wide = Buffer.concat([Uint8Array.of(0x9a, 0xff, 0xff, 0xff, 0xff), Buffer.alloc(LARGE_BODY_BYTES)])
  const map = Buffer.concat([
    Uint8Array.of(0xa1, 0x61, 0x63, 0x99, 0x3e, 0x00),
    Buffer.alloc(LARGE_BODY_BYTES - 100, 0x80),
  ])
  return choose([deep, wide, map], index)
}

async function oversize({ index, source, offer }, { lines, counts }) {
  const line = await lines.open(source)
  const variants = [
    () => Buffer.concat([Uint8Array.of(0xff, 0xff, 0xff, 0xff), randomBytes(65_536)]),
    () => framed(randomBytes(MAX_FIRST_MESSAGE_BYTES + 1)),
    () => framed(head(MessageKind.OFFER), randomBytes(MAX_FIRST_MESSAGE_BYTES - 3)),
    () => framed(offer(hugeCbor(index)).message),
  ]
  await line.write(choose(variants, counts.lives)())
  await gone(line)
}

/** A genuine offer of the friend again and again, and paths for the friend's own session without its keys. */
async function replay({ index, source }, { lines, captured, session }) {
  const line = await lines.open(source)
  const attach = Buffer.concat([
    Uint8Array.of(PROTOCOL_VERSION, MessageKind.ATTACH),
    Buffer.from(session, 'hex'),
    Uint8Array.of(0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0),
    randomBytes(32),
  ])
  await line.write(framed(index % 2 === 0 ? Buffer.from(captured, 'base64') : attach))
  await gone(line)
}

/** Streams opened and given up as fast as it goes. */
async function streams(self, world) {
  const session = await join(self, world)
  if (session === undefined) return
  for (let id = 0; !session.line.isClosed && !world.lines.closed; ) {
    await session.ordered((frames) => {
      for (const end = id + 400; id < end; id += 2) {
        frames.open(id, 'echo')
        frames.reset(id, 0)
      }
    })
  }
}

/** Requests that never end, each as large as it may be. */
async function unfinished(self, world) {
  const session = await join(self, world)
  if (session === undefined) return
  const piece = Buffer.alloc(PIECE_BYTES)
  for (let at = 0; at < STREAMS; at++) await session.ordered((frames) => frames.open(2 * at, 'echo'))
  for (let sent = 0; sent + PIECE_BYTES <= WINDOW_BYTES; sent += PIECE_BYTES) {
    for (let at = 0; at < STREAMS && !session.line.isClosed; at++) {
      await session.ordered((frames) => frames.dataToEnd(2 * at, false), piece)
    }
  }
  await session.line.closed
}

/** Large answers asked for, and not read, or read and never acknowledged. */
async function unread(self, world) {
  const session = await join(self, world)
  if (session === undefined) return
  if (self.index % 2 === 0) session.line.deaf()
  await session.ordered((frames) => {
    for (let at = 0; at < STREAMS; at++) {
      frames.open(2 * at, 'bulk')
      frames.data(2 * at, new Uint8Array(1), true)
      frames.window(2 * at, 1_048_577)
    }
  })
  await session.line.closed
}

/** Datagrams for nobody: large ones, or a thousand small ones in a record. */
async function datagrams(self, world) {
  const session = await join(self, world)
  if (session === undefined) return
  const all = self.index % 2 === 0 ? [Buffer.alloc(60_000)] : Array.from({ length: 1_000 }, () => Buffer.alloc(8))
  while (!session.line.isClosed && !world.lines.closed) await session.loose((frames) => frames.datagrams(all))
}

/** What no honest peer sends: each of these ends the session. */
async function violations(self, world) {
  const session = await join(self, world)
  if (session === undefined) return
  const piece = Buffer.alloc(PIECE_BYTES)
  const variants = [
    // more than the window
    async () => {
      await session.ordered((frames) => frames.open(0, 'idle'))
      for (let sent = 0; sent < 2 * WINDOW_BYTES; sent += PIECE_BYTES) {
        await session.ordered((frames) => frames.dataToEnd(0, false), piece)
      }
    },
    () => session.ordered((frames) => frames.open(40, 'echo')),
    () => session.ordered((frames) => frames.data(80, piece.subarray(0, 9), false)),
    () => session.ordered((frames) => frames.window(1, 2 ** 40)),
    () => session.ordered((frames) => frames.ping(Buffer.alloc(8))),
    () => session.loose((frames) => frames.ack(2 ** 40)),
    () => session.raw(randomBytes(500)),
    () => session.line.write(framed(randomBytes(60_000))),
  ]
  await choose(variants, world.counts.lives)()
  await gone(session.line)
}

/** Sessions that are left without a word: each is waited for. */
async function abandon(self, world) {
  const session = await join(self, world)
  if (session === undefined) return sleep(100)
  session.line.drop()
}

const strangers = [handshake, garbage, loris, oversize, replay]
const guests = [streams, unfinished, unread, datagrams, violations]

/** All of them at once, each by some of the attackers. */
function all(self, world) {
  const both = [...strangers, ...guests]
  return choose(both, self.index)({ ...self, index: Math.floor(self.index / both.length) }, world)
}

export const attacks = {
  handshake,
  garbage,
  loris,
  oversize,
  replay,
  streams,
  unfinished,
  unread,
  datagrams,
  violations,
  all,
  abandon,
}

const byGuests = new Set([...guests.map(({ name }) => name), 'abandon'])

/** Whether the attacker of this number is to be let in for this attack. */
export function isGuest(attack, index) {
  if (attack === 'all') return index % (strangers.length + guests.length) >= strangers.length
  return byGuests.has(attack)
}
