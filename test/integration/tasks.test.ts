/** What a peer does on the network for itself: tasks, routines, and the name that it goes by. */
import { describe, expect, test } from 'vitest'
import { FileStore, Identity, type Peer, type RoutineStatus, type TaskResult } from '../../src/index.ts'
import type { IdentifierPolicy } from '../../src/policy/identifier-policy.ts'
import { temporaryFile } from '../../src/temporary.compliance.ts'
import { outcomeOf } from './policy-rows.ts'
import { bytes, plain, startCompany, TASK_ROWS } from './task-rows.ts'
import { once, startPeer } from './world.ts'

const code = (text: string) => expect.objectContaining({ code: text })
const failed = (text: string) => expect.objectContaining({ status: 'failed', error: code(text) })
const NOBODY = Identity.generate().peerId

async function done({ tasks }: Peer, task: Parameters<Peer['tasks']['add']>[0], options = {}): Promise<TaskResult> {
  const result = await tasks.add(task, options).result
  return result.status === 'done' ? { ...result, value: plain(result.value) } : result
}

async function tempStore(): Promise<() => FileStore> {
  const file = await temporaryFile('state.json')
  return () => new FileStore(file)
}

describe('a task', () => {
  // Elsewhere all of them were empty branches, and one that was not known ended the process.
  test('of every kind does what it says', async () => {
    const company = await startCompany()
    const results: unknown[] = []
    for (const row of TASK_ROWS) {
      results.push([row.name, await done(company.doer, row.task(company))])
      await row.look?.(company)
    }
    const wanted = TASK_ROWS.map(({ name, value }) => [name, { status: 'done', value, attempts: 1 }])
    expect(results).toEqual(wanted)
    expect(new Set(TASK_ROWS.map(({ task }) => task(company).kind)).size).toBe(13)
  })

  test('to block addresses ends what is open from there, and lets nothing in', async () => {
    const { doer, other } = await startCompany()
    const cut = once<{ error: { code: string } | undefined }>(doer, 'sessionEnd')
    expect(await done(doer, { kind: 'block', addresses: '127.0.0.0/8' })).toMatchObject({ status: 'done' })
    expect(await cut).toMatchObject({ error: { code: 'ERR_PEERLINE_DENIED' } })
    await expect(other.connect(doer.id, { addresses: doer.addresses })).rejects.toThrow()
    expect(await outcomeOf(doer.connect(other.id))).not.toBe('answered')
    expect(doer.connections.total).toBe(0)
  })

  test('to authorise or revoke is about trust, where there is any', async () => {
    const { doer, other } = await startCompany({ firewall: {}, trust: { handshake: false } })
    const asks = () => outcomeOf(other.request(doer.id, '/echo/1', bytes('x')))
    expect(await asks()).toBe('ERR_PEERLINE_DENIED')
    await done(doer, { kind: 'authorise', peer: other.id })
    expect([doer.trust?.isTrusted(other.id), await asks()]).toEqual([true, 'answered'])
    await done(doer, { kind: 'revoke', peer: other.id })
    expect([doer.trust?.isTrusted(other.id), await asks()]).toEqual([false, 'ERR_PEERLINE_DENIED'])
    // For one protocol, or for a time, it is a rule, and nobody is trusted for it.
    await done(doer, { kind: 'authorise', peer: other.id, protocol: '/echo/1' })
    expect([doer.trust?.isTrusted(other.id), await asks()]).toEqual([false, 'answered'])
    await done(doer, { kind: 'revoke', peer: other.id, protocol: '/echo/1' })
    await done(doer, { kind: 'authorise', peer: other.id, until: Date.now() + 60_000 })
    expect([doer.trust?.isTrusted(other.id), await asks()]).toEqual([false, 'answered'])
    await done(doer, { kind: 'revoke', peer: other.id })
    expect(await asks()).toBe('ERR_PEERLINE_DENIED')
  })

  test('that authorises until a moment that is past fails, and changes nothing', async () => {
    const { doer, other } = await startCompany()
    const before = doer.firewall.list()
    expect(await done(doer, { kind: 'authorise', peer: other.id, until: 1 })).toEqual(failed('ERR_PEERLINE_INVALID'))
    expect(doer.firewall.list()).toEqual(before)
  })

  test('that brings settings fails where nobody takes them, or who takes them throws', async () => {
    const task = { kind: 'update-settings', settings: { size: 1 } } as const
    const plain = await startPeer()
    expect(await done(plain, task)).toEqual(failed('ERR_PEERLINE_UNSUPPORTED'))
    const picky = await startPeer({
      onSettings: async () => {
        throw new Error('no such size')
      },
    })
    expect(await done(picky, task)).toEqual(failed('ERR_PEERLINE_INVALID'))
    expect(picky.tasks.deadLetters).toMatchObject([{ task, error: { message: expect.stringMatching(/no such size/) } }])
  })

  test('that the other side refuses is not tried again', async () => {
    const { doer, other } = await startCompany()
    const ask = { kind: 'request-data', peer: other.id, protocol: '/nothing/1', body: bytes('x') } as const
    expect(await done(doer, ask)).toMatchObject({
      status: 'failed',
      attempts: 1,
      error: { code: 'ERR_PEERLINE_NO_PROTOCOL' },
    })
  })

  test('is tried again until the peer is back', async () => {
    const { doer, other } = await startCompany()
    const { identity, addresses } = other
    await other.close()
    const failure = once<{ attempt: number; error: unknown }>(doer.tasks, 'failed')
    const adding = doer.tasks.add(
      { kind: 'request-data', peer: other.id, protocol: '/echo/1', body: bytes('x') },
      { attempts: 20, retryMs: 100 },
    )
    expect(await failure).toMatchObject({ attempt: 1 })
    const back = await startPeer({ identity, listen: addresses })
    back.handle('/echo/1', () => bytes('back'))
    const result = await adding.result
    expect(result).toMatchObject({ status: 'done', value: Buffer.from('back') })
    expect(result.attempts).toBeGreaterThan(1)
  })

  test('that fails for good is a dead letter, and can be tried anew', async () => {
    const { doer, other } = await startCompany()
    const { identity, addresses } = other
    await other.close()
    const task = { kind: 'ping', peer: other.id } as const
    expect(await done(doer, task, { attempts: 2, retryMs: 100 })).toMatchObject({ status: 'failed', attempts: 2 })
    const [letter] = doer.tasks.deadLetters
    expect(letter).toMatchObject({ task, origin: 'local', attempts: 2 })
    await startPeer({ identity, listen: addresses })
    expect(await doer.tasks.retry(letter!.id).result).toMatchObject({ status: 'done' })
    expect(doer.tasks.deadLetters).toEqual([])
  })

  test('of a kind that is not known is told, and stops nothing', async () => {
    const { doer, other } = await startCompany()
    const told = once(doer.tasks, 'unknown')
    const strange = doer.tasks.add({ kind: 'unknown', name: 'dance' })
    expect(await strange.result).toEqual({ status: 'unknown', name: 'dance', attempts: 0 })
    expect(await told).toMatchObject({ task: { name: 'dance' }, origin: 'local' })
    expect(await done(doer, { kind: 'ping', peer: other.id })).toMatchObject({ status: 'done' })
  })

  test('that waits or runs when the peer closes is cancelled', async () => {
    const { doer, other } = await startCompany({ tasks: { concurrency: 1 } })
    const asked = new Promise<void>((resolve) => {
      other.handle('/never/1', () => {
        resolve()
        return new Promise<never>(() => {})
      })
    })
    const runs = doer.tasks.add({ kind: 'request-data', peer: other.id, protocol: '/never/1', body: bytes('x') })
    const waits = doer.tasks.add({ kind: 'ping', peer: other.id })
    await asked
    await doer.close()
    const over = { status: 'cancelled', error: code('ERR_PEERLINE_CLOSED') }
    expect(await Promise.all([runs.result, waits.result])).toMatchObject([over, over])
    expect(() => doer.tasks.add({ kind: 'ping', peer: other.id })).toThrow(code('ERR_PEERLINE_CLOSED'))
  })

  test('that blocks is kept: who was shut out is so after a restart', async () => {
    const store = await tempStore()
    const { doer, other } = await startCompany({ store: store() })
    await done(doer, { kind: 'block', peer: other.id })
    await doer.close()
    const again = await startPeer({ identity: doer.identity, store: store() })
    expect(await outcomeOf(other.connect(again.id, { addresses: again.addresses }))).toBe('ERR_PEERLINE_DENIED')
  })
})

describe('routines', () => {
  const byDefault = ['expire-bans', 'find-peers', 'list-self', 'ping-sessions']

  test('are there by default, and do nothing before they are started', async () => {
    const peer = await startPeer()
    const all: readonly RoutineStatus[] = peer.routines.list()
    expect(all.map(({ name }) => name).sort()).toEqual(byDefault)
    for (const one of all) expect(one).toMatchObject({ state: 'stopped', runs: 0 })
  })

  test('ask each session for an answer, as often as is wanted', async () => {
    const { doer, other } = await startCompany()
    const silent = await startPeer()
    silent.unhandle('/peerline/ping/1')
    await silent.connect(other.id, { addresses: other.addresses })
    const told = once<{ name: string; result: { value: unknown } }>(
      other.routines,
      'done',
      ({ name }) => name === 'ping-sessions',
    )
    doer.firewall.set({ subject: other.id, object: '/peerline/ping/1', direction: 'in', action: 'allow' })
    other.routines.setInterval('ping-sessions', 10)
    other.routines.start('ping-sessions')
    expect(await told).toMatchObject({ result: { ok: true, value: { asked: 2, answered: 1 } } })
    await once(other.routines, 'done', () => other.routines.list().some(({ runs }) => runs >= 3))
    other.routines.stop('ping-sessions')
    expect(other.routines.list().filter(({ state }) => state !== 'stopped')).toMatchObject([])
  })

  test('tell that bans are over', async () => {
    const peer = await startPeer()
    const over = once<{ ban: { target: string } }>(peer.bans, 'unban')
    peer.bans.ban(NOBODY, { until: Date.now() + 20 })
    peer.routines.setInterval('expire-bans', 10)
    peer.routines.start('expire-bans')
    expect(await over).toMatchObject({ ban: { target: NOBODY } })
  })

  test('that fail go on: without a bootstrap node there is nobody to ask', async () => {
    const peer = await startPeer()
    for (const name of ['find-peers', 'list-self']) {
      peer.routines.setInterval(name, 10)
      peer.routines.start(name)
      const result = { name, result: { ok: false, error: { code: 'ERR_PEERLINE_OFFLINE' } } }
      for (const _ of [1, 2]) {
        expect(await once(peer.routines, 'failed', (one: { name: string }) => one.name === name)).toMatchObject(result)
      }
    }
  })

  // Elsewhere a loop that was told to stop ignored it, and one timer was shared by all.
  test('end with their peer, and not with another one', async () => {
    const [one, other] = [await startPeer(), await startPeer()]
    let runs = 0
    const signals: AbortSignal[] = []
    const run = ({ signal }: { signal: AbortSignal }) => {
      signals.push(signal)
      return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    }
    one.routines.add({ name: 'hangs', intervalMs: 10, startNow: true, run })
    const ticking = new Promise<void>((resolve) => {
      other.routines.add({ name: 'ticks', intervalMs: 10, startNow: true, run: () => ++runs >= 1 && resolve() })
    })
    await ticking
    await one.close()
    expect(signals.map(({ aborted }) => aborted)).toEqual([true])
    expect(() => one.routines.start('hangs')).toThrow(code('ERR_PEERLINE_CLOSED'))
    const before = runs
    await once(other.routines, 'done')
    expect(runs).toBeGreaterThan(before)
  })
})

describe('the name of a peer', () => {
  /** Who may set it, and whether it is locked then. */
  const POLICIES: readonly (readonly [IdentifierPolicy, boolean, boolean, boolean])[] = [
    ['strict-local', true, false, true],
    ['local', true, false, false],
    ['local-and-remote', true, true, false],
    ['remote', false, true, false],
    ['strict-remote', false, true, true],
  ]

  /** A peer, and one that may give it orders. */
  async function named(naming: IdentifierPolicy, more = {}) {
    const authority = await startPeer()
    const peer = await startPeer({ naming, bootstrap: { authorities: [authority.id] }, ...more })
    const order = (identifier: string, about = peer.id) =>
      authority.order(peer.id, { kind: 'assign-identifier', peer: about, identifier }, { addresses: peer.addresses })
    const set = (name: string) => outcomeOf((async () => peer.identifier.set(name, 'local'))())
    return { authority, peer, order, set }
  }

  const DENIED = { state: 'failed', error: code('ERR_PEERLINE_DENIED') }

  // Elsewhere two of the five were not looked at when somebody set it.
  test.each(POLICIES)(
    'under %s: by its owner %s, by an authority %s, locked then %s',
    async (naming, local, remote, locks) => {
      const { authority, peer, order, set } = await named(naming)
      expect(await set('mine')).toBe(local ? 'answered' : 'ERR_PEERLINE_DENIED')
      expect(peer.identifier.name).toBe(local ? 'mine' : undefined)
      const may = remote && !(local && locks)
      expect(await order('theirs')).toEqual(may ? { state: 'done' } : DENIED)
      expect(peer.identifier).toMatchObject(may ? { name: 'theirs', by: authority.id } : { name: 'mine', by: 'local' })
      expect(peer.identifier.locked).toBe(locks)
      if (!locks) return
      expect(await order('another')).toEqual(DENIED)
      expect(await set('another')).toBe('ERR_PEERLINE_DENIED')
      expect(peer.identifier.name).toBe(may ? 'theirs' : 'mine')
      expect(() => peer.identifier.setPolicy('local')).toThrow(code('ERR_PEERLINE_DENIED'))
    },
  )

  test('that is locked stays so after a restart, whatever the options say', async () => {
    const store = await tempStore()
    const { peer, order } = await named('strict-remote', { store: store() })
    expect(await order('theirs')).toEqual({ state: 'done' })
    await peer.close()
    const again = await startPeer({ identity: peer.identity, naming: 'local', store: store() })
    expect(again.identifier).toMatchObject({ name: 'theirs', policy: 'strict-remote', locked: true })
    expect(() => again.identifier.set('mine', 'local')).toThrow(code('ERR_PEERLINE_DENIED'))
  })

  test('is not that of another: what a peer calls others is in its address book, whatever the policy', async () => {
    const { peer, order } = await named('strict-local')
    expect(await order('friend', NOBODY)).toEqual({ state: 'done' })
    expect(peer.known.get(NOBODY)?.name).toBe('friend')
    expect(peer.identifier.name).toBeUndefined()
  })

  test('cannot be a peer id, nor be the name of nobody', async () => {
    const { peer, order } = await named('remote')
    expect(await order(NOBODY)).toEqual({ state: 'failed', error: code('ERR_PEERLINE_INVALID') })
    expect(peer.identifier.name).toBeUndefined()
  })
})
