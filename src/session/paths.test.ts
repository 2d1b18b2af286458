import { describe, expect, it } from 'vitest'
import type { PathKind } from '../path/index.ts'
import { MemoryPath } from './memory-path.compliance.ts'
import {
  carePath,
  choosePath,
  FOLLOW_SILENCE_MS,
  findSurplus,
  newPathState,
  type PathState,
  shouldFollow,
  TRIM_GRACE_MS,
} from './paths.ts'

const NOW = 1_000_000

function path(kind: PathKind, with_: Partial<PathState> = {}): PathState {
  const state = newPathState(new MemoryPath(kind, kind, () => 1), 2, 'proven')
  return Object.assign(state, { heardAt: NOW, provenAt: NOW - 60_000, rttMs: 10 }, with_)
}

describe('the path that carries the data', () => {
  it.each<[string, PathState[], number, number?, number?]>([
    ['tcp before udp, webrtc and a relay', [path('relay'), path('webrtc'), path('udp'), path('tcp')], 3],
    ['webrtc before a relay', [path('relay'), path('webrtc')], 1],
    ['a proven relay before an unproven tcp path', [path('tcp', { stage: 'unproven' }), path('relay')], 1],
    ['a proven relay before one that is being attached', [path('tcp', { stage: 'attaching' }), path('relay')], 1],
    ['an unproven one when there is no other', [path('relay', { stage: 'unproven' })], 0],
    ['the one in use of two equals', [path('tcp'), path('tcp')], 1, 1],
    ['what was measured to be faster before its kind', [path('tcp'), path('udp')], 1, 0, 1],
    ['nothing measured puts a relay before a direct path', [path('relay'), path('udp')], 1, 0, 0],
    ['one that answers before one that does not', [path('tcp', { suspect: 'silent' }), path('relay')], 1, 0],
    ['one that is merely slow to drain as ever', [path('tcp', { suspect: 'slow' }), path('relay')], 0, 1],
    ['never one that is retired', [path('tcp', { stage: 'retired' }), path('relay')], 1],
  ])('is %s', (_, paths, best, current, preferred) => {
    const of = (at: number | undefined) => (at === undefined ? undefined : paths[at])
    expect(choosePath(paths, of(current), of(preferred))).toBe(paths[best])
  })

  it('is none when all are retired', () => {
    expect(choosePath([path('tcp', { stage: 'retired' })], undefined)).toBeUndefined()
  })
})

describe('the choice of the other side is followed', () => {
  const silent = { heardAt: NOW - FOLLOW_SILENCE_MS }
  it.each<[string, boolean, PathState, PathState, number?]>([
    ['to another of the kind', true, path('tcp', silent), path('tcp')],
    ['to a better kind', true, path('udp', silent), path('tcp')],
    ['to a lesser kind only when records wait', false, path('tcp', silent), path('udp')],
    ['to a lesser kind when records wait', true, path('tcp', { ...silent, unackedBytes: 1 }), path('udp')],
    ['never to a relay', false, path('tcp', { ...silent, unackedBytes: 1 }), path('relay')],
    ['not while anything is heard', false, path('tcp', { heardAt: NOW - FOLLOW_SILENCE_MS + 1 }), path('tcp')],
    ['not before four round trips', false, path('tcp', { ...silent, minRttMs: 200 }), path('tcp')],
    ['not for a record or two', false, path('tcp', silent), path('tcp'), 2],
    ['not to one that is unproven', false, path('tcp', silent), path('tcp', { stage: 'unproven' })],
    ['not to one that is silent itself', false, path('tcp', silent), path('tcp', { suspect: 'silent' })],
  ])('%s: %s', (_, follows, active, other, records = 3) => {
    expect(shouldFollow(active, other, records, NOW)).toBe(follows)
  })
})

describe('a path is one too many', () => {
  const young = { provenAt: NOW - TRIM_GRACE_MS + 1 }
  it.each<[string, PathState[], number | undefined, (number | undefined)?, (number | undefined)?]>([
    ['the younger of two, when neither is in use', [path('tcp'), path('tcp')], 1],
    ['the one that neither side uses', [path('tcp'), path('tcp')], 0, undefined, 1],
    ['the one that this side does not use', [path('tcp'), path('tcp')], 1, 0, 1],
    ['of two relays', [path('relay'), path('tcp'), path('relay')], 2, 1],
    ['the one that does not answer', [path('udp', { suspect: 'silent' }), path('udp')], 0],
    ['none of two kinds', [path('tcp'), path('udp'), path('webrtc'), path('relay')], undefined],
    ['none before both are old enough', [path('tcp'), path('tcp', young)], undefined],
    ['none while one is unproven', [path('tcp'), path('tcp', { stage: 'unproven' })], undefined],
  ])('%s', (_, paths, spare, active, fresh) => {
    const of = (at: number | undefined) => (at === undefined ? undefined : paths[at])
    expect(findSurplus(paths, of(active), of(fresh), NOW)?.spare).toBe(of(spare))
  })
})

describe('what is done about a path', () => {
  it.each<[string, PathState, ReturnType<typeof carePath>, number?]>([
    ['heard just now', path('tcp'), 'nothing'],
    ['silent for a second, with records waiting', path('tcp', { heardAt: NOW - 1_000, unackedBytes: 1 }), 'ping'],
    ['silent for a second, with none', path('tcp', { heardAt: NOW - 1_000 }), 'nothing'],
    ['idle for 20 s', path('udp', { heardAt: NOW - 20_000 }), 'ping'],
    ['idle for 5 s, kept alive every 5 s', path('udp', { heardAt: NOW - 5_000 }), 'ping', 5_000],
    ['never measured', path('tcp', { rttMs: undefined }), 'ping'],
    ['pinged 4 s ago', path('tcp', { pingedAt: NOW - 4_000, heardAt: NOW - 9_000 }), 'lost'],
    ['pinged just now', path('tcp', { pingedAt: NOW - 3_999, heardAt: NOW - 9_000 }), 'nothing'],
    [
      'pinged 4 s ago behind a long tail',
      path('tcp', {
        pingedAt: NOW - 4_000,
        heardAt: NOW - 9_000,
        patienceMs: 20_000,
        suspect: 'slow',
        suspectAt: NOW - 4_000,
      }),
      'nothing',
    ],
    [
      'left 20 s ago with a tail that has not come through',
      path('tcp', { pingedAt: NOW - 20_000, patienceMs: 20_000, suspect: 'slow', suspectAt: NOW - 20_000 }),
      'lost',
    ],
    ['under suspicion, and not pinged', path('tcp', { suspect: 'silent' }), 'ping'],
    ['closed 9 s ago', path('tcp', { stage: 'retired', retiredAt: NOW - 9_000, heardAt: 0 }), 'nothing'],
    ['closed 10 s ago, though it goes on talking', path('tcp', { stage: 'retired', retiredAt: NOW - 10_000 }), 'lost'],
    ['attaching for 5 s', path('tcp', { stage: 'attaching', heardAt: NOW - 5_000 }), 'lost'],
  ])('that was %s', (_, state, care, keepAliveMs) => {
    expect(carePath(state, NOW, keepAliveMs)).toBe(care)
  })
})
