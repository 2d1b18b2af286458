/**
 * `peerline rules`: what decides who may come in, and use what.
 */
import type { Command } from 'commander'
import { whenItHolds } from './allow.ts'
import type { Json } from './control-lines.ts'
import { carryOut } from './errand.ts'
import { addIdentity, addJson, type IdentityOption, type JsonOption } from './options.ts'
import { columns, formatSpan, printable } from './output.ts'
import { run } from './run.ts'

export function addRulesCommand(program: Command): void {
  const command = program
    .command('rules')
    .description('show the rules and bans; remove a rule')
    .enablePositionalOptions()
  addJson(addIdentity(command)).addHelpText(
    'after',
    `
Examples:
  peerline rules
  peerline rules remove <peer id> anything in      the rule of that id, as \`peerline rules\` shows it

The most specific rule decides: a peer before a group before everyone, then a protocol before a pattern before anything.
A ban goes before all rules. Where nothing says anything, nobody is let in, or \`up --ask\` asks.
`,
  )
  command.action((options: IdentityOption & JsonOption) =>
    run(options, async (running) => {
      const { out } = running
      const rows: string[][] = []
      await carryOut(options, { order: 'rules' }, running, (item) => {
        if (out.json) out.event(item)
        else rows.push((item.rule === undefined ? banRow(item) : ruleRow(item)).map(printable))
      })
      if (!out.json && rows.length === 0) out.say('no rules, no bans: nobody is let in')
      for (const line of columns(rows)) if (!out.json) out.data(line.trimStart())
      return undefined
    }),
  )

  const remove = command.command('remove').description('remove a rule, so that less specific ones decide')
  remove.argument('<id...>', 'the id of the rule, as `peerline rules` shows it')
  addJson(addIdentity(remove))
  remove.action((words: readonly string[], options: IdentityOption & JsonOption) =>
    run(options, async (running) => {
      const id = words.join(' ')
      const { done, live } = await carryOut(options, { order: 'remove', id }, running)
      running.out.event({ event: 'removed', rule: id, was: done.was, live })
      running.out.say(done.was === true ? `removed ${id}; ${whenItHolds(live)}` : `there is no rule ${id}`)
      return undefined
    }),
  )
}

function ruleRow({ rule, subject, object, direction, action, until, uses, answer, kept }: Json): string[] {
  const more = [
    ...left(until),
    ...(uses === undefined ? [] : [`${uses} more times`]),
    ...(answer === true ? ['as you answered'] : []),
    ...(kept === true ? [] : [rule === 'everyone anything out' ? 'unless you say otherwise' : 'while it runs']),
  ]
  return [String(action), String(subject), String(object), String(direction), more.join(', ')]
}

function banRow({ ban, until, why }: Json): string[] {
  return ['ban', String(ban), '', '', [...left(until), ...(typeof why === 'string' ? [why] : [])].join(', ')]
}

function left(until: unknown): string[] {
  return typeof until === 'number' ? [`for ${formatSpan(until - Date.now())}`] : []
}
