/** What the agents of all stacks do alike: one dial, timed until its first echoed byte, and until no relay is in its way. */

const LOOK_MS = 10 // between two looks at the path; nobody tells when it changes

export const PING = Uint8Array.of(1)

/**
 * @typedef {object} Way an open connection
 * @property {() => boolean} isDirect
 *
 * @param {(signal: AbortSignal) => Promise<Way>} connect resolves when the first byte has come back
 * @param {{ deadlineMs: number, directMs: number }} limits of the first byte, and of the wait for a direct path after it
 */
export async function timeDial(connect, { deadlineMs, directMs }) {
  const started = performance.now()
  const since = () => performance.now() - started
  const signal = AbortSignal.timeout(deadlineMs)
  const { isDirect } = await orAborted(connect(signal), signal, `no byte came back in ${deadlineMs} ms`)
  const firstByteMs = since()
  const first = isDirect() ? 'direct' : 'relay'
  const until = firstByteMs + directMs
  while (!isDirect() && since() < until) await new Promise((resolve) => setTimeout(resolve, LOOK_MS))
  return { firstByteMs, first, directMs: isDirect() ? since() : null }
}

/** The same promise, or an error with this message when the signal comes first. */
function orAborted(promise, signal, message) {
  return new Promise((resolve, reject) => {
    signal.addEventListener('abort', () => reject(new Error(message)), { once: true })
    promise.then(resolve, reject)
  })
}
