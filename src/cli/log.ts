/**
 * `peerline log`: what was allowed and denied, and why.
 */
import type { Command } from 'commander'
import type { PeerlineError } from '../errors.ts'
import type { Json } from './control-lines.ts'
import { carryOut } from './errand.ts'
import { addIdentity, addJson, type IdentityOption, type JsonOption, wholeNumber } from './options.ts'
import { type Output, printable } from './output.ts'
import { run } from './run.ts'

/** Lines that are shown: what fits a screen or two. */
const DEFAULT_LINES = 50

/** As many as a log has, and many more. */
const MAX_LINES = 100_000

interface LogOptions extends IdentityOption, JsonOption {
  readonly lines: number
  readonly follow?: boolean
}

export function addLogCommand(program: Command): void {
  const command = program.command('log').description('show what was allowed and denied, and why')
  addJson(addIdentity(command))
    .option('-n, --lines <n>', 'the latest so many', wholeNumber(0, MAX_LINES), DEFAULT_LINES)
    .option('-f, --follow', 'go on with each decision of the peerline that runs, as it is made')
    .addHelpText(
      'after',
      `
Examples:
  peerline log
  peerline log --follow
  peerline log -n 1000 --json | grep '"deny"'

Columns: when, allowed or denied, the peer, what it wanted ("in": of us, "out": we of it), and the rule that decided, or why
else. What is written down is bounded, in a second and in all: a flood of strangers is counted, not listed.
`,
    )
  command.action((options: LogOptions) =>
    run({ ...options, endless: options.follow === true }, async (running) => {
      const { lines: count, follow = false } = options
      const show = (item: Json) => tell(item, running.out)
      try {
        await carryOut(options, { order: 'log', count, follow }, running, show)
      } catch (error) {
        if (!follow || (error as PeerlineError).code !== 'ERR_PEERLINE_CLOSED') throw error
        running.out.say('the peerline that ran has ended')
      }
      return undefined
    }),
  )
}

function tell(item: Json, out: Output): void {
  if (out.json) return out.event(item)
  const { at, peer, direction, object, action, skipped } = item
  const when = new Date(Number(at)).toISOString().replace('T', ' ').slice(0, 19)
  const what = skipped === undefined ? `${action}  ${peer}  ${direction}  ${object}  ${why(item)}` : `${skipped} more`
  out.data(printable(`${when}  ${what}`))
}

function why({ peer, reason, rule }: Json): string {
  if (typeof rule !== 'string') return String(reason)
  const own = rule.startsWith(`${peer} `)
  const said = own ? `its rule ${rule.slice(String(peer).length + 1)}` : `rule ${rule}`
  return reason === 'rule' ? said : `${reason}, ${said}`
}
