/**
 * What `peerline doctor` finds on loopback. The router is left alone: it is not ours to ask.
 */
import { readFile } from 'node:fs/promises'
import { describe, expect, test } from 'vitest'
import { FINDING_CODES } from '../../src/cli/doctor-verdict.ts'
import { EXIT } from '../../src/cli/exit-codes.ts'
import { type Json, World } from './command.ts'

const DOCTOR = ['doctor', '--no-map-ports', '--no-lan']
const MS = expect.any(Number)

test('every code of a finding is documented, and no other', async () => {
  const page = await readFile(new URL('../../docs/command.md', import.meta.url), 'utf8')
  const [, listed] = /The codes of findings: ([^.]+)\./.exec(page)!
  const documented = [...listed!.matchAll(/`([^`]+)`/g)].map(([, code]) => code)
  expect([...documented].sort()).toEqual([...FINDING_CODES].sort())
})

describe('doctor', () => {
  test('tells in one object what it found of a server and through it', async () => {
    const world = await World.make()
    const { url, server } = await world.serve()
    const doctor = await world.run('a', [...DOCTOR, '--json'])
    expect({ stderr: doctor.stderr, code: await doctor.code() }).toEqual({ stderr: '', code: EXIT.OK })
    expect(doctor.events).toHaveLength(1)
    const [report] = doctor.events as [Json]
    const [address] = url.split('#')
    const port = Number(new URL(url).port)
    const other = Number((server.events[0]!.reflectors as string[])[0]!.slice(1))
    expect(report).toEqual({
      event: 'doctor',
      reached: true,
      reach: { open: 'unknown', ordinary: 'unknown', counted: 'unknown', random: 'unknown', udpBlocked: 'unknown' },
      findings: expect.arrayContaining([{ code: 'near-only', level: 'note', text: expect.any(String) }]),
      tookMs: MS,
      node: process.version,
      platform: `${process.platform}-${process.arch}`,
      addresses: expect.any(Array),
      rendezvous: [
        {
          url: address,
          reached: true,
          onlineMs: MS,
          rttMs: MS,
          observed: expect.stringMatching(/^127\.0\.0\.1:\d+$/),
          clockOffsetMs: MS,
          relay: true,
          reflectors: [`:${other}`],
        },
      ],
      notFound: [],
      nat: {
        reflectors: [port, other].map((one) => expect.objectContaining({ host: '127.0.0.1', port: one, udpRttMs: MS })),
        udp: expect.objectContaining({ state: 'ok', mappingSeenFrom: { addresses: 1, endpoints: 2 } }),
        tcp: expect.objectContaining({ state: 'ok' }),
        ipv6: expect.objectContaining({ mapped: [] }),
      },
      router: null,
      lan: null,
      packages: { 'udx-native': expect.stringMatching(/^\d+\./), 'node-datachannel': expect.stringMatching(/^\d+\./) },
    })
    // Nobody was asked to wait for that.
    expect(report.nat).not.toHaveProperty('udp.lifetimeMs')
  })

  test('for people, shows what it is about, room by room, and ends in a verdict', async () => {
    const world = await World.make()
    await world.serve(['--no-relay', '--no-alternate-port'])
    const doctor = await world.run('a', ['doctor', '--no-map-ports'])
    expect({ stdout: doctor.stdout, code: await doctor.code() }).toEqual({ stdout: '', code: EXIT.OK })
    expect(doctor.stderr).toMatch(
      /^looking: trying multicast\nlooking: dialling the rendezvous\nlooking: how UDP ports/,
    )
    expect(doctor.stderr).toMatch(/\nthis machine:\n {2}addresses /)
    expect(doctor.stderr).toMatch(/\n {2}multicast {8}/)
    expect(doctor.stderr).toMatch(
      /\nrendezvous:\n {2}ws:\/\/127\.0\.0\.1:\d+ {2}online in .* sees us as 127\.0\.0\.1:\d+, no relay: /,
    )
    expect(doctor.stderr).toMatch(/\nnetwork:\n {2}reflectors {3}1 of 1 answer over UDP\n {2}UDP /)
    expect(doctor.stderr).toMatch(/\nverdict:\n {2}\. All that answered is on this machine or its network.*\n/)
    expect(doctor.stderr).toMatch(/No relay is to be had/)
    expect(doctor.stderr).not.toMatch(/\nrouter:/)
  })

  test('a reflector will do', async () => {
    const world = await World.make()
    const { url } = await world.serve()
    const { host } = new URL(url)
    const doctor = await world.run('a', [...DOCTOR, '--reflector', host, '--json'], { PEERLINE_RENDEZVOUS: '' })
    expect(await doctor.code()).toBe(EXIT.OK)
    expect(doctor.events).toMatchObject([{ reached: true, rendezvous: [], nat: { udp: { state: 'ok' } } }])
  })

  test('with nobody to ask, it says so, and is content', async () => {
    const world = await World.make()
    const doctor = await world.run('a', [...DOCTOR, '--json'])
    expect({ stderr: doctor.stderr, code: await doctor.code() }).toEqual({ stderr: '', code: EXIT.OK })
    expect(doctor.events).toMatchObject([{ reached: false, nat: null, findings: [{ code: 'not-asked' }] }])
  })

  test.each([
    ['not there', (_: string, id: string) => `ws://127.0.0.1:1#${id}`, 'ERR_PEERLINE_UNREACHABLE'],
    [
      'another one than the URL says',
      (url: string, id: string) => url.replace(/#.*/, `#${id}`),
      'ERR_PEERLINE_WRONG_PEER',
    ],
  ])('a rendezvous that is %s', async (_, change, code) => {
    const world = await World.make()
    const { url } = await world.serve()
    const rendezvous = change(url, await world.id('somebody'))
    const doctor = await world.run('a', [...DOCTOR, '--rendezvous', rendezvous, '--json'])
    const reached = code === 'ERR_PEERLINE_WRONG_PEER' // its reflector answers whoever it is
    expect(doctor.events).toMatchObject([
      {
        reached,
        rendezvous: [{ url: rendezvous.split('#')[0], reached: false, code, message: expect.any(String) }],
        findings: expect.arrayContaining([expect.objectContaining({ code: 'rendezvous-failed', level: 'bad' })]),
      },
    ])
    expect(await doctor.code()).toBe(reached ? EXIT.OK : EXIT.UNREACHABLE)
    expect(doctor.stderr).toMatch(reached ? /^$/ : /^peerline: no rendezvous and no reflector was reached\. [^\n]+\n$/)
  })

  test('Ctrl-C ends it, also while it waits', async () => {
    const world = await World.make()
    await world.serve()
    const doctor = world.start('a', [...DOCTOR, '--long'])
    await doctor.said(/how long an idle UDP port lives/)
    const asked = performance.now()
    doctor.child.kill('SIGINT')
    expect(await doctor.exit).toEqual({ code: EXIT.SIGINT, signal: null })
    // It ended in order, and was not killed for being slow.
    expect(performance.now() - asked).toBeLessThan(1_900)
    expect(doctor.stderr).toMatch(/\npeerline: interrupted\.\n$/)
    expect(doctor.stderr).not.toMatch(/verdict/)
  })
})
