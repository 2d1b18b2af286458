import { describe, expect, test } from 'vitest'
import { resolveReflectors } from './nat-reflectors.ts'

const signal = new AbortController().signal
const names = (found: { host: string; port: number }[]): string[] => found.map(({ host, port }) => `${host} ${port}`)

describe('what a rendezvous names', () => {
  const asked = ['8.8.8.8:1', ':2', '10.0.0.1:3', '127.0.0.1:4', '169.254.169.254:5', '224.0.0.1:6', '[fc00::1]:7']

  test.each<[string, string | undefined, string[]]>([
    ['of unknown place', undefined, ['8.8.8.8 1']],
    ['in public', '198.41.0.4', ['8.8.8.8 1', '198.41.0.4 2']],
    ['in a private network', '192.168.1.1', ['8.8.8.8 1', '192.168.1.1 2', '10.0.0.1 3', 'fc00::1 7']],
    ['on this machine', '127.0.0.1', ['8.8.8.8 1', '127.0.0.1 2', '10.0.0.1 3', '127.0.0.1 4', 'fc00::1 7']],
  ])('one %s sends us no farther inside than it is itself', async (_, at, expected) => {
    const found = await resolveReflectors(asked, { signal, ...(at === undefined ? {} : { at }) })
    expect(names(found)).toEqual(expected)
  })

  test('a name is judged by its address', async () => {
    expect(await resolveReflectors(['localhost:1'], { signal, at: '198.41.0.4' })).toEqual([])
    expect(names(await resolveReflectors(['localhost:1'], { signal, at: '127.0.0.1' }))).toContain('127.0.0.1 1')
  })
})

test('what the user names may be anywhere that can be asked', async () => {
  const found = await resolveReflectors(['10.0.0.1:3', '127.0.0.1:4', '224.0.0.1:6'], { signal, trusted: true })
  expect(names(found)).toEqual(['10.0.0.1 3', '127.0.0.1 4'])
})

test('what is no reflector is left out, the rest comes once, IPv4 first', async () => {
  const bad = ['', ':', ':1', 'x', '8.8.8.8', '8.8.8.8:0', '8.8.8.8:65536', 'a b:1', `${'a'.repeat(64)}.invalid:1`]
  const found = await resolveReflectors([...bad, '[2a00:1450::1]:1', '8.8.8.8:1', '8.8.8.8:1'], { signal })
  expect(found).toEqual([
    { host: '8.8.8.8', port: 1, family: 4 },
    { host: '2a00:1450::1', port: 1, family: 6 },
  ])
})

test('no more than a few are taken', async () => {
  const many = Array.from({ length: 100 }, (_, i) => `8.8.8.8:${i + 1}`)
  expect(await resolveReflectors(many, { signal })).toHaveLength(16)
})

test('the signal ends it', async () => {
  const aborted = expect.objectContaining({ code: 'ERR_PEERLINE_ABORTED' })
  await expect(resolveReflectors(['8.8.8.8:1'], { signal: AbortSignal.abort() })).rejects.toThrow(aborted)
  const controller = new AbortController()
  const found = resolveReflectors(['localhost:1'], { signal: controller.signal })
  controller.abort()
  await expect(found).rejects.toThrow(aborted)
})
