/**
 * `peerline doctor`: what this machine's network lets through, and which peers are therefore reached directly.
 */
import type { Command } from 'commander'
import { PeerlineError } from '../errors.ts'
import type { Step } from './doctor-facts.ts'
import { EXIT } from './exit-codes.ts'
import { readReflectors } from './local-peer.ts'
import { addJson, addNetwork, addRendezvous, collect, type JsonOption } from './options.ts'
import type { Output } from './output.ts'
import { run } from './run.ts'

/** ms that --long waits for an idle UDP port: as long as a good router keeps one (RFC 4787 section 4.3), and a little. */
const LONG_MS = 125_000

/** ms between two drawings of the time that went by. */
const REDRAW_MS = 500

const STEPS: Readonly<Record<Step, string>> = {
  rendezvous: 'dialling the rendezvous',
  router: 'asking the router for ports',
  lan: 'trying multicast',
  mapping: 'how UDP ports are mapped',
  filtering: 'who may send to them',
  hairpin: 'from behind the router to behind it',
  lifetime: 'how long an idle UDP port lives',
  tcp: 'how TCP ports are mapped',
  ipv6: 'IPv6',
}

interface DoctorOptions extends JsonOption {
  readonly rendezvous?: readonly string[]
  readonly reflector?: readonly string[]
  readonly long?: boolean
  readonly lan: boolean
  readonly mapPorts: boolean
}

export function addDoctorCommand(program: Command): void {
  const command = program
    .command('doctor')
    .description("look at this machine's network: which peers are reached directly, and what would help")
  addRendezvous(command, 'server to dial and to ask; may be repeated')
    .option('--reflector <host:port>', 'STUN server to ask as well; may be repeated', collect)
    .option('--long', `also see how long an idle UDP port lives: takes ${LONG_MS / 1000} s more`)
  addJson(addNetwork(command)).addHelpText(
    'after',
    `
Examples:
  peerline doctor --rendezvous 'ws://192.0.2.1:4400#<peer id>'
  peerline doctor --rendezvous URL --reflector stun.example.org:3478    one that is elsewhere tells more
  peerline doctor --long --json > report.json

It takes some seconds. A port is asked of the router, and given back at once. The exit code is 4 when no rendezvous and
no reflector that is known could be reached.
`,
  )
  command.action((options: DoctorOptions) =>
    run(options, async ({ out, signal }) => {
      const { parseServerUrl } = await import('../connect/index.ts')
      const rendezvous = (options.rendezvous ?? []).map(parseServerUrl)
      const reflectors = await readReflectors(options.reflector ?? [])
      const [{ examine }, { verdict }, { doctorLines }] = await Promise.all([
        import('./doctor-facts.ts'),
        import('./doctor-verdict.ts'),
        import('./doctor-report.ts'),
      ])
      const started = performance.now()
      const watch = new Steps(out)
      const facts = await examine({
        rendezvous,
        reflectors,
        longestIdleMs: options.long === true ? LONG_MS : 0,
        router: options.mapPorts,
        lan: options.lan,
        signal,
        onProgress: (step, state) => watch.update(step, state),
      }).finally(() => watch.stop())
      const { reached, reach, findings } = verdict(facts)
      const { addresses, nat = null, router = null, lan = null, packages, notFound } = facts
      const tookMs = Math.round(performance.now() - started)
      out.event({
        event: 'doctor',
        reached,
        reach,
        findings,
        tookMs,
        node: process.version,
        platform: `${process.platform}-${process.arch}`,
        addresses,
        rendezvous: facts.rendezvous,
        notFound,
        nat: nat && { reflectors: nat.reflectors, udp: nat.udp, tcp: nat.tcp, ipv6: nat.ipv6 },
        router,
        lan,
        packages,
      })
      for (const line of doctorLines(facts, { reached, reach, findings })) out.say(line)
      if (reached || rendezvous.length + reflectors.length === 0) return EXIT.OK
      throw new PeerlineError('ERR_PEERLINE_UNREACHABLE', 'no rendezvous and no reflector was reached', {
        recover: 'See what the report says.',
      })
    }),
  )
}

/** Shows what is under way: on a terminal in one line, elsewhere in a line for each step. */
class Steps {
  readonly #out: Output
  readonly #started = performance.now()
  readonly #running = new Set<Step>()
  readonly #timer: ReturnType<typeof setInterval>

  constructor(out: Output) {
    this.#out = out
    this.#timer = setInterval(() => this.#draw(), REDRAW_MS)
    this.#timer.unref()
  }

  update(step: Step, state: 'started' | 'finished'): void {
    if (state === 'finished') this.#running.delete(step)
    else {
      this.#running.add(step)
      if (!this.#out.live) this.#out.say(`looking: ${STEPS[step]}`)
    }
    this.#draw()
  }

  #draw(): void {
    const seconds = Math.round((performance.now() - this.#started) / 1000)
    this.#out.redraw(`${seconds} s  ${[...this.#running].map((step) => STEPS[step]).join(', ')}`)
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#out.clear()
  }
}
