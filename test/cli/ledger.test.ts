import { expect, test } from 'vitest'
import { EXIT } from '../../src/cli/exit-codes.ts'
import { World } from './command.ts'

test('serve keeps a ledger where it is told to, and the same one when it comes back', async () => {
  const world = await World.make()
  const file = world.file('some.ledger')
  const ids: unknown[] = []
  for (let i = 0; i < 2; i++) {
    const { server } = await world.serve(['--ledger', file])
    ids.push(server.events[0]!.ledger)
    server.child.kill('SIGTERM')
    expect(await server.exit).toEqual({ code: EXIT.OK, signal: null })
  }
  expect(ids).toEqual([expect.stringMatching(/^log:/), ids[0]])
})

test('serve keeps it in the home directory when it is not told where, and says so', async () => {
  const world = await World.make()
  const server = world.start('server', ['serve', '--listen', '127.0.0.1:0', '--ledger'])
  await server.said(/ledger file .*\.peerline\/ledger: log:\S+, 0 entries/)
  server.child.kill('SIGINT')
  expect(await server.code()).toBe(EXIT.OK)
})
