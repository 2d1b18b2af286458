import { describe, expect, test, vi } from 'vitest'
import { openSockets, probePorts } from './punch-search.ts'

const never = new AbortController().signal

/** Sockets that do nothing but close. */
function sockets(failAfter = Number.POSITIVE_INFINITY) {
  const opened: { closed: boolean; close(): Promise<void> }[] = []
  const open = async () => {
    await Promise.resolve()
    if (opened.length >= failAfter) throw new Error('no more of them')
    const socket = {
      closed: false,
      close: async () => {
        socket.closed = true
      },
    }
    opened.push(socket)
    return socket
  }
  return { opened, open }
}

describe('probing random ports', () => {
  test('keeps to its rate and its time, and takes no port twice', async () => {
    const ports: number[] = []
    const started = performance.now()
    let last = 0
    const send = (port: number): void => {
      ports.push(port)
      last = performance.now() - started
    }
    probePorts({ sockets: 1, probesPerSecond: 1_000, ms: 200 }, send, () => false, never)
    await vi.waitUntil(() => performance.now() - started > 150)
    expect(ports.length).toBeLessThanOrEqual(performance.now() - started + 1)
    await vi.waitUntil(() => performance.now() - started > 300)
    expect(last).toBeLessThan(230)
    expect(ports.length).toBeGreaterThan(50)
    expect(ports.length).toBeLessThanOrEqual(200)
    expect(new Set(ports).size).toBe(ports.length)
  })

  test('sends no more in number than its budget is, and rests when it is told', async () => {
    let sent = 0
    let rests = true
    probePorts(
      { sockets: 1, probesPerSecond: 5_000, ms: 10_000 },
      () => sent++,
      () => rests,
      never,
    )
    const started = performance.now()
    await vi.waitUntil(() => performance.now() - started > 60)
    expect(sent).toBe(0)
    rests = false
    await vi.waitUntil(() => sent > 100)
    rests = true
    const before = sent
    await vi.waitUntil(() => performance.now() - started > 200)
    expect(sent).toBe(before)
  }, 5_000)

  test('ends with its signal', async () => {
    const controller = new AbortController()
    let sent = 0
    probePorts(
      { sockets: 1, probesPerSecond: 5_000, ms: 10_000 },
      () => sent++,
      () => false,
      controller.signal,
    )
    await vi.waitUntil(() => sent > 0)
    controller.abort()
    const before = sent
    const timers = process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length
    probePorts(
      { sockets: 1, probesPerSecond: 5_000, ms: 10_000 },
      () => sent++,
      () => false,
      controller.signal,
    )
    expect(process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length).toBe(timers)
    expect(sent).toBe(before)
  })
})

describe('opening many sockets', () => {
  test('hands on each, exactly as many as wanted', async () => {
    const { open, opened } = sockets()
    const got: unknown[] = []
    await openSockets(50, open, (socket) => got.push(socket), never)
    expect(got).toEqual(opened)
    expect(opened.length).toBe(50)
  })

  test('goes on with what there is when the system gives no more', async () => {
    const { open, opened } = sockets(20)
    const got: unknown[] = []
    await openSockets(50, open, (socket) => got.push(socket), never)
    expect(got).toEqual(opened)
    expect(got.length).toBe(20)
  })

  test('closes what opens after the end', async () => {
    const { open, opened } = sockets()
    const controller = new AbortController()
    const got: unknown[] = []
    const opening = openSockets(50, open, (socket) => got.push(socket), controller.signal)
    controller.abort()
    await opening
    expect(got).toEqual([])
    expect(opened.length).toBe(16)
    expect(opened.every(({ closed }) => closed)).toBe(true)
  })
})
