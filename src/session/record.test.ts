import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Opener, RECORD_HEAD_BYTES, readNumber, Sealer } from './record.ts'

const key = new Uint8Array(32).fill(9)
const text = (value: string) => new TextEncoder().encode(value)

/** Opens a record as a session would: the number first, then the seal. */
function open(opener: Opener, record: Uint8Array, path = 0): Uint8Array | undefined {
  const number = readNumber(record)
  return number === undefined ? undefined : opener.open(record, number, path)
}

const bytes = fc.uint8Array({ minLength: 1, maxLength: 200 })

describe('a record', () => {
  it('opens to what was sealed, ordered or loose, with a body or without', () => {
    fc.assert(
      fc.property(bytes, fc.option(bytes, { nil: undefined }), fc.nat(0xffffffff), (frames, body, path) => {
        const sealer = new Sealer(key)
        const opener = new Opener(key)
        const ordered = Buffer.concat(sealer.ordered(frames, body))
        expect(Buffer.from(open(opener, ordered)!)).toEqual(Buffer.concat([frames, body ?? text('')]))
        const loose = Buffer.concat(sealer.loose(frames, path))
        expect(Buffer.from(open(opener, loose, path)!)).toEqual(Buffer.from(frames))
      }),
    )
  })

  it('does not copy the body into the head: one data frame is two buffers', () => {
    const parts = new Sealer(key).ordered(text('head'), new Uint8Array(1000))
    expect(parts.map((part) => part.length)).toEqual([RECORD_HEAD_BYTES + 4, 1000])
  })

  it('does not open when any one bit of it is flipped', () => {
    for (const loose of [false, true]) {
      const sealer = new Sealer(key)
      const record = Buffer.concat(loose ? sealer.loose(text('frames'), 2) : sealer.ordered(text('fra'), text('mes')))
      for (let bit = 0; bit < record.length * 8; bit++) {
        const forged = Buffer.from(record)
        forged[bit >> 3]! ^= 1 << (bit & 7)
        expect(open(new Opener(key), forged, 2), `bit ${bit}`).toBeUndefined()
      }
      expect(open(new Opener(key), record, 2)).toBeDefined()
    }
  })

  it('does not open when it is cut or lengthened', () => {
    fc.assert(
      fc.property(bytes, fc.nat(), bytes, (frames, at, more) => {
        const record = Buffer.concat(new Sealer(key).ordered(frames, undefined))
        expect(open(new Opener(key), record.subarray(0, at % record.length))).toBeUndefined()
        expect(open(new Opener(key), Buffer.concat([record, more]))).toBeUndefined()
      }),
    )
  })

  it('opens with no other key', () => {
    const record = Buffer.concat(new Sealer(key).ordered(text('x'), undefined))
    expect(open(new Opener(new Uint8Array(32).fill(8)), record)).toBeUndefined()
  })

  it('is refused unopened when too short to hold a number, a tag and a frame', () => {
    for (let length = 0; length <= RECORD_HEAD_BYTES; length++) {
      expect(readNumber(new Uint8Array(length))).toBeUndefined()
    }
    expect(readNumber(new Uint8Array(RECORD_HEAD_BYTES + 1))).toEqual({ loose: false, epoch: 0, count: 0 })
  })
})

describe('a loose record', () => {
  it('means nothing on another path', () => {
    fc.assert(
      fc.property(fc.nat(0xffffffff), fc.nat(0xffffffff), (path, wrong) => {
        fc.pre(path !== wrong)
        const record = Buffer.concat(new Sealer(key).loose(text('ping'), path))
        expect(open(new Opener(key), record, wrong)).toBeUndefined()
        expect(open(new Opener(key), record, path)).toBeDefined()
      }),
    )
  })

  it('cannot pass for an ordered one', () => {
    const record = Buffer.concat(new Sealer(key).loose(text('ping'), 0))
    record[0]! &= 0x7f
    expect(readNumber(record)!.loose).toBe(false)
    expect(open(new Opener(key), record)).toBeUndefined()
  })
})

describe('record numbers', () => {
  it('never repeat under a key, whatever the order of sealing', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('ordered', 'loose', 'advance'), { maxLength: 60 }), (steps) => {
        const sealer = new Sealer(key)
        const seen = new Set<string>()
        let ordered = 0
        let loose = 0
        for (const step of steps) {
          if (step === 'advance') {
            sealer.advance()
            continue
          }
          const [record] = step === 'ordered' ? sealer.ordered(text('x'), undefined) : sealer.loose(text('x'), 1)
          const number = Buffer.from(record!.subarray(0, 8)).toString('hex')
          expect(seen.has(number)).toBe(false)
          seen.add(number)
          const count = step === 'ordered' ? ordered++ : loose++
          expect(readNumber(record!)).toEqual({ loose: step === 'loose', epoch: sealer.epoch, count })
        }
        expect(sealer.next).toBe(ordered)
      }),
    )
  })

  it('read back as they were written, up to 48 bits of count and 15 of epoch', () => {
    const record = Buffer.alloc(RECORD_HEAD_BYTES + 1)
    record.writeBigUInt64BE(0xffff_ffff_ffff_ffffn)
    expect(readNumber(record)).toEqual({ loose: true, epoch: 0x7fff, count: 2 ** 48 - 1 })
    record.writeBigUInt64BE(0x0001_0001_0000_0000n)
    expect(readNumber(record)).toEqual({ loose: false, epoch: 1, count: 2 ** 32 })
  })
})

describe('epochs', () => {
  const sealed = (epochs: number): Uint8Array[] => {
    const sealer = new Sealer(key)
    return Array.from({ length: epochs }, (_, epoch) => {
      if (epoch > 0) sealer.advance()
      return Buffer.concat(sealer.ordered(text(`epoch ${epoch}`), undefined))
    })
  }

  it('move to the next key on sight of it, and the one before still opens', () => {
    const [zero, one, two] = sealed(3)
    const opener = new Opener(key)
    expect(open(opener, one!)).toEqual(Buffer.from('epoch 1'))
    expect(open(opener, zero!)).toEqual(Buffer.from('epoch 0'))
    expect(open(opener, two!)).toEqual(Buffer.from('epoch 2'))
    expect(open(opener, one!)).toEqual(Buffer.from('epoch 1'))
  })

  it('do not open what is two older or two newer', () => {
    const [zero, one, two, three] = sealed(4)
    const opener = new Opener(key)
    expect(open(opener, two!)).toBeUndefined()
    expect(open(opener, one!)).toBeDefined()
    expect(open(opener, three!)).toBeUndefined()
    expect(open(opener, two!)).toBeDefined()
    expect(open(opener, zero!)).toBeUndefined()
  })

  it('are not moved by a forgery', () => {
    const [zero, one, two] = sealed(3)
    const opener = new Opener(key)
    const forged = Buffer.from(one!)
    forged[30]! ^= 1
    expect(open(opener, forged)).toBeUndefined()
    expect(open(opener, two!)).toBeUndefined()
    expect(open(opener, zero!)).toBeDefined()
  })

  it('start over after 2^15, with other keys', () => {
    const sealer = new Sealer(key)
    const opener = new Opener(key)
    for (let epoch = 1; epoch <= 0x8000; epoch++) {
      sealer.advance()
      if (!open(opener, Buffer.concat(sealer.ordered(text('x'), undefined)))) expect.fail(`epoch ${epoch}`)
    }
    expect(sealer.epoch).toBe(0)
    expect(open(new Opener(key), Buffer.concat(sealer.ordered(text('x'), undefined)))).toBeUndefined()
  })
})
