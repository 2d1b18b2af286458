/**
 * Asks the owner in a terminal what a peer may do, one peer after the other.
 *
 *     PEER (name) wants to
 *       connect
 *       use /peerline/file/1
 *     allow it? y yes, n no, l yes to just this, o once; then Enter (25 s): y
 *
 * - `y` and `n` are remembered for all that the peer may want, `l` for what is shown, `o` not at all.
 * - Silence is a no that is not remembered. What was typed before a question was shown, or while it took the place of
 *   another, answers nothing.
 * - The terminal keeps its own line editing, so Ctrl-C is a signal as ever.
 */
import { createInterface, type Interface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Answer, Ask, Asked, AskedQuestion } from '../policy/asking.ts'
import { printable } from './output.ts'

/** ms that an answer may take: less than the 30 s that a dial waits, so that the yes still finds it there. */
export const ASK_MS = 25_000

/** ms after a question in which nobody can have read the next one. */
const READ_MS = 700

export interface AskerOptions {
  readonly input: Readable
  readonly output: Writable
  /** What the owner calls a peer. */
  readonly nameOf?: (peer: PeerId) => string | undefined
  /** ms. @default performance.now */
  readonly now?: () => number
}

/** The question that is shown. */
interface Open {
  readonly asked: Asked
  readonly until: number
  readonly resolve: (answer: Answer) => void
}

export class Asker {
  readonly #options: AskerOptions
  readonly #lines: Interface
  readonly #now: () => number
  #open: Open | undefined
  #closed = false
  #overAt = Number.NEGATIVE_INFINITY
  /** Settles when the question before has been answered, or is of no use any more. */
  #turn: Promise<unknown> = Promise.resolve()

  constructor(options: AskerOptions) {
    this.#options = options
    this.#now = options.now ?? (() => performance.now())
    this.#lines = createInterface({ input: options.input, terminal: false })
    this.#lines.on('line', (line) => this.#onLine(line))
    this.#lines.on('close', () => this.close())
  }

  /** For a firewall. */
  readonly ask: Ask = (asked, { signal }) => {
    const until = this.#now() + ASK_MS
    const answer = this.#turn.then(() => this.#show(asked, until, signal))
    this.#turn = answer.catch(() => {})
    return answer
  }

  /** Nobody is asked any more. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#lines.close()
    this.#options.input.destroy()
  }

  #show(asked: Asked, until: number, signal: AbortSignal): Promise<Answer> {
    return new Promise((resolve, reject) => {
      // Who waits for its turn may have left meanwhile.
      if (signal.aborted) return reject(nobodyWaits())
      if (this.#closed) return reject(new PeerlineError('ERR_PEERLINE_CLOSED', 'nobody is at the terminal any more'))
      const over = () => {
        this.#open = undefined
        this.#overAt = this.#now()
        signal.removeEventListener('abort', onAbort)
        this.#lines.off('close', onAbort)
      }
      const onAbort = () => {
        over()
        this.#write(`\n${asked.peer} waits no longer\n`)
        reject(nobodyWaits())
      }
      signal.addEventListener('abort', onAbort)
      this.#lines.on('close', onAbort)
      this.#open = {
        asked,
        until,
        resolve: (answer) => {
          over()
          resolve(answer)
        },
      }
      const name = this.#options.nameOf?.(asked.peer)
      this.#write(`\n${asked.peer}${name === undefined ? '' : ` (${name})`} wants to\n`)
      for (const question of asked.questions) this.#write(`  ${wish(question)}\n`)
      this.#prompt()
    })
  }

  #prompt(): void {
    const seconds = Math.max(1, Math.round((this.#open!.until - this.#now()) / 1_000))
    this.#write(`allow it? y yes, n no, l yes to just this, o once; then Enter (${seconds} s): `)
  }

  #onLine(line: string): void {
    const open = this.#open
    if (open === undefined) return
    const said = line.trim().toLowerCase()
    const soon = this.#now() - this.#overAt < READ_MS
    const answer = soon ? undefined : meaning(said, open.asked)
    if (answer !== undefined) return open.resolve(answer)
    if (soon) this.#write('that was typed before this was asked\n')
    this.#prompt()
  }

  #write(text: string): void {
    this.#options.output.write(text)
  }
}

/** What a key stands for. */
function meaning(said: string, { questions }: Asked): Answer | undefined {
  if (said === 'y' || said === 'yes') return true
  if (said === 'n' || said === 'no') return false
  if (said === 'l') return questions.map(() => true)
  return said === 'o' || said === 'once' ? 'once' : undefined
}

function wish({ object, direction }: AskedQuestion): string {
  const what = object === 'connection' ? 'connect' : `use ${printable(object)}`
  return direction === 'in' ? what : `let us ${what}`
}

function nobodyWaits(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_ABORTED', 'nobody waits for the answer any more')
}
