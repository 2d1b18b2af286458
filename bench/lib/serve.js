/**
 * What the accepting end does with a pipe. The first byte a dialer sends says which:
 *
 *   'e'  answer: that byte comes back at once, then each 64-byte request is met with one 64-byte response, one write each
 *   'c'  the same, the responses to one chunk corked together
 *   'b'  sink: count every following byte
 */

export const ECHO = 0x65 // 'e'
export const ECHO_CORKED = 0x63 // 'c'
export const SINK = 0x62 // 'b'
export const MESSAGE_BYTES = 64 // a small request: a command, a sensor reading, an acknowledgement

const RESPONSE = new Uint8Array(MESSAGE_BYTES).fill(0x72)

/** Counts what the sinks of one process receive. One bulk transfer runs at a time. */
export class BulkMeter {
  #bytes = 0
  #startedAt = 0
  #lastAt = 0
  #waiting = null

  start() {
    this.#bytes = 0
    this.#startedAt = performance.now()
    this.#lastAt = this.#startedAt
  }

  add(byteLength) {
    this.#bytes += byteLength
    this.#lastAt = performance.now()
    if (this.#waiting !== null && this.#bytes >= this.#waiting.bytes) {
      this.#waiting.resolve()
      this.#waiting = null
    }
  }

  /** Resolves with the bytes and the milliseconds they took, once `bytes` have arrived. */
  async received(bytes) {
    if (this.#bytes < bytes) await new Promise((resolve) => (this.#waiting = { bytes, resolve }))
    return { bytes: this.#bytes, ms: this.#lastAt - this.#startedAt }
  }
}

/** Serves one accepted pipe until it ends. */
export function serve(pipe, meter) {
  let mode = 0
  let pending = 0
  pipe.onData = (byteLength, firstByte) => {
    let rest = byteLength
    if (mode === 0) {
      mode = firstByte
      rest -= 1
      if (mode === SINK) meter.start()
      else pipe.send(Uint8Array.of(mode))
    }
    if (mode === SINK) {
      if (rest > 0) meter.add(rest)
      return
    }
    pending += rest
    if (mode === ECHO_CORKED) pipe.cork()
    for (; pending >= MESSAGE_BYTES; pending -= MESSAGE_BYTES) pipe.send(RESPONSE)
    if (mode === ECHO_CORKED) pipe.uncork()
  }
}
