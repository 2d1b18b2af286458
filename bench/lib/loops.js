/** The loops of the dialing end: the same code, sizes and back-pressure for every stack. */

import { ECHO, ECHO_CORKED, MESSAGE_BYTES, SINK } from './serve.js'

const BULK_WRITE_BYTES = 64 * 1024 // what a file reader hands over at a time
const MAX_SAMPLES = 1_000_000 // bounds the memory of one latency run; far above what a second yields

const BULK_CHUNK = new Uint8Array(BULK_WRITE_BYTES).fill(0x64)
const REQUEST = new Uint8Array(MESSAGE_BYTES).fill(0x71)

/** Runs `body` and fails at once when the pipe dies under it. */
function guarded(pipe, body) {
  return new Promise((resolve, reject) => {
    pipe.onClose = reject
    Promise.resolve(body()).then(resolve, reject)
  })
}

/** Sends the mode byte and waits until it is answered. */
function firstByte(pipe, mode) {
  return guarded(
    pipe,
    () =>
      new Promise((resolve) => {
        pipe.onData = resolve
        pipe.send(Uint8Array.of(mode))
      }),
  )
}

/** A new connection, used once. @returns milliseconds from the dial to the first echoed byte */
export async function timeToFirstByte(dialer) {
  const startedAt = performance.now()
  const pipe = await dialer.connect(0)
  await firstByte(pipe, ECHO)
  const ms = performance.now() - startedAt
  await pipe.close()
  return ms
}

/** A connection that has carried a byte each way and now rests. */
export async function idlePipe(dialer, index) {
  const pipe = await dialer.connect(index)
  await firstByte(pipe, ECHO)
  return pipe
}

/** Writes for `seconds` with back-pressure. @returns the bytes handed to the stack, and how to end the connection */
export async function bulk(dialer, seconds) {
  const pipe = await dialer.connect(0)
  let bytes = 0
  await guarded(pipe, async () => {
    pipe.send(Uint8Array.of(SINK))
    const until = performance.now() + seconds * 1000
    while (performance.now() < until) {
      bytes += BULK_WRITE_BYTES
      if (pipe.send(BULK_CHUNK) === false) await pipe.drained()
    }
  })
  return { bytes, pipe }
}

/** One request at a time on one established connection. @returns sorted round-trip times in µs */
export async function oneAtATime(dialer, seconds) {
  const pipe = await dialer.connect(0)
  await firstByte(pipe, ECHO)
  const times = []
  await guarded(
    pipe,
    () =>
      new Promise((resolve) => {
        let pending = 0
        const until = performance.now() + seconds * 1000
        let sentAt = performance.now()
        pipe.onData = (byteLength) => {
          pending += byteLength
          if (pending < MESSAGE_BYTES) return
          pending -= MESSAGE_BYTES
          const now = performance.now()
          times.push((now - sentAt) * 1000)
          if (now >= until || times.length === MAX_SAMPLES) return resolve()
          sentAt = performance.now()
          pipe.send(REQUEST)
        }
        pipe.send(REQUEST)
      }),
  )
  await pipe.close()
  return times.sort((a, b) => a - b)
}

/** `inFlight` requests kept under way on one connection. @returns responses per second */
export async function manyInFlight(dialer, seconds, inFlight, corked) {
  const pipe = await dialer.connect(0)
  if (corked && pipe.cork === undefined) {
    await pipe.close()
    return null
  }
  await firstByte(pipe, corked ? ECHO_CORKED : ECHO)
  const rate = await guarded(
    pipe,
    () =>
      new Promise((resolve) => {
        let pending = 0
        let done = 0
        let underWay = inFlight
        const startedAt = performance.now()
        const until = startedAt + seconds * 1000
        pipe.onData = (byteLength) => {
          const now = performance.now()
          pending += byteLength
          if (corked) pipe.cork()
          for (; pending >= MESSAGE_BYTES; pending -= MESSAGE_BYTES) {
            done += 1
            if (now < until) pipe.send(REQUEST)
            else underWay -= 1
          }
          if (corked) pipe.uncork()
          if (underWay === 0) resolve((done / (now - startedAt)) * 1000)
        }
        for (let i = 0; i < inFlight; i += 1) pipe.send(REQUEST)
      }),
  )
  await pipe.close()
  return rate
}

/** The same two measurements through the stack's own request call, where it has one. */
export async function requests(dialer, seconds, inFlight) {
  if (dialer.openRequests === undefined) return null
  const { request, close } = await dialer.openRequests()
  for (let i = 0; i < inFlight; i += 1) await request(REQUEST)

  const times = []
  for (let until = performance.now() + seconds * 1000; performance.now() < until; ) {
    const sentAt = performance.now()
    await request(REQUEST)
    times.push((performance.now() - sentAt) * 1000)
  }

  let done = 0
  const startedAt = performance.now()
  const until = startedAt + seconds * 1000
  const asker = async () => {
    while (performance.now() < until) {
      await request(REQUEST)
      done += 1
    }
  }
  await Promise.all(Array.from({ length: inFlight }, asker))
  const rate = (done / (performance.now() - startedAt)) * 1000
  await close()
  return { times: times.sort((a, b) => a - b), rate }
}
