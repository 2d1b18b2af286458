/**
 * The built command as child processes, each with a home of its own, and hands to follow what they print.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished } from 'vitest'
import { temporaryDirectory } from '../../src/temporary.compliance.ts'

const MAIN = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

export const FIXTURES = fileURLToPath(new URL('fixtures', import.meta.url))

export type Json = Record<string, unknown>

export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** A command that runs. */
export class Running {
  readonly child: ChildProcess
  /** Resolves when the process has ended and all that it printed has come. */
  readonly exit: Promise<Exit>
  readonly #stdout: Buffer[] = []
  #stderr = ''
  #ended = false
  readonly #watchers = new Set<() => void>()

  constructor(args: readonly string[], env: NodeJS.ProcessEnv, program = process.execPath) {
    this.child = spawn(program, args, { env, stdio: ['pipe', 'pipe', 'pipe'] })
    this.child.stdin!.on('error', () => {})
    this.child.stdout!.on('data', (chunk: Buffer) => {
      this.#stdout.push(chunk)
      this.#wake()
    })
    this.child.stderr!.setEncoding('utf8').on('data', (chunk: string) => {
      this.#stderr += chunk
      this.#wake()
    })
    this.exit = new Promise((resolve) => {
      this.child.on('close', (code, signal) => {
        this.#ended = true
        resolve({ code, signal })
        this.#wake()
      })
    })
  }

  get bytes(): Buffer {
    return Buffer.concat(this.#stdout)
  }

  get stdout(): string {
    return this.bytes.toString()
  }

  get stderr(): string {
    return this.#stderr
  }

  /** Every whole JSON line so far. */
  get events(): Json[] {
    return this.stdout
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as Json)
  }

  /** The exit code, once the process has ended by itself. */
  async code(): Promise<number | null> {
    return (await this.exit).code
  }

  /** The first JSON line for which `match` holds. */
  event(match: (event: Json) => boolean): Promise<Json> {
    return this.#until(() => this.events.find(match))
  }

  /** The first match in what was said on standard error. */
  said(pattern: RegExp): Promise<RegExpExecArray> {
    return this.#until(() => pattern.exec(this.#stderr) ?? undefined)
  }

  /** The first match in what was printed on standard output. */
  printed(pattern: RegExp): Promise<RegExpExecArray> {
    return this.#until(() => pattern.exec(this.stdout) ?? undefined)
  }

  #wake(): void {
    for (const watch of [...this.#watchers]) watch()
  }

  #until<T>(look: () => T | undefined): Promise<T> {
    return new Promise((resolve, reject) => {
      const watch = () => {
        const found = look()
        if (found === undefined && !this.#ended) return
        this.#watchers.delete(watch)
        if (found !== undefined) resolve(found)
        else reject(new Error(`ended without it.\nstdout: ${this.stdout}\nstderr: ${this.#stderr}`))
      }
      this.#watchers.add(watch)
      watch()
    })
  }
}

/** What a command says that waits for others. */
interface Ready {
  readonly peerId: string
  /** Where it listens, `host:port`. */
  readonly addresses: readonly string[]
}

/** A place where commands run: a home, and the server they know. */
export class World {
  readonly home: string
  readonly env: NodeJS.ProcessEnv

  constructor(home: string) {
    this.home = home
    const outer = Object.entries(process.env).filter(([name]) => !/^(PEERLINE_|NODE_OPTIONS|VITEST)/.test(name))
    this.env = { ...Object.fromEntries(outer), HOME: home }
  }

  static async make(): Promise<World> {
    return new World(await temporaryDirectory())
  }

  /** A path below the home. */
  file(name: string): string {
    return path.join(this.home, name)
  }

  /** Starts a command as `who` (a key file of that name); it is killed with the test. */
  start(who: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Running {
    return this.#started(new Running([MAIN, ...args], this.#envOf(who, env)))
  }

  /** As `start`, in a terminal: all that is printed comes on standard output. Needs `script` of util-linux. */
  startInTerminal(who: string, args: readonly string[]): Running {
    // `exec`: a shell that stayed in between (dash does, bash does not) would take Ctrl-C for its own and answer 130.
    const line = [process.execPath, MAIN, ...args].map((word) => `'${word}'`).join(' ')
    return this.#started(new Running(['-qfec', `exec ${line}`, '/dev/null'], this.#envOf(who, {}), 'script'))
  }

  #envOf(who: string, env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
    return { ...this.env, PEERLINE_IDENTITY: this.file(`${who}.key`), ...env }
  }

  #started(running: Running): Running {
    onTestFinished(async () => {
      running.child.kill('SIGKILL')
      await running.exit
    })
    return running
  }

  /** Runs a command to its end. */
  async run(who: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Running> {
    const running = this.start(who, args, env)
    running.child.stdin!.end()
    await running.exit
    return running
  }

  /** The peer id of `who`. */
  async id(who: string): Promise<string> {
    return (await this.run(who, ['id'])).stdout.trim()
  }

  /** Starts a server that every later command is told of. */
  async serve(args: readonly string[] = []): Promise<{ server: Running; url: string }> {
    const server = this.start('server', ['serve', '--listen', '127.0.0.1:0', '--json', ...args])
    const { url } = (await server.event(({ event }) => event === 'listening')) as { url: string }
    this.env.PEERLINE_RENDEZVOUS = url
    return { server, url }
  }

  /** Starts a command that waits for others, and waits until it is ready. */
  async ready(who: string, args: readonly string[]): Promise<Running & Ready> {
    const running = this.start(who, [...args, '--json'])
    const { peerId, addresses } = (await running.event(({ event }) => event === 'ready')) as unknown as Ready
    for (const address of addresses) expect(address).toMatch(/^.+:\d+$/)
    return Object.assign(running, { peerId, addresses })
  }
}
