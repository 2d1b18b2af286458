/**
 * The one shape every stack is bent into, so that all of them run the same loops:
 *
 *   pipe.send(bytes)   false: the sender's buffer is full, wait for drained() before the next one
 *   pipe.drained()     resolves when there is room again
 *   pipe.onData        set by the user: (byteLength, firstByte) for each chunk as the stack hands it over
 *   pipe.onClose       set by the user: (error) when the pipe ended and nobody had asked for it
 *   pipe.close()       ends the pipe and the connection below it
 *   pipe.cork/uncork   only on sockets of node:net and node:tls
 *
 * The loops only count bytes, so a chunk is passed as its length and its first byte: nothing is copied or joined.
 */

const noop = () => {}

/** A pipe without a stack: the adapters fill in send, drained and close. */
export function emptyPipe(parts) {
  return { onData: noop, onClose: noop, ...parts }
}

/** A pipe over anything that looks like a Node duplex stream (net, tls, hyperdht's streamx); `canCork` for sockets. */
export function streamPipe(stream, { canCork = false } = {}) {
  const pipe = emptyPipe({
    send: (bytes) => stream.write(bytes),
    drained: () => new Promise((resolve) => stream.once('drain', resolve)),
    close() {
      pipe.onClose = noop
      stream.destroy()
    },
  })
  if (canCork) {
    pipe.cork = () => stream.cork()
    pipe.uncork = () => stream.uncork()
  }
  stream.on('data', (chunk) => pipe.onData(chunk.byteLength, chunk[0]))
  stream.on('error', (error) => pipe.onClose(error))
  stream.on('close', () => pipe.onClose(new Error('the connection was closed by the other end')))
  return pipe
}

/** Resolves when `emitter` emits `name`, rejects when it emits `error` or `close` before. */
export function opened(emitter, name) {
  return new Promise((resolve, reject) => {
    const done = (settle) => (value) => {
      emitter.off(name, onOpen)
      emitter.off('error', onError)
      emitter.off('close', onClose)
      settle(value)
    }
    const onOpen = done(resolve)
    const onError = done(reject)
    const onClose = done(() => reject(new Error('closed while connecting')))
    emitter.on(name, onOpen)
    emitter.on('error', onError)
    emitter.on('close', onClose)
  })
}
