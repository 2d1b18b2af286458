/**
 * A process of the siege that answers questions: `{ ask, with }` goes there, `{ answer }` or `{ error }` comes back.
 * It ends with its parent.
 */
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/** ms that a process gets to answer: the longest question is to make some thousand offers. */
const ANSWER_MS = 60_000

/** The parent's end. */
export class Child {
  #process
  #file
  #waiting = new Map()
  #next = 0
  /** How it ended, when it has. */
  ended

  /** @param {string} file beside this one  @param {{ flags?: string[], onEnd?: () => void }} [options] */
  constructor(file, { flags = [], onEnd = () => {} } = {}) {
    this.#file = file
    this.#process = fork(fileURLToPath(new URL(file, import.meta.url)), [], { execArgv: flags })
    this.#process.on('message', ({ id, answer, error }) => {
      const waiting = this.#waiting.get(id)
      this.#waiting.delete(id)
      if (error === undefined) waiting?.resolve(answer)
      else waiting?.reject(new Error(`${file}: ${error}`))
    })
    this.#process.on('exit', (code, signal) => {
      this.ended = signal ?? `exit code ${code}`
      for (const { reject } of this.#waiting.values()) reject(new Error(`${file} has ended: ${this.ended}`))
      this.#waiting.clear()
      onEnd()
    })
  }

  ask(ask, value = {}) {
    const file = this.#file
    if (this.ended !== undefined) return Promise.reject(new Error(`the process has ended: ${this.ended}`))
    const id = this.#next++
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id)
        reject(new Error(`${file}: no answer to ${ask} in ${ANSWER_MS / 1_000} s`))
      }, ANSWER_MS)
      const settled = (settle) => (result) => {
        clearTimeout(timer)
        settle(result)
      }
      this.#waiting.set(id, { resolve: settled(resolve), reject: settled(reject) })
      this.#process.send({ id, ask, with: value })
    })
  }

  kill() {
    this.#process.kill('SIGKILL')
  }
}

/** The process's own end: answers with what the function of that name returns. */
export function answer(functions) {
  process.on('disconnect', () => process.exit())
  process.on('message', async ({ id, ask, with: value }) => {
    try {
      process.send({ id, answer: (await functions[ask](value)) ?? null })
    } catch (error) {
      process.send({ id, error: error.stack })
    }
  })
}
