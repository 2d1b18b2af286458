/**
 * The two halves of a search for a random port: many sockets on the side that has random ports, many probes on the
 * other one. Both end with their signal, and each is bounded in number and time.
 */
import { setImmediate as turn } from 'node:timers/promises'
import { type BirthdayBudget, searchPorts } from './punch-plan.ts'

/** ms between two bursts of probes. */
const TICK_MS = 10

/** ms of missed probes that a burst makes up for when the event loop was late: more would overrun slow links. */
const CATCH_UP_MS = 50

/** Sockets that are opened in one turn of the event loop: a millisecond's work. */
const OPEN_BATCH = 16

/** Calls `send` with one random port after the other, none twice, while `rests` does not say to wait. */
export function probePorts(
  budget: BirthdayBudget,
  send: (port: number) => void,
  rests: () => boolean,
  signal: AbortSignal,
): void {
  const ports = searchPorts()
  const perMs = budget.probesPerSecond / 1_000
  const began = performance.now()
  let left = Math.floor(perMs * budget.ms)
  let last = began
  let due = 0
  const timer = setInterval(() => {
    const now = performance.now()
    if (now - began >= budget.ms || left <= 0) return stop()
    due = rests() ? 0 : due + Math.min(now - last, CATCH_UP_MS) * perMs
    last = now
    for (; due >= 1 && left > 0; due--, left--) {
      const next = ports.next()
      if (next.done === true) return stop()
      send(next.value)
    }
  }, TICK_MS)
  const stop = (): void => {
    clearInterval(timer)
    signal.removeEventListener('abort', stop)
  }
  if (signal.aborted) stop()
  else signal.addEventListener('abort', stop, { once: true })
}

/**
 * Opens `count` sockets, a few at a time, and hands each to `onSocket`. What opens after the signal has fired is closed.
 * Never rejects: when the system gives no more of them, the search goes on with those that there are.
 */
export async function openSockets<S extends { close(): Promise<void> }>(
  count: number,
  open: () => Promise<S>,
  onSocket: (socket: S) => void,
  signal: AbortSignal,
): Promise<void> {
  for (let left = count; left > 0 && !signal.aborted; left -= OPEN_BATCH) {
    const batch = Array.from({ length: Math.min(left, OPEN_BATCH) }, () => open())
    const results = await Promise.allSettled(batch)
    const opened = results.flatMap((result) => (result.status === 'fulfilled' ? result.value : []))
    if (signal.aborted) await Promise.all(opened.map((socket) => socket.close()))
    else for (const socket of opened) onSocket(socket)
    if (opened.length < batch.length) return
    await turn()
  }
}
