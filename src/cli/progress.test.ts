import { expect, test } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { byteCount, duration } from './options.ts'
import { failureLine, formatBytes, formatSeconds, formatSpan, printable } from './output.ts'
import { progressLine, RateMeter } from './progress.ts'

test('the rate is that of the last seconds, and what was there before does not count', () => {
  const meter = new RateMeter()
  const startBytes = 5_000_000
  let bytes = startBytes
  meter.add(0, bytes)
  expect(meter.rate(0, bytes)).toBe(0)
  const run = (fromMs: number, toMs: number, step: number) => {
    for (let ms = fromMs; ms <= toMs; ms += 100) {
      bytes += step
      meter.add(ms, bytes)
    }
  }
  run(100, 10_000, 100_000)
  expect(meter.rate(10_000, bytes)).toBeCloseTo(1_000_000, -4)
  run(10_100, 16_000, 400_000)
  expect(meter.rate(16_000, bytes)).toBeCloseTo(4_000_000, -4)
  // Nothing moves any more: the rate goes down by itself.
  expect(meter.rate(26_000, bytes)).toBeLessThan(2_000_000)
})

test('one line says it all', () => {
  const state = { name: 'a.bin', doneBytes: 25_000_000, totalBytes: 100_000_000, path: 'relay' } as const
  expect(progressLine(state, 5_000_000)).toBe('a.bin  25 %  25.0 MB of 100 MB  5.0 MB/s  0:15 left  by relay')
  expect(progressLine({ ...state, path: undefined }, 0)).toBe('a.bin  25 %  25.0 MB of 100 MB  0 B/s  waiting  no path')
})

test('sizes and times are short, and never round up to a unit too small', () => {
  expect([0, 999, 999_499, 999_600, 99_960_000, 1.5e12].map(formatBytes)).toEqual([
    '0 B',
    '999 B',
    '999 kB',
    '1.0 MB',
    '100 MB',
    '1.5 TB',
  ])
  expect([0, 59.6, 3_599, 3_661].map(formatSeconds)).toEqual(['0:00', '1:00', '59:59', '1:01:01'])
})

test('byte counts are read in units of 1000 and 1024', () => {
  expect(['1', '500k', '32M', '1.5G', '32MiB', '2KB'].map(byteCount)).toEqual([1, 5e5, 32e6, 1.5e9, 32 * 2 ** 20, 2000])
  for (const bad of ['', '0', '-1', '1T', 'M', '1e3', '9'.repeat(30)])
    expect(() => byteCount(bad)).toThrow(/number of bytes/)
})

test('times are read in units, one or several', () => {
  expect(['90s', '15m', '1h', '7d', '2w', '1h30m', '1d1s'].map(duration)).toEqual([
    90e3, 900e3, 3600e3, 604800e3, 1209600e3, 5400e3, 86401e3,
  ])
  for (const bad of ['', '0s', '5', '1y', '1.5h', '-1h', '1h ', 'h', '3651d', '9999999999s'])
    expect(() => duration(bad)).toThrow(/such as 90s/)
})

test('times are told in their two largest units', () => {
  expect(
    [0, 400, 999, 1_000, 59_600, 3_599_600, 5_400_000, 90_000_000, 86_399_999, 640_800_000].map(formatSpan),
  ).toEqual(['0 s', '0 s', '0 s', '1 s', '1 min', '1 h', '1 h 30 min', '1 d 1 h', '1 d', '7 d 10 h'])
})

test('what remotes say cannot steer a terminal, and a failure is one line', () => {
  expect(printable('a\x1b[2Jb\nc\u202ed')).toBe('a [2Jb c d')
  const error = new PeerlineError('ERR_PEERLINE_FILE', 'bad\nname.\x07', { recover: 'Look.' })
  expect(failureLine(error)).toBe('peerline: bad name. Look.')
})
