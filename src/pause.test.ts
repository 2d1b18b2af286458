import { expect, onTestFinished, test, vi } from 'vitest'
import { pause, untilAborted, whenAborted } from './pause.ts'

test('whoever waits for one signal in any number is warned of nothing, and leaves nothing behind', async () => {
  const warned = vi.fn()
  process.on('warning', warned)
  onTestFinished(() => void process.off('warning', warned))
  const { signal } = new AbortController()
  const listen = vi.spyOn(signal, 'addEventListener')
  const leave = vi.spyOn(signal, 'removeEventListener')
  await Promise.all(Array.from({ length: 20 }, () => pause(1, signal)))
  await Promise.all(Array.from({ length: 20 }, () => untilAborted(Promise.resolve(), signal, 'waiting')))
  // Warnings come with the next turn.
  await new Promise(setImmediate)
  expect(warned).not.toHaveBeenCalled()
  expect([listen.mock.calls.length, leave.mock.calls.length]).toEqual([40, 40])
})

test('a listener is called once, when the signal fires; there need be none', () => {
  const stop = new AbortController()
  const listener = vi.fn()
  whenAborted(undefined, listener)
  whenAborted(stop.signal, listener)
  expect(listener).not.toHaveBeenCalled()
  stop.abort()
  stop.signal.dispatchEvent(new Event('abort'))
  expect(listener).toHaveBeenCalledTimes(1)
})
