/**
 * Asking the owner: one call at a time for each peer, with all its questions.
 *
 *   question --> gathered until the turn ends --> handed over, list closed --> answer | silence | peer left
 *                  others of this peer meanwhile --> the next call, unless an answer decides them
 *
 * The list is closed when it is handed over: an answer must not cover what was not shown. The very same question asked
 * again, as by somebody who dials twice, waits for the same answer. Rules that change decide what waits at once.
 *
 * Limits: 64 peers, 16 questions of each, a time-out. Nobody left who waits: the call is cancelled, and what it
 * answers later changes nothing.
 */
import { abortError, asPeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Decision, Reason } from './decision.ts'
import type { Question, RuleInput } from './rule.ts'

/** A question to the owner. */
export interface AskedQuestion extends Question {
  /** `rule`: one says that the owner is asked each time; `no-rule`: none says anything, so the answer is remembered. */
  readonly why: 'rule' | 'no-rule'
  /** The id of that rule. */
  readonly rule?: string
}

/** All that a peer wants now. */
export interface Asked {
  readonly peer: PeerId
  /** 1 to 16; complete, and never changed. */
  readonly questions: readonly AskedQuestion[]
}

/**
 * `true` or `false` to all; `once`: yes to all, and nothing is remembered; a list of `true` and `false`, one for each
 * question; or a rule of the peer, which is set.
 *
 * Where no rule said anything, a yes or no to all is remembered for whatever the peer wants in that direction, one of a
 * list for its object alone.
 */
export type Answer = boolean | 'once' | readonly boolean[] | Omit<RuleInput, 'subject'>

/**
 * Asked what a peer may do. Rejecting, taking longer than the time-out, or answering anything else means no, and nothing
 * is remembered. The signal fires when nobody waits for the answer any more.
 */
export type Ask = (asked: Asked, options: { signal: AbortSignal }) => Answer | Promise<Answer>

/** What an answer means for a question: how much of it is remembered. */
export type Scope = 'anything' | 'object' | 'once'

export interface AskingOptions {
  readonly ask: Ask
  /** ms that an answer may take. */
  readonly timeoutMs: number
  /** Wait for the end of the turn before asking, so that all questions of it are in the list. */
  readonly gather: boolean
  /** What the rules say by now; `ask` when still nothing but the owner decides. */
  readonly judge: (question: AskedQuestion) => Decision
  /** Takes yes or no for an answer. */
  readonly conclude: (question: AskedQuestion, yes: boolean, scope: Scope) => Decision
  /** Sets the rule that is the answer; whether it lets the question through. Throws when it is none. */
  readonly adopt: (peer: PeerId, rule: Omit<RuleInput, 'subject'>) => (question: Question) => boolean
  readonly onAsk: (asked: Asked) => void
}

/** Peers asked about at once: as many as an owner could ever look through in the time there is. */
const MAX_PEERS = 64
/** Questions of a peer that wait: more than an honest one opens at once. */
const MAX_QUESTIONS = 16

interface Waiting {
  /** Its own question. */
  readonly question: AskedQuestion
  readonly resolve: (decision: Decision) => void
}

/** One call of the approver. */
interface Call {
  questions: readonly AskedQuestion[]
  /** Who waits for it, each with the question in the list that is like its own. */
  readonly waiting: Map<Waiting, AskedQuestion>
  readonly cancel: AbortController
  timer: ReturnType<typeof setTimeout> | undefined
  state: 'gathering' | 'asked' | 'over'
}

interface Table {
  call: Call
  /** For the next call. */
  readonly queued: Set<Waiting>
}

export class Asking {
  readonly #options: AskingOptions
  readonly #tables = new Map<PeerId, Table>()

  constructor(options: AskingOptions) {
    this.#options = options
  }

  /**
   * What comes of a question. Rejects only when the signal fires.
   * @throws PeerlineError `ERR_PEERLINE_ABORTED`, …
   */
  ask(question: AskedQuestion, signal: AbortSignal | undefined): Promise<Decision> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) return reject(abortError(signal, 'asking'))
      const onAbort = () => {
        this.#leave(waiting)
        reject(abortError(signal!, 'asking'))
      }
      const waiting: Waiting = {
        question,
        resolve: (decision) => {
          signal?.removeEventListener('abort', onAbort)
          resolve(decision)
        },
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#enter(waiting)
    })
  }

  /** Rules have changed: what they decide now waits no longer. */
  review(): void {
    for (const [peer, table] of [...this.#tables]) {
      const { call, queued } = table
      for (const waiting of queued) if (this.#decided(waiting)) queued.delete(waiting)
      if (call.state === 'over') continue
      for (const waiting of call.waiting.keys()) if (this.#decided(waiting)) call.waiting.delete(waiting)
      if (call.waiting.size === 0) this.#cancel(peer, table)
    }
  }

  /** Nobody is asked any more; all that wait are refused. */
  close(): void {
    for (const [peer, table] of [...this.#tables]) this.#refuseAll(peer, table, 'closed')
  }

  #enter(waiting: Waiting): void {
    const { peer } = waiting.question
    const table = this.#tables.get(peer)
    if (table === undefined) {
      if (this.#tables.size >= MAX_PEERS) return waiting.resolve(refused(waiting, 'busy'))
      return this.#start(peer, [waiting], this.#options.gather)
    }
    const { call, queued } = table
    if (call.waiting.size + queued.size >= MAX_QUESTIONS) return waiting.resolve(refused(waiting, 'busy'))
    const joins =
      call.state === 'gathering' ||
      (call.state === 'asked' && call.questions.some((other) => isSame(other, waiting.question)))
    if (joins) addTo(call, waiting)
    else queued.add(waiting)
  }

  #start(peer: PeerId, all: readonly Waiting[], gather: boolean): void {
    const call: Call = {
      questions: [],
      waiting: new Map(),
      cancel: new AbortController(),
      timer: undefined,
      state: 'gathering',
    }
    const table: Table = { call, queued: new Set() }
    for (const waiting of all) addTo(call, waiting)
    this.#tables.set(peer, table)
    if (gather) call.timer = setTimeout(() => this.#hand(peer, table), 0)
    else this.#hand(peer, table)
  }

  #hand(peer: PeerId, table: Table): void {
    const { call } = table
    const { ask, timeoutMs, onAsk } = this.#options
    call.state = 'asked'
    // who came and left within the turn asks nothing
    const still = new Set(call.waiting.values())
    call.questions = Object.freeze(call.questions.filter((question) => still.has(question)))
    const asked = Object.freeze({ peer, questions: call.questions })
    call.timer = setTimeout(() => this.#refuseAll(peer, table, 'unanswered'), timeoutMs)
    onAsk(asked)
    if (isOver(call)) return
    let answer: Promise<unknown>
    try {
      answer = Promise.resolve(ask(asked, { signal: call.cancel.signal }))
    } catch (error) {
      answer = Promise.reject(error)
    }
    answer.then(
      (value) => this.#onAnswer(peer, table, value),
      (error: unknown) => this.#onFailure(peer, table, error),
    )
  }

  #onAnswer(peer: PeerId, table: Table, value: unknown): void {
    const { call } = table
    if (isOver(call)) return
    const { conclude, adopt } = this.#options
    let verdict: (waiting: Waiting, shown: AskedQuestion) => Decision
    if (typeof value === 'boolean') {
      verdict = ({ question }) => conclude(question, value, 'anything')
    } else if (value === 'once') {
      verdict = ({ question }) => conclude(question, true, 'once')
    } else if (isListFor(call, value)) {
      const { questions } = call
      verdict = ({ question }, shown) => conclude(question, value[questions.indexOf(shown)] === true, 'object')
    } else {
      // what the rule decides is decided when it is set; what it leaves to be asked is answered by it
      end(call)
      try {
        const lets = adopt(peer, value as Omit<RuleInput, 'subject'>)
        verdict = ({ question }) => conclude(question, lets(question), 'once')
      } catch (error) {
        return this.#failed(peer, table, error)
      }
    }
    end(call)
    try {
      for (const [waiting, shown] of call.waiting) waiting.resolve(verdict(waiting, shown))
    } catch (error) {
      return this.#failed(peer, table, error)
    }
    this.#goOn(peer, table)
  }

  #onFailure(peer: PeerId, table: Table, error: unknown): void {
    if (isOver(table.call)) return
    end(table.call)
    this.#failed(peer, table, error)
  }

  #failed(peer: PeerId, table: Table, error: unknown): void {
    const cause = asPeerlineError(error, 'ERR_PEERLINE_DENIED')
    for (const waiting of table.call.waiting.keys()) waiting.resolve({ ...refused(waiting, 'failed'), cause })
    this.#goOn(peer, table)
  }

  #refuseAll(peer: PeerId, table: Table, reason: Reason): void {
    const { call, queued } = table
    end(call)
    this.#tables.delete(peer)
    for (const waiting of [...call.waiting.keys(), ...queued]) waiting.resolve(refused(waiting, reason))
    call.cancel.abort()
  }

  #leave(waiting: Waiting): void {
    const { peer } = waiting.question
    const table = this.#tables.get(peer)
    if (table === undefined || table.queued.delete(waiting)) return
    if (table.call.waiting.delete(waiting) && table.call.waiting.size === 0) this.#cancel(peer, table)
  }

  /** Nobody waits for the call any more. */
  #cancel(peer: PeerId, table: Table): void {
    if (isOver(table.call)) return
    end(table.call)
    this.#goOn(peer, table)
    table.call.cancel.abort()
  }

  /** The next call, for those who wait and are still not decided. */
  #goOn(peer: PeerId, table: Table): void {
    this.#tables.delete(peer)
    const rest = [...table.queued].filter((waiting) => !this.#decided(waiting))
    if (rest.length > 0) this.#start(peer, rest, false)
  }

  #decided(waiting: Waiting): boolean {
    const decision = this.#options.judge(waiting.question)
    if (decision.action === 'ask') return false
    waiting.resolve(decision)
    return true
  }
}

function addTo(call: Call, waiting: Waiting): void {
  const { question } = waiting
  const shown = call.questions.find((other) => isSame(other, question))
  call.waiting.set(waiting, shown ?? question)
  if (shown === undefined) call.questions = [...call.questions, question]
}

function isOver({ state }: Call): boolean {
  return state === 'over'
}

function end(call: Call): void {
  call.state = 'over'
  clearTimeout(call.timer)
}

function isListFor(call: Call, value: unknown): value is readonly boolean[] {
  return (
    Array.isArray(value) &&
    value.length === call.questions.length &&
    value.every((yes: unknown) => typeof yes === 'boolean')
  )
}

/** What the owner sees of them is the same. `how` is not what is asked, but how it came to be. */
function isSame(a: AskedQuestion, b: AskedQuestion): boolean {
  const bare = [a, b].every(({ view, needs }) => view === undefined && needs === undefined)
  return bare && a.object === b.object && a.direction === b.direction && a.why === b.why
}

function refused({ question }: Waiting, reason: Reason): Decision {
  return { action: 'deny', reason, question }
}
