import { PassThrough } from 'node:stream'
import { describe, expect, onTestFinished, test } from 'vitest'
import { Identity, type PeerId } from '../identity/index.ts'
import { Firewall } from '../policy/firewall.ts'
import { Asker } from './asker.ts'

const [ALICE, BOB, CAROL] = [Identity.generate().peerId, Identity.generate().peerId, Identity.generate().peerId]
const PROMPT = 'allow it? y yes, '

/** A terminal, and a firewall whose owner sits there. */
class Desk {
  readonly input = new PassThrough()
  readonly output = new PassThrough()
  now = 0
  shown = ''
  questions = 0
  readonly asker = new Asker({
    input: this.input,
    output: this.output,
    now: () => this.now,
    nameOf: (peer) => (peer === ALICE ? 'alice' : undefined),
  })
  readonly firewall: Firewall
  #wake = () => {}

  constructor(options: { approveTimeoutMs?: number } = {}) {
    this.firewall = new Firewall({ rules: [], ask: this.asker.ask, ...options })
    this.firewall.addEventListener('question', () => this.questions++)
    this.output.on('data', (chunk) => {
      this.shown += chunk
      this.#wake()
    })
    onTestFinished(() => {
      this.firewall.close()
      this.asker.close()
    })
  }

  /** What comes of a question. */
  async ask(peer: PeerId, object: string, signal?: AbortSignal): Promise<string> {
    const options = signal === undefined ? {} : { signal }
    return this.firewall.admit({ peer, direction: 'in', object }, options).then(
      ({ reason }) => reason,
      (error) => error.code,
    )
  }

  /** Waits until so many questions, or repetitions of them, have been put in all, and as long as reading takes. */
  async prompted(times: number, readMs = 1_000): Promise<void> {
    while (this.shown.split(PROMPT).length - 1 < times) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    this.now += readMs
  }

  type(text: string): void {
    this.input.write(`${text}\n`)
  }

  get rules(): string[] {
    const own = this.firewall.list().filter(({ subject }) => subject !== 'everyone')
    return own.map(({ id, action }) => `${id}: ${action}`)
  }
}

describe('the owner at the terminal', () => {
  test('sees who wants what, all at once', async () => {
    const desk = new Desk()
    const all = [desk.ask(ALICE, 'connection'), desk.ask(ALICE, '/a/1'), desk.ask(ALICE, '/b\x1b[2J/1')]
    await desk.prompted(1)
    expect(desk.shown).toMatch(
      new RegExp(
        `^\n${ALICE} \\(alice\\) wants to\n {2}connect\n {2}use /a/1\n {2}use /b \\[2J/1\n${PROMPT.replace('?', '\\?')}.*25 s\\): $`,
      ),
    )
    desk.type('n')
    expect(await Promise.all(all)).toEqual(Array(3).fill('ERR_PEERLINE_DENIED'))
  })

  test.each([
    ['y', 'approved', [`${ALICE} anything in: allow`]],
    ['Yes ', 'approved', [`${ALICE} anything in: allow`]],
    ['n', 'ERR_PEERLINE_DENIED', [`${ALICE} anything in: deny`]],
    ['l', 'approved', [`${ALICE} /a/1 in: allow`]],
    ['o', 'approved', []],
  ])('says %s', async (said, outcome, rules) => {
    const desk = new Desk()
    const asked = desk.ask(ALICE, '/a/1')
    await desk.prompted(1)
    desk.type(said)
    expect(await asked).toBe(outcome)
    expect(desk.rules).toEqual(rules)
  })

  test('says once, to all that was shown, and is asked again the next time', async () => {
    const desk = new Desk()
    const all = [desk.ask(ALICE, 'connection'), desk.ask(ALICE, '/a/1')]
    await desk.prompted(1)
    desk.type('o')
    expect(await Promise.all(all)).toEqual(['approved', 'approved'])
    const again = desk.ask(ALICE, '/a/1')
    await desk.prompted(2)
    desk.type('n')
    expect(await again).toBe('ERR_PEERLINE_DENIED')
  })

  test('is asked again after anything else', async () => {
    const desk = new Desk()
    const asked = desk.ask(ALICE, '/a/1')
    await desk.prompted(1)
    desk.type('')
    await desk.prompted(2)
    desk.type('perhaps')
    await desk.prompted(3)
    desk.type('y')
    expect(await asked).toBe('approved')
  })

  test('hears of one peer after the other', async () => {
    const desk = new Desk()
    const [alice, bob] = [desk.ask(ALICE, '/a/1'), desk.ask(BOB, '/a/1')]
    await desk.prompted(1)
    expect(desk.shown).not.toContain(BOB)
    desk.type('n')
    await desk.prompted(2)
    expect(desk.shown).toContain(`${BOB} wants to\n`)
    desk.type('y')
    expect(await Promise.all([alice, bob])).toEqual(['ERR_PEERLINE_DENIED', 'approved'])
  })

  test('answers nothing by what was typed before it could be read', async () => {
    const desk = new Desk()
    desk.type('y')
    const [alice, bob] = [desk.ask(ALICE, '/a/1'), desk.ask(BOB, '/a/1')]
    await desk.prompted(1)
    expect(desk.rules).toEqual([])
    // Twice by mistake, and once more: none is for Bob.
    desk.type('y\ny')
    expect(await alice).toBe('approved')
    await desk.prompted(2, 600)
    desk.type('y')
    await desk.prompted(3)
    expect(desk.shown).toContain('typed before this was asked')
    expect(desk.rules).toEqual([`${ALICE} anything in: allow`])
    desk.type('n')
    expect(await bob).toBe('ERR_PEERLINE_DENIED')
  })

  test('who is silent refuses, this time', async () => {
    const desk = new Desk({ approveTimeoutMs: 20 })
    expect(await desk.ask(ALICE, '/a/1')).toBe('ERR_PEERLINE_DENIED')
    expect(desk.shown).toMatch(/waits no longer\n$/)
    expect(desk.rules).toEqual([])
  })

  test('is not asked about who has left, or was decided elsewhere', async () => {
    const desk = new Desk()
    const leave = new AbortController()
    const [alice, bob] = [desk.ask(ALICE, '/a/1', leave.signal), desk.ask(BOB, '/a/1')]
    await desk.prompted(1)
    leave.abort()
    expect(await alice).toBe('ERR_PEERLINE_ABORTED')
    await desk.prompted(2)
    desk.firewall.set({ subject: BOB, direction: 'in', action: 'allow' })
    expect(await bob).toBe('rule')
    desk.type('n')
    expect(await desk.ask(BOB, '/b/1')).toBe('rule')
  })

  test('is not asked about who left while another was asked about', async () => {
    const desk = new Desk()
    const leave = new AbortController()
    const [alice, bob] = [desk.ask(ALICE, '/a/1'), desk.ask(BOB, '/a/1', leave.signal)]
    await desk.prompted(1)
    await expect.poll(() => desk.questions).toBe(2)
    leave.abort()
    expect(await bob).toBe('ERR_PEERLINE_ABORTED')
    desk.type('y')
    expect(await alice).toBe('approved')
    const carol = desk.ask(CAROL, '/a/1')
    await desk.prompted(2)
    expect(desk.shown).not.toContain(BOB)
    desk.type('y')
    expect(await carol).toBe('approved')
  })

  test('who leaves the terminal refuses', async () => {
    const desk = new Desk()
    const asked = desk.ask(ALICE, '/a/1')
    await desk.prompted(1)
    desk.input.end()
    expect(await asked).toBe('ERR_PEERLINE_DENIED')
    expect(await desk.ask(BOB, '/a/1')).toBe('ERR_PEERLINE_DENIED')
    expect(desk.rules).toEqual([])
  })
})
