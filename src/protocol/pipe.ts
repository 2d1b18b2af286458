/**
 * `/peerline/pipe/1`: bytes, one way, as they come.
 *
 *     sender    bytes ........ FIN
 *     receiver                      FIN, when all of it has been written
 *
 * - Both sides wait for each other: the reader's pace is the writer's.
 * - The sender is done when the receiver has written everything out, not when it was sent.
 * - There is no deadline: a pipe may be silent for as long as its ends like. Cancel it with a signal.
 */
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import { ioError } from '../io-error.ts'
import { whenAborted } from '../pause.ts'
import { type Session, type Stream, StreamCode } from '../session/index.ts'

export const PIPE_PROTOCOL = '/peerline/pipe/1'

/**
 * Sends all of `readable` and resolves when the other side has written it out, with the number of bytes.
 * @throws PeerlineError `ERR_PEERLINE_RESET` when the other side's output was closed, `ERR_PEERLINE_REMOTE` when it failed;
 *   `ERR_PEERLINE_ABORTED`; `ERR_PEERLINE_FILE` when `readable` fails; what ended the stream
 */
export async function pipeTo(
  session: Session,
  readable: AsyncIterable<Uint8Array>,
  options: { signal?: AbortSignal } = {},
): Promise<{ bytes: number }> {
  const { signal } = options
  const stream = await session.open(PIPE_PROTOCOL, options)
  const interrupt = new Interrupt(signal)
  // The receiver says nothing but its end; that it gave up must be heard while `readable` is silent.
  const drained = stream.next().then(({ done }) => {
    if (!done) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `${PIPE_PROTOCOL}: the receiver sent data`)
  })
  drained.catch((error: PeerlineError) => interrupt.fail(error))

  const source = readable[Symbol.asyncIterator]()
  let sourceEnded = false
  let bytes = 0
  try {
    for (;;) {
      const next = await interrupt.wait(read(source))
      if (next.done) break
      bytes += next.value.length
      await interrupt.wait(stream.write(next.value))
    }
    sourceEnded = true
    await interrupt.wait(stream.end())
    await interrupt.wait(drained)
    return { bytes }
  } catch (error) {
    if (!sourceEnded) stopReading(readable, source)
    if (!stream.done) stream.reset()
    throw asPeerlineError(error, 'ERR_PEERLINE_REMOTE')
  } finally {
    interrupt.close()
  }
}

/**
 * Lets something that may happen at any time end a wait.
 *
 * Not a `Promise.race` with one promise: that would remember every wait of a long pipe until its end.
 */
class Interrupt {
  readonly #signal: AbortSignal | undefined
  readonly #onAbort = () => this.fail(abortError(this.#signal!, PIPE_PROTOCOL))
  #error: PeerlineError | undefined
  #reject: ((error: PeerlineError) => void) | undefined

  constructor(signal: AbortSignal | undefined) {
    this.#signal = signal
    if (signal?.aborted) this.#onAbort()
    else whenAborted(signal, this.#onAbort)
  }

  /** Fails the present wait, and every later one. */
  fail(error: PeerlineError): void {
    this.#error ??= error
    this.#reject?.(error)
  }

  /** Waits for `work`, unless interrupted. One wait at a time. */
  wait<T>(work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#reject = reject
      work.then(resolve, reject)
      if (this.#error !== undefined) reject(this.#error)
    })
  }

  close(): void {
    this.#signal?.removeEventListener('abort', this.#onAbort)
  }
}

async function read(source: AsyncIterator<Uint8Array>): Promise<IteratorResult<Uint8Array>> {
  try {
    return await source.next()
  } catch (error) {
    throw ioError(error, 'reading the input')
  }
}

/** Lets go of the input. Not waited for: an iterator that is being asked answers `return` only after that. */
function stopReading(readable: AsyncIterable<Uint8Array>, source: AsyncIterator<Uint8Array>): void {
  const destroy = (readable as { destroy?: () => void }).destroy
  if (typeof destroy === 'function') destroy.call(readable)
  else source.return?.().catch(ignore)
}

export interface ServePipeOptions {
  readonly signal?: AbortSignal
  /** Whether `writable` is ended after the last byte; leave it open for a `process.stdout`. @default true */
  readonly end?: boolean
}

/**
 * Writes what comes on `stream` to `writable`, at its pace. Resolves with the number of bytes when all is written out.
 * @throws PeerlineError `ERR_PEERLINE_CLOSED` when `writable` was closed, `ERR_PEERLINE_DISK_FULL` or `ERR_PEERLINE_FILE`
 *   when it failed; `ERR_PEERLINE_ABORTED`; what ended the stream
 */
export async function servePipe(
  stream: Stream,
  writable: NodeJS.WritableStream,
  options: ServePipeOptions = {},
): Promise<{ bytes: number }> {
  const { signal, end = true } = options
  const interrupt = new Interrupt(signal)
  const onError = (error: Error) => interrupt.fail(outputError(error))
  const onClose = () => interrupt.fail(outputError(undefined))
  writable.on('error', onError)
  writable.on('close', onClose)
  if (!writable.writable) onClose()
  let bytes = 0
  try {
    for (;;) {
      const next = await interrupt.wait(stream.next())
      if (next.done) break
      bytes += next.value.length
      if (!writable.write(next.value)) await interrupt.wait(drain(writable))
    }
    await interrupt.wait(finish(writable, end, onClose))
    await stream.end()
    return { bytes }
  } catch (error) {
    const reason = asPeerlineError(error, 'ERR_PEERLINE_FILE')
    const orderly = reason.code === 'ERR_PEERLINE_CLOSED' || reason.code === 'ERR_PEERLINE_ABORTED'
    if (!stream.done) stream.reset(orderly ? StreamCode.CANCELLED : StreamCode.FAILED)
    // What was written before may still fail; nobody waits for it, and it must not end the process.
    writable.once('error', ignore)
    throw reason
  } finally {
    interrupt.close()
    writable.off('close', onClose)
    writable.off('error', onError)
  }
}

function drain(writable: NodeJS.WritableStream): Promise<void> {
  return new Promise((resolve) => writable.once('drain', resolve))
}

/** All that was written has been taken by what is behind `writable`. That it closes after that is in order. */
function finish(writable: NodeJS.WritableStream, end: boolean, onClose: () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = (error?: Error | null) => {
      writable.off('close', onClose)
      if (error) reject(outputError(error))
      else resolve()
    }
    if (end) writable.end(done)
    else writable.write(new Uint8Array(0), done)
  })
}

function outputError(error: Error | undefined): PeerlineError {
  const code = (error as NodeJS.ErrnoException | undefined)?.code
  if (error !== undefined && code !== 'EPIPE' && code !== 'ERR_STREAM_DESTROYED')
    return ioError(error, 'writing the output')
  return new PeerlineError('ERR_PEERLINE_CLOSED', 'the output was closed', { cause: error })
}

function ignore(): void {}
