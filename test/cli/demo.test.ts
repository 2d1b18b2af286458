import { mkdir, readdir } from 'node:fs/promises'
import { expect, test } from 'vitest'
import { EXIT } from '../../src/cli/exit-codes.ts'
import { World } from './command.ts'

const isAlive = (pid: number) => {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

test('demo: relay, direct, a dead server, and the same bytes', async () => {
  const world = await World.make()
  await mkdir(world.file('tmp'))
  const demo = await world.run('a', ['demo', '--json'], { TMPDIR: world.file('tmp') })
  expect(await demo.code(), demo.stderr).toBe(EXIT.OK)
  expect(demo.stderr).toBe('')
  const steps = demo.events.filter(({ event }) => event !== 'progress')
  expect(steps.map(({ event }) => event)).toEqual(['connected', 'listening', 'path', 'killed', 'received', 'result'])
  expect(steps[0]).toMatchObject({ path: 'relay' })
  expect(steps[2]).toMatchObject({ from: 'relay', to: 'tcp' })
  expect(steps[3]).toMatchObject({ how: 'SIGKILL' })
  const { byPath, bytes, ...result } = steps.at(-1) as { byPath: Record<string, number>; bytes: number }
  expect(result).toMatchObject({
    ok: true,
    relayFirst: true,
    moved: true,
    serverDead: true,
    sameHash: true,
    cleanedUp: true,
  })
  expect(bytes).toBe(96 << 20)
  expect(byPath.relay! + byPath.tcp!).toBe(bytes)
  expect(byPath.relay).toBeGreaterThan(bytes / 4)
  expect(await readdir(world.file('tmp'))).toEqual([])
}, 60_000)

test('demo --no-server: a ledger, a direct path, no ledger any more, and the same bytes', async () => {
  const world = await World.make()
  await mkdir(world.file('tmp'))
  const demo = await world.run('a', ['demo', '--no-server', '--json'], { TMPDIR: world.file('tmp') })
  expect(await demo.code(), demo.stderr).toBe(EXIT.OK)
  expect(demo.stderr).toBe('')
  const steps = demo.events.filter(({ event }) => event !== 'progress')
  expect(steps.map(({ event }) => event)).toEqual(['connected', 'removed', 'received', 'result'])
  expect(steps[0]).toMatchObject({ path: 'tcp', medium: expect.stringMatching(/^ledger file /), messages: 1 })
  const { byPath, ...result } = steps.at(-1) as { byPath: Record<string, number> }
  expect(result).toMatchObject({ ok: true, foundByLedger: true, direct: true, ledgerGone: true, sameHash: true })
  expect(byPath).toEqual({ tcp: 96 << 20 })
  expect(await readdir(world.file('tmp'))).toEqual([])
}, 60_000)

test('demo: Ctrl-C leaves nothing behind', async () => {
  const world = await World.make()
  await mkdir(world.file('tmp'))
  const demo = world.start('a', ['demo'], { TMPDIR: world.file('tmp') })
  await demo.said(/connected by relay/)
  demo.child.kill('SIGINT')
  expect(await demo.exit).toEqual({ code: EXIT.SIGINT, signal: null })
  const pids = [...demo.stderr.matchAll(/process (\d+)/g)].map(([, pid]) => Number(pid))
  expect(pids.length).toBe(3)
  expect(pids.filter(isAlive)).toEqual([])
  expect(await readdir(world.file('tmp'))).toEqual([])
  expect(demo.stdout).toBe('')
})
