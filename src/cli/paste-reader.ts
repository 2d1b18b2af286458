/**
 * Reads texts that are pasted into a terminal, in however many lines.
 *
 *     lines --one begins a text--> gathered --whole--> given
 *                                     \--none comes for a second, or an empty one--> what is wrong is told; the rest may follow
 *
 * The terminal keeps its own line editing, so Ctrl-C is a signal as ever. It takes lines of some length only (Linux 4,095
 * characters, macOS 1,024): the texts are shown in shorter ones.
 */
import { createInterface, type Interface } from 'node:readline'
import type { Readable } from 'node:stream'
import { kindOfPasted, type PastedKind, readPasted } from '../bytes/pasted-text.ts'
import { abortError, PeerlineError } from '../errors.ts'

/** Bytes of a text: the largest ticket, and three times what signaling by hand takes; whoever takes it knows its own limit. */
const MAX_BYTES = 6_144

/** Characters that are gathered: those of the longest text, and as many spaces. */
const MAX_CHARS = 16_384

/** Lines that are kept while nobody reads: several of the longest texts. */
const MAX_UNREAD_LINES = 1_000

/** ms after the last line in which a paste has come as a whole. */
const QUIET_MS = 1_000

export interface NextOptions {
  readonly signal: AbortSignal
  /** Told what is wrong with what was pasted; it goes on after that. */
  readonly onWrong: (error: PeerlineError) => void
}

export class PasteReader {
  readonly #input: Readable
  readonly #lines: Interface
  /** Lines that nobody has asked for yet. */
  readonly #unread: string[] = []
  #onLine: ((line: string) => void) | undefined
  #onEnd: (() => void) | undefined
  #ended = false

  constructor(input: Readable) {
    this.#input = input
    this.#lines = createInterface({ input, terminal: false })
    this.#lines.on('line', (line) => {
      if (this.#onLine !== undefined) this.#onLine(line)
      else if (this.#unread.length < MAX_UNREAD_LINES) this.#unread.push(line)
    })
    this.#lines.on('close', () => {
      this.#ended = true
      this.#onEnd?.()
    })
  }

  /**
   * The next whole text of a kind; one at a time.
   * @throws PeerlineError `ERR_PEERLINE_CLOSED` when the input ends before; what the signal says
   */
  next(kind: PastedKind, { signal, onWrong }: NextOptions): Promise<string> {
    return new Promise((resolve, reject) => {
      let text = ''
      let wrong: PeerlineError | undefined
      let timer: ReturnType<typeof setTimeout> | undefined
      const settle = (outcome: () => void) => {
        clearTimeout(timer)
        signal.removeEventListener('abort', onAbort)
        this.#onLine = undefined
        this.#onEnd = undefined
        outcome()
      }
      const tell = () => {
        clearTimeout(timer)
        if (wrong !== undefined) onWrong(wrong)
        wrong = undefined
      }
      const onAbort = () => settle(() => reject(abortError(signal, 'reading what is pasted')))
      const onLine = (line: string) => {
        clearTimeout(timer)
        if (line.trim() === '') return tell()
        if (kindOfPasted(line) !== undefined) text = line
        else if (text !== '' && text.length < MAX_CHARS) text = `${text}\n${line}`
        try {
          // What begins no text, such as a greeting, is passed over; but where nothing else comes, it was meant.
          readPasted(kind, text || line, { maxBytes: MAX_BYTES })
          settle(() => resolve(text))
        } catch (error) {
          wrong = error as PeerlineError
          timer = setTimeout(tell, QUIET_MS)
        }
      }
      const onEnd = () => {
        tell()
        const message = `the input ended before ${kind === 'ticket' ? 'a' : 'an'} ${kind} was pasted`
        settle(() =>
          reject(new PeerlineError('ERR_PEERLINE_CLOSED', message, { recover: 'Paste it into the terminal.' })),
        )
      }
      if (signal.aborted) return onAbort()
      signal.addEventListener('abort', onAbort)
      this.#onLine = onLine
      this.#onEnd = onEnd
      while (this.#unread.length > 0 && this.#onLine === onLine) onLine(this.#unread.shift()!)
      if (this.#ended && this.#onEnd === onEnd) onEnd()
    })
  }

  /** Reads no more. */
  close(): void {
    this.#lines.close()
    this.#input.destroy()
  }
}
