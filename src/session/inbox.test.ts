import { describe, expect, it } from 'vitest'
import { type Arrival, Inbox } from './inbox.ts'
import { Link } from './memory-path.compliance.ts'
import { Outbox, type PieceSource } from './outbox.ts'
import { newPathState } from './paths.ts'
import { readNumber, Sealer } from './record.ts'

const key = new Uint8Array(32).fill(1)

class Receiver {
  readonly delivered: number[] = []
  readonly inbox = new Inbox(key, (frames) => this.delivered.push(frames[0]!))

  take(record: Uint8Array): Arrival {
    return this.inbox.accept(record, readNumber(record)!)
  }
}

function sealed(count: number, bytes = 1): Uint8Array[] {
  const sealer = new Sealer(key)
  return Array.from({ length: count }, (_, at) =>
    Buffer.concat(sealer.ordered(new Uint8Array(bytes).fill(at), undefined)),
  )
}

describe('an inbox', () => {
  it('delivers in order and once, whatever the order of arrival', () => {
    const records = sealed(6)
    const receiver = new Receiver()
    const arrivals = [2, 0, 2, 5, 1, 0, 4, 3, 5].map((at) => receiver.take(records[at]!))
    expect(receiver.delivered).toEqual([0, 1, 2, 3, 4, 5])
    expect(arrivals.filter((arrival) => arrival === 'duplicate').length).toBe(3)
    expect(receiver.inbox.next).toBe(6)
  })

  it('says forged, and delivers nothing, for what does not open', () => {
    const [first, second] = sealed(2)
    const receiver = new Receiver()
    const forged = Buffer.from(first!)
    forged[30] = 9
    expect(receiver.take(Buffer.concat([first!, Uint8Array.of(0)]))).toBe('forged')
    expect(receiver.take(second!)).toBe('taken')
    expect(receiver.delivered).toEqual([])
    expect(receiver.take(first!)).toBe('taken')
    expect(receiver.delivered).toEqual([0, 1])
  })

  it('tells a forged loose record from one whose key is gone', () => {
    const sealer = new Sealer(key)
    const loose = () => Buffer.concat(sealer.loose(Uint8Array.of(7), 3))
    const receiver = new Receiver()
    const open = (record: Uint8Array) => receiver.inbox.openLoose(record, readNumber(record)!, 3)
    const [first, second] = [loose(), loose()]
    expect(open(first)).toEqual(Buffer.of(7))
    for (let epoch = 0; epoch < 2; epoch++) {
      sealer.advance()
      expect(open(loose())).toEqual(Buffer.of(7))
    }
    expect(open(second)).toBe('stale')
    const forged = loose()
    forged[20]! ^= 1
    expect(open(forged)).toBe('forged')
  })

  it('holds 32 MiB of early records and no more, and as much again when those have gone', () => {
    const records = sealed(700, 65_536)
    const receiver = new Receiver()
    const early = records.slice(1, 601).map((record) => receiver.take(record))
    const held = early.indexOf('overflow')
    expect(held).toBeGreaterThan(500)
    expect(held).toBeLessThanOrEqual(512)
    expect(early.slice(held).every((arrival) => arrival === 'overflow')).toBe(true)
    for (let again = 0; again < 600; again++) receiver.take(records[699]!)
    receiver.take(records[0]!)
    expect(receiver.inbox.next).toBe(held + 1)
    for (const record of records.slice(held + 2, held + 150)) expect(receiver.take(record)).toBe('taken')
  })

  it('takes nothing from the far future, unopened', () => {
    const receiver = new Receiver()
    const record = Buffer.from(sealed(1)[0]!)
    record.writeUInt32BE(300_000, 4)
    expect(receiver.take(record)).toBe('overflow')
  })

  it('owes an acknowledgement once, and anew when a path was lost or a record came again', () => {
    const [first] = sealed(1)
    const receiver = new Receiver()
    receiver.inbox.ackAgain()
    expect(receiver.inbox.takeAck()).toBeUndefined()
    receiver.take(first!)
    expect(receiver.inbox.takeAck()).toBe(1)
    expect(receiver.inbox.takeAck()).toBeUndefined()
    receiver.inbox.ackAgain()
    expect(receiver.inbox.takeAck()).toBe(1)
    receiver.take(first!)
    expect(receiver.inbox.takeAck()).toBe(1)
  })

  it('holds all that an outbox sends without an acknowledgement, were every record the smallest there is', () => {
    const piece = { stream: 0, data: Uint8Array.of(1), fin: false }
    const source: PieceSource = { ready: () => true, pending: () => true, next: () => piece, sent: () => {} }
    const outbox = new Outbox(key, source)
    const link = new Link('tcp', 'many')
    link.highWater = Number.POSITIVE_INFINITY
    outbox.pump(newPathState(link.ends[0], 2, 'proven'), () => undefined)
    const records = link.ends[0].queue as Uint8Array[]
    expect(records.length).toBeGreaterThan(50_000)
    const receiver = new Receiver()
    for (const record of records.slice(1)) if (receiver.take(record) !== 'taken') expect.fail('a record was refused')
    receiver.take(records[0]!)
    expect(receiver.inbox.next).toBe(records.length)
  })
})
