#!/usr/bin/env node
/**
 * The `peerline` command. What a subcommand needs is loaded when it runs: starting is part of connecting.
 */
import { readFileSync } from 'node:fs'
import v8 from 'node:v8'
import { Command, CommanderError } from 'commander'
import { addRuleCommands } from './allow.ts'
import { addBanCommands } from './ban.ts'
import { addDemoCommand } from './demo.ts'
import { addDoctorCommand } from './doctor.ts'
import { EXIT, EXIT_CODES_HELP } from './exit-codes.ts'
import { addIdCommand } from './id.ts'
import { addInviteCommand } from './invite.ts'
import { addJoinCommand } from './join.ts'
import { addLogCommand } from './log.ts'
import { printable } from './output.ts'
import { addPeersCommand } from './peers.ts'
import { addPingCommand } from './ping.ts'
import { addPipeCommand } from './pipe.ts'
import { addReceiveCommand } from './receive.ts'
import { addRulesCommand } from './rules.ts'
import { fail } from './run.ts'
import { addSendCommand } from './send.ts'
import { addServeCommand } from './serve.ts'
import { addUpCommand } from './up.ts'

// Sealing makes a buffer for each record; when V8 frees those on another thread, the two threads fight over the
// allocator, and bulk data loses a third on machines with two cores. This process is ours, so it may be told.
v8.setFlagsFromString('--no-concurrent-array-buffer-sweeping')

const ENVIRONMENT_HELP = `Environment, for what no flag says:
  PEERLINE_IDENTITY    key file (--identity)
  PEERLINE_RENDEZVOUS  server URLs, separated by spaces or commas (--rendezvous)
  PEERLINE_LEDGER      ledgers: files, server URLs, or "hedera" (--ledger)
  PEERLINE_REGISTRY    topic where peers tell of theirs (--registry)
  PEERLINE_DHT         nodes of the DHT, or "public" (--dht)
  PEERLINE_LISTEN      addresses to listen on (--listen)
  PEERLINE_ALLOW       peers to let in, or "all" (--allow)
  PEERLINE_VIA         the way to use (--via)
  PEERLINE_STUN        STUN servers to ask for our address (--stun)
  PEERLINE_DEBUG=1     print the whole error when something fails`

const EXAMPLES_HELP = `Examples:
  peerline demo                                                    see it work, with no set-up; --no-server: without any
  peerline serve                                                   a server; prints its URL
  peerline receive --rendezvous URL --allow PEER                   on one machine
  peerline send FILE PEER --rendezvous URL                         on another
  peerline invite                                                  a ticket that lets another machine in
  peerline join TICKET                                             there; that machine finds this one by its id from then on
  peerline allow PEER --for 1h                                     also while receive or up runs
  peerline doctor --rendezvous URL                                 what does this network let through?`

function readVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}

function makeProgram(): Command {
  const program = new Command('peerline')
    .description('Dial a device by its public key, and it stays connected.')
    .version(readVersion())
    // So that the options of `rules remove` are its own, not those of `rules`.
    .enablePositionalOptions()
    .exitOverride()
    // Commander's own error output; ours is one line, printed below.
    .configureOutput({ outputError: () => {}, writeOut: writeHelp })
    .addHelpText('after', `\n${EXAMPLES_HELP}\n\n${ENVIRONMENT_HELP}\n\n${EXIT_CODES_HELP}\n`)
  addIdCommand(program)
  addServeCommand(program)
  addUpCommand(program)
  addInviteCommand(program)
  addJoinCommand(program)
  addPingCommand(program)
  addSendCommand(program)
  addReceiveCommand(program)
  addPipeCommand(program)
  addRuleCommands(program)
  addBanCommands(program)
  addRulesCommand(program)
  addPeersCommand(program)
  addLogCommand(program)
  addDoctorCommand(program)
  addDemoCommand(program)
  return program
}

/** Help may be piped to a pager that has read enough of it. */
function writeHelp(text: string): void {
  process.stdout.on('error', () => process.exit(EXIT.SIGPIPE))
  process.stdout.write(text)
}

/** What the command line lacks, on one line. */
function usageLine(error: CommanderError, program: Command): string {
  const said = printable(error.message.replace(/^error: /, '')).trim()
  const command = program.commands.find((one) => one.name() === process.argv[2])
  const where = command === undefined ? '' : ` ${command.name()}`
  return `peerline: ${said}${/[.?)]$/.test(said) ? '' : '.'} See peerline${where} --help.\n`
}

/** A variable that is set to nothing is not set. */
function forgetEmptyVariables(): void {
  for (const [name, value] of Object.entries(process.env)) {
    if (name.startsWith('PEERLINE_') && value?.trim() === '') delete process.env[name]
  }
}

async function main(): Promise<void> {
  // Standard error may be a closed pipe, and there is nobody left to tell.
  process.on('uncaughtException', (error) => process.exit(fail(error)))
  forgetEmptyVariables()
  const program = makeProgram()
  try {
    await program.parseAsync()
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    if (error.exitCode === 0) return
    // Without a command the whole help was printed already.
    if (error.code !== 'commander.help') process.stderr.write(usageLine(error, program))
    process.exitCode = EXIT.USAGE
  }
}

await main()
