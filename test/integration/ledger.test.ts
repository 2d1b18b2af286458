/**
 * A ledger that a server offers to peers: kept in a file, served over sessions, and not to be changed unnoticed.
 */
import { copyFile, writeFile } from 'node:fs/promises'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { Identity, type Peer } from '../../src/index.ts'
import { Kind, type Message, sealMessage } from '../../src/ledger/envelope.ts'
import { LedgerContradiction } from '../../src/ledger/history.ts'
import type { Entry } from '../../src/ledger/ledger.ts'
import { LogLedger } from '../../src/ledger/log.ts'
import { RemoteLedger } from '../../src/ledger/remote.ts'
import { TopicReader } from '../../src/ledger/topic-reader.ts'
import { compareHeads, hashEntry } from '../../src/ledger/tree-head.ts'
import { Server } from '../../src/server/index.ts'
import { temporaryFile } from '../../src/temporary.compliance.ts'
import { portOf, startPeer, startServer } from './world.ts'

const signal = AbortSignal.timeout(120_000)
const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })
const bytes = (text: string) => new TextEncoder().encode(text)
const text = ({ message }: Entry) => new TextDecoder().decode(message)

/** A ledger as `peer` has it of `server`. */
async function open(peer: Peer, server: Server, head?: Uint8Array): Promise<RemoteLedger> {
  const addresses = [`127.0.0.1:${portOf(server.url)}`]
  const session = ({ signal }: { signal: AbortSignal }) => peer.connect(server.peer.id, { addresses, signal })
  const ledger = await RemoteLedger.open({ session, head, signal })
  onTestFinished(() => ledger.close())
  return ledger
}

describe('a server with a ledger', () => {
  test('keeps what peers write, for all of them, and after a restart', async () => {
    const [file, identity] = [await temporaryFile('ledger'), Identity.generate()]
    const server = await startServer({ ledger: file, identity })
    const [a, b] = [await startPeer(), await startPeer()]
    const [byA, byB] = [await open(a, server), await open(b, server)]
    expect([byA.id, byA.node]).toEqual([server.ledger!.id, server.peer.id])
    expect(byA.id).toMatch(/^log:/)
    const live = byB.subscribe(`${b.id}/in`, { signal })
    const first = live.next()
    const { at } = await byA.append(`${b.id}/in`, bytes('hello'), { signal })
    expect((await first).value).toEqual({ sequence: 1, at, message: bytes('hello') })
    await expect(byA.append(`${b.id}/out`, bytes('as b'), { signal })).rejects.toEqual(code('ERR_PEERLINE_DENIED'))
    await byB.append(`${b.id}/out`, bytes('as b'), { signal })
    await live.return()
    const { head } = byB
    await server.close()
    await expect(server.ledger!.append('topic', bytes('late'), { signal })).rejects.toEqual(code('ERR_PEERLINE_CLOSED'))
    await expect(byB.read(`${b.id}/in`, { signal: AbortSignal.timeout(2_000) })).rejects.toMatchObject({
      name: 'PeerlineError',
    })

    // What is written beside the server, by who has the file, is in it too.
    const log = await LogLedger.open(file)
    await log.append(`${b.id}/in`, bytes('meanwhile'), { signal })
    await log.close()
    const again = await startServer({ ledger: file, identity })
    const later = await open(b, again, head.bytes)
    expect((await later.read(`${b.id}/in`, { signal })).entries.map(text)).toEqual(['hello', 'meanwhile'])
    expect(later.head.size).toBe(3)
    await later.check(head.bytes, { signal })
  })

  test('does not close a ledger that it was given, and has none when that is not wanted', async () => {
    const log = await LogLedger.open(await temporaryFile('ledger'))
    onTestFinished(() => log.close())
    const [server, without] = [await startServer({ ledger: log }), await startServer()]
    const peer = await startPeer()
    await log.append('topic', bytes('from here'), { signal })
    const remote = await open(peer, server)
    expect((await remote.read('topic', { signal })).entries.map(text)).toEqual(['from here'])
    // Each leaf is what the reader makes of the entry.
    const { entries } = await log.read('topic', { signal })
    expect(await log.leafHashes(0, 1)).toEqual([hashEntry('topic', entries[0]!)])
    await server.close()
    expect(await log.append('topic', bytes('still'), { signal })).toMatchObject({ sequence: 2 })
    expect(without.ledger).toBeUndefined()
    await expect(open(peer, without)).rejects.toEqual(code('ERR_PEERLINE_NO_PROTOCOL'))
  })

  test('does not start with a file that is no ledger, and leaves nothing behind', async () => {
    const file = await temporaryFile('ledger')
    await writeFile(
      file,
      'this is something else, and longer than the header of a ledger is: it has eighty-eight bytes',
    )
    await expect(Server.create({ listen: '127.0.0.1:0', ledger: file })).rejects.toEqual(code('ERR_PEERLINE_LEDGER'))
    const [good, port] = [await temporaryFile('ledger'), portOf((await startServer()).url)]
    const close = vi.spyOn(LogLedger.prototype, 'close')
    onTestFinished(() => close.mockRestore())
    await expect(Server.create({ listen: `127.0.0.1:${port}`, ledger: good })).rejects.toEqual(
      code('ERR_PEERLINE_ADDRESS_IN_USE'),
    )
    expect(close).toHaveBeenCalledOnce()
  })

  test('that comes back with a backup of its ledger is caught by who was there, once it has as much again', async () => {
    const [file, identity] = [await temporaryFile('ledger'), Identity.generate()]
    const backup = `${file}.backup`
    let server = await startServer({ ledger: file, identity })
    const [a, b] = [await startPeer(), await startPeer()]
    const byA = await open(a, server)
    await byA.append('topic', bytes('one'), { signal })
    await copyFile(file, backup)
    await byA.append('topic', bytes('two'), { signal })
    const known = byA.head
    await server.close()
    await copyFile(backup, file)
    server = await startServer({ ledger: file, identity })

    // It has less than it had.
    const error: unknown = await open(a, server, known.bytes).catch((error: unknown) => error)
    expect(error).toBeInstanceOf(LedgerContradiction)
    expect((error as LedgerContradiction).heads.map(({ size }) => size)).toEqual([2, 1])
    // It has as much, and other things.
    const byB = await open(b, server)
    await byB.append('topic', bytes('another two'), { signal })
    await expect(open(a, server, known.bytes)).rejects.toEqual(code('ERR_PEERLINE_LEDGER'))
    expect(compareHeads(known, byB.head)).toBe('contradiction')
    // And more.
    await byB.append('topic', bytes('three'), { signal })
    await expect(open(a, server, known.bytes)).rejects.toEqual(code('ERR_PEERLINE_LEDGER'))
    await expect(byB.check(known.bytes, { signal })).rejects.toEqual(code('ERR_PEERLINE_LEDGER'))
  })

  test('carries signed messages to a reader that outlives it, each once and in order', async () => {
    const [file, identity] = [await temporaryFile('ledger'), Identity.generate()]
    let server = await startServer({ ledger: file, identity })
    const listen = `127.0.0.1:${portOf(server.url)}`
    const [writer, reader] = [await startPeer(), await startPeer()]
    const topic = `${writer.id}/out`
    const got: string[] = []
    const ledger = await open(reader, server)
    const reading = new TopicReader({
      ledger,
      topic,
      onMessage: ({ payload }: Message) => got.push(new TextDecoder().decode(payload)),
    })
    onTestFinished(() => reading.close())
    const write = async (sequence: number) => {
      const payload = bytes(`message ${sequence}`)
      const message = sealMessage(writer.identity, {
        ledger: ledger.id,
        topic,
        sequence,
        kind: Kind.HEARTBEAT,
        payload,
      })
      await (await open(writer, server)).append(topic, message, { signal })
    }
    await write(1)
    await vi.waitFor(() => expect(got).toEqual(['message 1']), { timeout: 5_000 })
    await server.close()
    server = await startServer({ listen, ledger: file, identity })
    await write(2)
    await vi.waitFor(() => expect(got).toEqual(['message 1', 'message 2']), { timeout: 15_000, interval: 50 })
  }, 30_000)
})
