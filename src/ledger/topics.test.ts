import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Identity, openRecord, signRecord } from '../identity/index.ts'
import { MemoryLedger } from './memory-ledger.compliance.ts'
import { makeTopics, namedTopics, namesTopics, topicEntries, topicsOf } from './topics.ts'

const identity = Identity.generate()
const own = namedTopics('log:test', identity.peerId)

describe('the topics of a peer', () => {
  test('follow from its id where the names are ours to give', async () => {
    const ledger = new MemoryLedger({ id: 'log:test' })
    expect(await makeTopics(ledger, identity.peerId, { signal: new AbortController().signal })).toEqual(own)
    expect(own.stdin).toBe(`${identity.peerId}/in`)
    expect(['log:pktwew6wbac3deeh', 'hedera:testnet'].map(namesTopics)).toEqual([true, false])
  })

  test('pass through its record, those of several ledgers beside each other', () => {
    const other = { ledger: 'hedera:testnet', stdin: '0.0.1', stdout: '0.0.2', stderr: '0.0.3' }
    const entries = [...topicEntries(own), 'wifi', ...topicEntries(other)]
    const bytes = signRecord(identity, { sequence: 1, expiresAt: Date.now() + 1_000, topics: entries })
    const record = openRecord(bytes)
    expect(topicsOf(record, 'log:test')).toEqual(own)
    expect(topicsOf(record, 'hedera:testnet')).toEqual(other)
    expect(topicsOf(record, 'hedera')).toBeUndefined()
  })

  test('are all three, or none', () => {
    for (const at of [0, 1, 2])
      expect(topicsOf({ topics: topicEntries(own).toSpliced(at, 1) }, own.ledger)).toBeUndefined()
  })

  test('that are longer than a record takes are not put into one', () => {
    const long = { ...own, ledger: `log:${'a'.repeat(60)}`, stderr: 'x'.repeat(100) }
    expect(() => topicEntries(long)).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  })

  test('are those that were put there, whatever a topic is called', () => {
    const topic = fc.string({
      unit: fc.integer({ min: 0x21, max: 0x7e }).map((c) => String.fromCharCode(c)),
      minLength: 1,
      maxLength: 100,
    })
    fc.assert(
      fc.property(topic, topic, topic, (stdin, stdout, stderr) => {
        const topics = { ledger: 'log:test', stdin, stdout, stderr }
        expect(topicsOf({ topics: topicEntries(topics) }, 'log:test')).toEqual(topics)
      }),
    )
  })

  test('that are no names of topics are none, whatever a record says', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            fc.string(),
            fc.string().map((name) => `l/${name}`),
          ),
          { maxLength: 8 },
        ),
        (topics) => {
          const read = topicsOf({ topics }, 'l')
          for (const name of read === undefined ? [] : [read.stdin, read.stdout, read.stderr]) {
            expect(name).toMatch(/^[\x21-\x7e]{1,100}$/)
          }
        },
      ),
    )
    for (const bad of ['', ' ', 'a b', 'ü', 'x'.repeat(101)]) {
      expect(topicsOf({ topics: [`l/in=${bad}`, 'l/out=o', 'l/err=e'] }, 'l')).toBeUndefined()
    }
  })
})
