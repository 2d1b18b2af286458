/**
 * Peers that find each other through a ledger: a file that they share, or one that a server offers.
 */
import path from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { FileStore, Identity, LogLedger, openRecord, Peer, type PeerOptions } from '../../src/index.ts'
import { MemoryLedger } from '../../src/ledger/memory-ledger.compliance.ts'
import { freePort } from '../../src/network/free-port.compliance.ts'
import { temporaryDirectory, temporaryFile } from '../../src/temporary.compliance.ts'
import { once, startPeer, startServer } from './world.ts'

const BODY = new TextEncoder().encode('hello')

async function startEcho(options: PeerOptions): Promise<Peer> {
  const peer = await startPeer({ udp: false, ...options })
  peer.handle('/echo/1', (request) => request)
  await peer.online({ signal: AbortSignal.timeout(10_000) })
  return peer
}

async function ask(from: Peer, to: Peer): Promise<string> {
  return Buffer.from(await from.request(to.id, '/echo/1', BODY, { signal: AbortSignal.timeout(15_000) })).toString()
}

const open = async (file: string) => ({ ledger: await LogLedger.open(file) })

describe('a ledger that is a file', () => {
  test('two peers with nothing else find each other; it is told what it took', async () => {
    const file = await temporaryFile('ledger')
    const [a, b] = [await startEcho({ ledgers: [await open(file)] }), await startEcho({ ledgers: [await open(file)] })]
    expect(await ask(a, b)).toBe('hello')
    const [session] = a.sessions
    expect(session!.path).toBe('tcp')
    expect(session!.why().signaling).toMatchObject([
      { medium: `ledger file ${file}`, outcome: 'answered', messages: 1 },
    ])
    expect(a.ledgers).toMatchObject([{ online: true, topics: { stdin: `${a.id}/in` } }])
    // What is in the file tells neither an address, nor who has dialled.
    const { readFile } = await import('node:fs/promises')
    const bytes = await readFile(file)
    for (const address of [...a.addresses, ...b.addresses]) expect(bytes.includes(address)).toBe(false)
    const reader = await LogLedger.open(file)
    const signal = AbortSignal.timeout(5_000)
    const { entries } = await reader.read(`${b.id}/in`, { signal })
    await reader.close()
    expect(entries).toHaveLength(1)
    expect(Buffer.from(entries[0]!.message).includes(Buffer.from(a.identity.publicKey))).toBe(false)
  })

  test('a peer that has said goodbye, or was never there, is offline, and nothing is written', async () => {
    const file = await temporaryFile('ledger')
    const a = await startEcho({ ledgers: [await open(file)] })
    const b = await startEcho({ ledgers: [await open(file)] })
    const gone = b.id
    expect(a.liveness(gone)).toBe('unknown')
    expect(await ask(a, b)).toBe('hello')
    expect(a.liveness(gone)).toBe('alive')
    await b.close()
    const reader = await LogLedger.open(file)
    onTestFinished(() => reader.close())
    for (const id of [gone, Identity.generate().peerId]) {
      await expect(a.connect(id)).rejects.toMatchObject({ code: 'ERR_PEERLINE_OFFLINE' })
      const { entries } = await reader.read(`${id}/in`, { signal: AbortSignal.timeout(5_000) })
      // The first offer was answered.
      expect(entries).toHaveLength(id === gone ? 1 : 0)
    }
    expect(a.liveness(gone)).toBe('offline')
  })

  test('who is not let in hears no, and who does not listen at the ledger is not found there', async () => {
    const file = await temporaryFile('ledger')
    const a = await startEcho({ ledgers: [await open(file)] })
    const b = await startEcho({ ledgers: [await open(file)], firewall: {} })
    await expect(a.connect(b.id)).rejects.toMatchObject({ code: 'ERR_PEERLINE_DENIED' })
    const quiet = await startEcho({ ledgers: [await open(file)], listed: false })
    await expect(a.connect(quiet.id)).rejects.toMatchObject({ code: 'ERR_PEERLINE_OFFLINE' })
    b.firewall.allow(quiet.id)
    expect(await ask(quiet, b)).toBe('hello')
  })

  test('the next start goes on where this one ended: what came meanwhile is answered, nothing twice', async () => {
    const directory = await temporaryDirectory()
    const file = path.join(directory, 'ledger')
    const store = path.join(directory, 'store')
    const identity = Identity.generate()
    const start = async () =>
      startEcho({ identity, store: new FileStore(store), ledgers: [await open(file)], listen: ['127.0.0.1:0'] })
    const a = await startEcho({ ledgers: [await open(file)] })
    const b = await start()
    expect(await ask(a, b)).toBe('hello')
    await b.close()
    const again = await start()
    const answered: unknown[] = []
    again.addEventListener('session', ({ detail }) => answered.push(detail))
    expect(await ask(a, again)).toBe('hello')
    expect(answered).toHaveLength(1)
  })
})

describe('a ledger that gives topics names of its own', () => {
  test('is of use where the topics of a peer are known: by a record of it, and then from the address book', async () => {
    const ledger = new MemoryLedger()
    const [a, b] = [await startEcho({ ledgers: [{ ledger }] }), await startEcho({ ledgers: [{ ledger }] })]
    await expect(a.connect(b.id)).rejects.toMatchObject({ code: 'ERR_PEERLINE_OFFLINE' })
    const record = openRecord(b.record(Date.now() + 60_000))
    expect(record.topics).toContain(`memory:test/in=${b.ledgers[0]!.topics!.stdin}`)
    a.known.learnRecord({ ...record, addresses: [] })
    expect(await ask(a, b)).toBe('hello')
    expect(a.sessions[0]!.why().signaling).toMatchObject([{ outcome: 'answered', messages: 1 }])
    const c = await startEcho({ ledgers: [{ ledger }] })
    c.known.load(a.known.export().map((known) => ({ ...known, addresses: [] })))
    expect(await ask(c, b)).toBe('hello')
  })

  test('has them in a registry, by which the address book learns of them', async () => {
    const settings = { ledgers: [{ ledger: new MemoryLedger(), registry: 'all' }] }
    const [a, b] = [await startEcho(settings), await startEcho(settings)]
    expect(a.known.topicsOf(b.id)).toEqual([])
    expect(await ask(a, b)).toBe('hello')
    expect(a.known.topicsOf(b.id)).toHaveLength(3)
  })
})

describe('a ledger that a server offers', () => {
  test('two peers that are at no rendezvous find each other, also after the server was started again', async () => {
    const directory = await temporaryDirectory()
    const identity = Identity.generate()
    const listen = `127.0.0.1:${await freePort()}`
    const options = { identity, listen, ledger: path.join(directory, 'ledger'), relay: false as const }
    const server = await startServer(options)
    const settings = { ledgers: [{ ledger: server.url }] }
    const [a, b] = [await startEcho(settings), await startEcho(settings)]
    expect(await ask(a, b)).toBe('hello')
    expect(a.sessions.find(({ peer }) => peer === b.id)!.why().signaling).toMatchObject([
      { outcome: 'answered', messages: 1 },
    ])
    await server.close({ signal: AbortSignal.abort() })
    await startServer(options)
    const c = await startEcho(settings)
    expect(await ask(c, b)).toBe('hello')
  })

  test('one that cannot be reached is tried again, and told; a dial does not wait for it for long', async () => {
    const url = `ws://127.0.0.1:${await freePort()}#${Identity.generate().peerId}`
    const b = await startPeer()
    b.handle('/echo/1', (request) => request)
    const a = await startPeer({ ledgers: [{ ledger: url }] })
    const { error, retryMs } = await once<{ error: { code: string }; retryMs: number }>(a, 'ledgerError')
    expect([error.code, retryMs > 0]).toEqual(['ERR_PEERLINE_UNREACHABLE', true])
    await expect(a.online()).rejects.toMatchObject({ code: 'ERR_PEERLINE_UNREACHABLE' })
    a.known.give(b.id, b.addresses[0])
    expect(await ask(a, b)).toBe('hello')
  })

  test('what is kept of it is of no use to another server: a history that was changed is noticed over a restart', async () => {
    const directory = await temporaryDirectory()
    const identity = Identity.generate()
    const listen = `127.0.0.1:${await freePort()}`
    const start = (file: string) =>
      startServer({ identity, listen, ledger: path.join(directory, file), relay: false as const })
    const server = await start('one')
    const store = path.join(directory, 'store')
    const own = Identity.generate()
    const a = await startEcho({ identity: own, store: new FileStore(store), ledgers: [{ ledger: server.url }] })
    await a.close()
    await server.close({ signal: AbortSignal.abort() })
    // The same server, with another past.
    const other = await start('two')
    const again = await Peer.create({
      ...{ identity: own, store: new FileStore(store), ledgers: [{ ledger: other.url }] },
      ...{ listen: ['127.0.0.1:0'], udp: false },
    })
    onTestFinished(() => again.close())
    const { error } = await once<{ error: { code: string } }>(again, 'ledgerError')
    expect(error.code).toBe('ERR_PEERLINE_LEDGER')
  })
})
