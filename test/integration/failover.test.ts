/**
 * Several servers, of which one dies, hangs or goes away: the others carry on.
 */
import { createHash, randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { Identity, type Peer, type PeerOptions } from '../../src/index.ts'
import { freePort } from '../../src/network/free-port.compliance.ts'
import type { Session } from '../../src/session/index.ts'
import { temporaryFile } from '../../src/temporary.compliance.ts'
import { ServerProcess } from './server-process.ts'
import { once, portOf, startPeer, startServer } from './world.ts'

const BODY = new TextEncoder().encode('hello')

/** A peer that nothing but relays leads to, online at every server. */
async function startHidden(urls: readonly string[], options: PeerOptions = {}): Promise<Peer> {
  const peer = await startPeer({ rendezvous: urls, listen: [], udp: false, ...options })
  const missing = new Set(urls.map((url) => url.split('#')[0]))
  await new Promise<void>((resolve) => {
    peer.addEventListener('online', ({ detail }) => {
      missing.delete(detail.rendezvous)
      if (missing.size === 0) resolve()
    })
  })
  peer.handle('/echo/1', (request) => request)
  return peer
}

async function ask(from: Peer, to: Peer): Promise<string> {
  return Buffer.from(await from.request(to.id, '/echo/1', BODY)).toString()
}

/** Resolves when `peer` says so of the server at `url`. */
function told(peer: Peer, what: 'online' | 'offline', url: string): Promise<unknown> {
  return once<{ rendezvous: string }>(peer, what, ({ rendezvous }) => rendezvous === url.split('#')[0])
}

/** Sends 32 MiB in pieces, runs `midway` between two of them, and tells whether all arrived as it was. */
async function transfer(session: Session, to: Peer, midway: () => Promise<void>): Promise<boolean> {
  const sent = randomBytes(32 << 20)
  const arrived = new Promise<string>((resolve, reject) => {
    to.handleStream('/bulk/1', async (stream) => {
      const hash = createHash('sha256')
      try {
        for await (const chunk of stream) hash.update(chunk)
        await stream.end()
        resolve(hash.digest('hex'))
      } catch (error) {
        reject(error)
      }
    })
  })
  const stream = await session.open('/bulk/1')
  const step = 1 << 20
  for (let at = 0; at < sent.length; at += step) {
    if (at === 8 * step) await midway()
    await stream.write(sent.subarray(at, at + step))
  }
  await stream.end()
  return (await arrived) === createHash('sha256').update(sent).digest('hex')
}

describe('with two servers', () => {
  test('one is killed: peers dial through the other, and use the first again when it is back', async () => {
    const identity = await temporaryFile('server.key')
    const killed = new ServerProcess(`127.0.0.1:${await freePort()}`, identity)
    const url = await killed.url()
    const other = await startServer()
    const [a, b] = await Promise.all([startHidden([url, other.url]), startHidden([url, other.url])])
    const lost = [a, b].map((peer) => told(peer, 'offline', url))
    await killed.kill()
    expect(await ask(a, b)).toBe('hello')
    expect(other.circuits).toBe(1)
    await Promise.all(lost)

    const back = [a, b].map((peer) => told(peer, 'online', url))
    const again = new ServerProcess(`127.0.0.1:${portOf(url)}`, identity)
    expect(await again.url()).toBe(url)
    await Promise.all(back)
    const gone = [a, b].map((peer) => told(peer, 'offline', other.url))
    await Promise.all([other.close(), ...gone])
    const c = await startPeer({ rendezvous: [url], listed: false, listen: [], udp: false })
    expect(await ask(c, b)).toBe('hello')
  })

  test('one is killed in the middle of a dial: the answer comes by the other', async () => {
    const killed = new ServerProcess('127.0.0.1:0', await temporaryFile('server.key'))
    const urls = [await killed.url(), (await startServer()).url]
    let approve = (_yes: boolean) => {}
    let tell = () => {}
    const asked = new Promise<void>((resolve) => {
      tell = resolve
    })
    const approved = new Promise<boolean>((resolve) => {
      approve = resolve
    })
    const firewall = {
      approve: () => {
        tell()
        return approved
      },
    }
    const [a, b] = await Promise.all([startHidden(urls), startHidden(urls, { firewall })])
    const dial = a.connect(b.id)
    await asked
    const lost = [a, b].map((peer) => told(peer, 'offline', urls[0]!))
    await Promise.all([killed.kill(), ...lost])
    approve(true)
    expect((await dial).path).toBe('relay')
  })

  test('one hangs: a dial does not wait for it', async () => {
    const hanging = new ServerProcess('127.0.0.1:0', await temporaryFile('server.key'))
    const url = await hanging.url()
    const other = await startServer()
    const [a, b] = await Promise.all([startHidden([url, other.url]), startHidden([url, other.url])])
    hanging.child.kill('SIGSTOP')
    const before = performance.now()
    expect(await ask(a, b)).toBe('hello')
    expect(performance.now() - before).toBeLessThan(5_000)
    expect(other.circuits).toBe(1)
  })

  test('one drains: what it relays goes on to the last byte, new dials go through the other', async () => {
    const [draining, other] = [await startServer(), await startServer()]
    const urls = [draining.url, other.url]
    const [a, b, c] = await Promise.all([startHidden(urls), startHidden(urls), startHidden(urls)])
    const session = await a.connect(b.id, { relay: { url: draining.url, exclusive: true } })
    expect([draining.circuits, other.circuits]).toEqual([1, 0])
    let drained: Promise<void> | undefined
    const whole = await transfer(session, b, async () => {
      drained = draining.drain({ ms: 60_000 })
      // Whether or not c has been told by now: if not, the relay that drains refuses its circuit.
      expect(await ask(c, b)).toBe('hello')
      expect(other.circuits).toBeGreaterThan(0)
      const late = await startPeer({ rendezvous: [draining.url], listen: [], udp: false })
      await expect(late.online()).rejects.toMatchObject({ code: 'ERR_PEERLINE_BUSY' })
      await late.close()
    })
    expect(whole).toBe(true)
    expect([session.state, draining.peers]).toEqual(['open', 3])

    const gone = [a, b, c].map((peer) => told(peer, 'offline', draining.url))
    await Promise.all([draining.close(), ...gone])
    await drained
    expect(await ask(b, c)).toBe('hello')
  })

  test('one drains and is started anew: its peers are back, with reservations', async () => {
    const identity = Identity.generate()
    const first = await startServer({ identity, listen: `127.0.0.1:${await freePort()}` })
    const [a, b] = await Promise.all([startHidden([first.url]), startHidden([first.url])])
    const gone = [a, b].map((peer) => told(peer, 'offline', first.url))
    await first.drain({ ms: 300 })
    await Promise.all(gone)
    const back = [a, b].map((peer) => told(peer, 'online', first.url))
    const second = await startServer({ identity, listen: `127.0.0.1:${portOf(first.url)}` })
    await Promise.all(back)
    expect(await ask(a, b)).toBe('hello')
    expect(second.circuits).toBe(1)
  })
})
