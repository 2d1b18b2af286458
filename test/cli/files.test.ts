import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, mkdirSync } from 'node:fs'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import { EXIT } from '../../src/cli/exit-codes.ts'
import { type Json, World } from './command.ts'

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

describe('send and receive', () => {
  test('files arrive whole, one after the other, and both sides tell', async () => {
    const world = await World.make()
    await world.serve()
    const bytes = randomBytes(3_000_000)
    await writeFile(world.file('report.bin'), bytes)
    await writeFile(world.file('empty'), '')
    const receive = await world.ready('b', ['receive', '--dir', world.file('in/box'), '--allow', await world.id('a')])
    const send = await world.run('a', ['send', world.file('report.bin'), world.file('empty'), receive.peerId, '--json'])
    expect(send.stderr).toBe('')
    expect(await send.code()).toBe(EXIT.OK)

    const sent = send.events.filter(({ event }) => event === 'sent')
    const common = { event: 'sent', resumedFrom: 0, seconds: expect.any(Number) }
    expect(sent).toEqual([
      { ...common, name: 'report.bin', savedAs: 'report.bin', bytes: bytes.length, sha256: sha256(bytes) },
      { ...common, name: 'empty', savedAs: 'empty', bytes: 0, sha256: sha256(Buffer.alloc(0)) },
    ])
    await receive.event(({ event, name }) => event === 'received' && name === 'empty')
    const from = await world.id('a')
    const notable = receive.events.filter(({ event }) => event !== 'progress')
    const path = world.file('in/box/report.bin')
    expect(notable).toEqual([
      { event: 'ready', peerId: receive.peerId, addresses: receive.addresses },
      { event: 'receiving', from, name: 'report.bin', bytes: bytes.length, resumedFrom: 0 },
      { event: 'received', from, name: 'report.bin', path, bytes: bytes.length, sha256: sha256(bytes) },
      { event: 'receiving', from, name: 'empty', bytes: 0, resumedFrom: 0 },
      expect.objectContaining({ event: 'received', name: 'empty', bytes: 0 }),
    ])
    for (const { events } of [send, receive]) {
      const progress = events.filter(({ event }) => event === 'progress')
      expect(progress.length).toBeGreaterThan(0)
      expect(progress[0]).toEqual({
        event: 'progress',
        name: 'report.bin',
        doneBytes: expect.any(Number),
        totalBytes: bytes.length,
        path: expect.stringMatching(/^(relay|tcp)$/),
      })
    }
    expect((await readFile(path)).equals(bytes)).toBe(true)
    receive.child.kill('SIGINT')
    expect(await receive.exit).toEqual({ code: EXIT.OK, signal: null })
    expect(receive.stderr).toBe('')
  })

  test('--once ends after one file; a name that is taken gets a number; the rate is held; progress is not a flood', async () => {
    const world = await World.make()
    await world.serve()
    await writeFile(world.file('report.bin'), randomBytes(2_000_000))
    mkdirSync(world.file('in'))
    await writeFile(world.file('in/report.bin'), 'was here before')
    const receive = await world.ready('b', ['receive', '--dir', world.file('in'), '--allow', 'all', '--once'])
    const send = await world.run('a', [
      'send',
      world.file('report.bin'),
      receive.peerId,
      '--limit-rate',
      '2M',
      '--json',
    ])
    const sent = send.events.at(-1)!
    expect(sent).toMatchObject({ event: 'sent', savedAs: 'report (2).bin' })
    expect(sent.seconds).toBeGreaterThan(0.8)
    const most = Math.ceil((sent.seconds as number) * 5) + 1
    expect(send.events.filter(({ event }) => event === 'progress').length).toBeLessThanOrEqual(most)
    expect(await receive.exit).toEqual({ code: EXIT.OK, signal: null })
    expect(await readFile(world.file('in/report.bin'), 'utf8')).toBe('was here before')
  })

  test('for people, both sides say what happened on standard error', async () => {
    const world = await World.make()
    await world.serve()
    await writeFile(world.file('report.bin'), 'hello')
    const args = ['receive', '--dir', world.file('in'), '--allow', 'all', '--once']
    const receive = world.start('b', args)
    await receive.said(/this is/)
    const send = await world.run('a', ['send', world.file('report.bin'), await world.id('b')])
    expect(send.stdout).toBe('')
    expect(send.stderr).toMatch(/sent report\.bin \(5 B, verified\) in /)
    await receive.exit
    expect(receive.stdout).toBe('')
    expect(receive.stderr).toMatch(/receiving report\.bin \(5 B\) from .*\nreceived .*report\.bin \(5 B, verified\)/)
  })

  test.each(['SIGKILL', 'SIGINT'] as const)('a sender ended by %s midway goes on where it stopped', async (signal) => {
    const world = await World.make()
    await world.serve()
    const bytes = randomBytes(12_000_000)
    await writeFile(world.file('big.bin'), bytes)
    const receive = await world.ready('b', ['receive', '--dir', world.file('in'), '--allow', 'all', '--once'])
    const first = world.start('a', ['send', world.file('big.bin'), receive.peerId, '--limit-rate', '8M', '--json'])
    const far = (event: Json) => event.event === 'progress' && (event.doneBytes as number) > 4_000_000
    await receive.event(far)
    first.child.kill(signal)
    expect(await first.exit).toEqual(
      signal === 'SIGKILL' ? { code: null, signal } : { code: EXIT.SIGINT, signal: null },
    )
    const second = await world.run('a', ['send', world.file('big.bin'), receive.peerId, '--json'])
    expect(second.stderr).toBe('')
    const sent = second.events.at(-1)!
    expect(sent).toMatchObject({ event: 'sent', bytes: bytes.length, sha256: sha256(bytes) })
    expect(sent.resumedFrom).toBeGreaterThan(3_000_000)
    expect(await receive.code()).toBe(EXIT.OK)
    const again = receive.events.filter(({ event }) => event === 'receiving')
    expect(again.map(({ resumedFrom }) => resumedFrom)).toEqual([0, sent.resumedFrom])
    expect(sha256(await readFile(world.file('in/big.bin')))).toBe(sha256(bytes))
    // No part file stays behind.
    expect(await readdir(world.file('in'))).toEqual(['big.bin'])
  })

  test('nobody is let in without --allow, and the owner learns who asked', async () => {
    const world = await World.make()
    await world.serve()
    await writeFile(world.file('report.bin'), 'hello')
    const receive = world.start('b', ['receive', '--dir', world.file('in')])
    await receive.said(/nobody is let in/)
    const send = await world.run('a', ['send', world.file('report.bin'), await world.id('b'), '--json'])
    expect(await send.code()).toBe(EXIT.DENIED)
    expect(send.stdout).toBe('')
    const me = await world.id('a')
    expect(send.stderr).toMatch(new RegExp(`^peerline: .*peerline allow ${me}\\.\n$`))
    await receive.said(new RegExp(`refused ${me}`))
    expect(await readdir(world.file('in'))).toEqual([])
  })

  test('a full disk is said to be so on both sides', async ({ skip }) => {
    const world = await World.make()
    const small = world.file('small')
    mkdirSync(small)
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', small], { stdio: 'ignore' })
    } catch {
      skip('no file system can be mounted here')
    }
    onTestFinished(() => void execFileSync('umount', ['--lazy', small]))
    await world.serve()
    await writeFile(world.file('big.bin'), randomBytes(8_000_000))
    const receive = await world.ready('b', ['receive', '--dir', small, '--allow', 'all', '--once'])
    const send = await world.run('a', ['send', world.file('big.bin'), receive.peerId, '--json'])
    expect(await send.code()).toBe(EXIT.DISK_FULL)
    expect(send.stderr).toMatch(/^peerline: [^\n]*disk is full[^\n]*\n$/)
    expect(await receive.code()).toBe(EXIT.DISK_FULL)
    expect(receive.stderr).toMatch(/^peerline: [^\n]*disk is full[^\n]*\n$/)
    expect(receive.events.at(-1)).toMatchObject({ event: 'failed', name: 'big.bin', code: 'ERR_PEERLINE_DISK_FULL' })
    expect(existsSync(world.file('small/big.bin'))).toBe(false)
  })
})

describe('pipe', () => {
  test('carries standard input to standard output, byte for byte, and both ends finish', async () => {
    const world = await World.make()
    await world.serve()
    const bytes = randomBytes(5_000_000)
    const receive = world.start('b', ['pipe', '--receive', '--allow', 'all'])
    await receive.said(/this is/)
    const send = world.start('a', ['pipe', await world.id('b')])
    send.child.stdin!.end(bytes)
    expect(await send.exit).toEqual({ code: EXIT.OK, signal: null })
    expect(await receive.exit).toEqual({ code: EXIT.OK, signal: null })
    expect(receive.bytes.equals(bytes)).toBe(true)
    expect(send.stdout).toBe('')
    expect(send.stderr).toBe('')
  })

  test('a reader that goes away ends both', async () => {
    const world = await World.make()
    await world.serve()
    const receive = world.start('b', ['pipe', '--receive', '--allow', 'all'])
    await receive.said(/this is/)
    const send = world.start('a', ['pipe', await world.id('b')])
    send.child.stdin!.write('hello')
    await receive.said(/receiving from/)
    receive.child.stdout!.destroy()
    send.child.stdin!.write(randomBytes(1_000_000))
    expect(await receive.code()).toBe(EXIT.SIGPIPE)
    expect(await send.code()).not.toBe(EXIT.OK)
    expect(send.stderr).toMatch(/^peerline: [^\n]+\n$/)
  })

  test('Ctrl-C at the end that sends ends both, and the receiver knows that it is not whole', async () => {
    const world = await World.make()
    await world.serve()
    const receive = world.start('b', ['pipe', '--receive', '--allow', 'all'])
    await receive.said(/this is/)
    const send = world.start('a', ['pipe', await world.id('b')])
    send.child.stdin!.write('hello')
    await receive.said(/receiving from/)
    send.child.kill('SIGINT')
    expect(await send.exit).toEqual({ code: EXIT.SIGINT, signal: null })
    expect(await receive.code()).not.toBe(EXIT.OK)
    expect(receive.stderr).toMatch(/\npeerline: [^\n]+\n$/)
  })
})
