import { expect, test } from 'vitest'
import type { WhyReport } from '../session/index.ts'
import { whyEvent, whyLines } from './why-report.ts'

const RELAYED: WhyReport = {
  peer: 'p',
  path: 'relay',
  paths: [
    {
      kind: 'relay',
      remote: 'relay tcp://11.1.1.1:4400',
      stage: 'proven',
      proven: true,
      active: true,
      rttMs: 81.2,
      sentBytes: 12_345,
      since: 40,
    },
  ],
  history: [{ atMs: 40, kind: 'relay', remote: 'tcp://11.1.1.1:4400', what: 'attached' }],
  signaling: [],
  attempts: [
    { round: 0, way: 'tcp', targets: ['192.168.1.2:1'], outcome: 'failed', detail: 'no answer', ms: 1_500 },
    {
      round: 1,
      way: 'tcp-so',
      targets: ['11.2.2.2:1', '11.2.2.2:2', '11.2.2.2:3', '11.2.2.2:4'],
      outcome: 'skipped',
      detail: 'a NAT gives every TCP connection a random port',
      ms: 0,
    },
  ],
  local: { tcp: 'random', udp: 'sequential', candidates: ['tcp 192.168.0.5:1', 'udp-srflx 11.3.3.3:5'] },
  remote: undefined,
  reasons: ['no direct path worked so far; the relay carries the data'],
  advice: ['Forward a port.'],
}

test('the report says the path and why, every attempt, both sides, and what would help', () => {
  expect(whyLines(RELAYED)).toEqual([
    'why relay: no direct path worked so far; the relay carries the data',
    'paths:',
    '  * relay  tcp://11.1.1.1:4400  81 ms  proven, 12.3 kB sent',
    'tried:',
    '  round 0  tcp     failed   1.50 s  no answer [to 192.168.1.2:1]',
    '  round 1  tcp-so  skipped          a NAT gives every TCP connection a random port [to 11.2.2.2:1, 11.2.2.2:2, and 2 more]',
    'network:',
    '  here   ports over TCP: random; over UDP: counted up (sequential)',
    '         at tcp 192.168.0.5:1, udp-srflx 11.3.3.3:5',
    '  there  no address was told to us',
    'what would help:',
    '  - Forward a port.',
  ])
})

test('what there is nothing of is left out', () => {
  const bare: WhyReport = { ...RELAYED, path: undefined, paths: [], attempts: [], advice: [], reasons: [] }
  expect(whyLines({ ...bare, local: undefined })).toEqual([
    'why no path: nothing is known about it',
    'network:',
    '  here   no address was told to the other side',
    '  there  no address was told to us',
  ])
})

test('many candidates are counted', () => {
  const candidates = Array.from({ length: 9 }, (_, at) => `tcp 10.0.0.${at}:1`)
  const lines = whyLines({ ...RELAYED, local: { tcp: 'none', udp: 'none', candidates } })
  expect(lines.find((line) => line.includes('10.0.0.0'))).toMatch(/10\.0\.0\.5:1, and 3 more$/)
})

test('the JSON line has every key, and null for what is not known', () => {
  const event = JSON.parse(JSON.stringify(whyEvent({ ...RELAYED, path: undefined })))
  expect(Object.keys(event).sort()).toEqual(
    [
      'advice',
      'attempts',
      'event',
      'history',
      'local',
      'path',
      'paths',
      'peer',
      'reasons',
      'remote',
      'signaling',
    ].sort(),
  )
  expect(event).toMatchObject({ event: 'why', path: null, remote: null, local: { udp: 'sequential' } })
})
