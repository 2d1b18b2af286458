/**
 * Small networks for tests: Linux network namespaces, joined by cables, and programs that run inside.
 *
 * A program inside is a process of its own and cannot read TypeScript, so what it imports of `src/` is stripped of its
 * types first. All of it is gone after `close`.
 */
import { type ChildProcessWithoutNullStreams, execFile, spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import { compile } from '../javascript.compliance.ts'

const run = promisify(execFile)

/** ms for a program inside to say something. */
const SAY_MS = 10_000

/** Why there can be no namespaces here; undefined when there can. */
export function noNamespaces(): string | undefined {
  if (process.platform !== 'linux') return 'network namespaces are a matter of Linux'
  if (process.getuid?.() !== 0) return 'network namespaces need root'
  const name = uniqueName()
  const made = spawnSync('ip', ['netns', 'add', name])
  if (made.status !== 0) return 'this machine allows no network namespaces'
  spawnSync('ip', ['netns', 'delete', name])
  return undefined
}

/** A program inside, that says one JSON value a line. */
export interface Inside {
  readonly child: ChildProcessWithoutNullStreams
  /** The next thing it says. */
  next(): Promise<unknown>
  /** Tells it one line. */
  tell(line: string): void
  /** Resolves with all that it wrote on stderr, when it has ended. */
  readonly ended: Promise<string>
}

export class Namespaces {
  readonly #prefix = uniqueName()
  readonly #directory = mkdtempSync(path.join(tmpdir(), 'peerline-inside-'))
  readonly #names: string[] = []
  readonly #children: ChildProcessWithoutNullStreams[] = []

  /** Makes namespaces, each with its loopback up. */
  async add(...names: string[]): Promise<void> {
    for (const name of names) {
      await run('ip', ['netns', 'add', this.#prefix + name])
      this.#names.push(name)
      await this.exec(name, 'ip link set lo up')
    }
  }

  /** A cable between two namespaces: `[namespace, interface, ...addresses]` at each end. */
  async cable(
    [a, aName, ...aAddresses]: [string, string, ...string[]],
    [b, bName, ...bAddresses]: [string, string, ...string[]],
  ): Promise<void> {
    const [netA, netB] = [this.#prefix + a, this.#prefix + b]
    const peer = ['type', 'veth', 'peer', 'name', bName, 'netns', netB]
    await run('ip', ['link', 'add', aName, 'netns', netA, ...peer])
    for (const [net, name, addresses] of [
      [a, aName, aAddresses],
      [b, bName, bAddresses],
    ] as const) {
      for (const address of addresses) {
        const noWait = address.includes(':') ? ' nodad' : ''
        await this.exec(net, `ip addr add ${address} dev ${name}${noWait}`)
      }
      await this.exec(net, `ip link set ${name} up`)
    }
    for (const [net, name] of [
      [a, aName],
      [b, bName],
    ] as const) {
      await this.carrier(net, name)
    }
  }

  /** Waits until an interface is up and sees the other end: Node leaves it out before, and the kernel takes its time. */
  async carrier(name: string, interfaceName: string): Promise<void> {
    const deadline = Date.now() + SAY_MS
    while (!/state UP/.test(await this.exec(name, `ip link show ${interfaceName}`))) {
      if (Date.now() > deadline) throw new Error(`${interfaceName} does not come up`)
    }
  }

  /** What a command inside prints. */
  async exec(name: string, command: string): Promise<string> {
    const { stdout } = await run('ip', ['netns', 'exec', this.#prefix + name, ...command.split(' ')])
    return stdout
  }

  /** Feeds a command inside. */
  feed(name: string, command: string, input: string): void {
    const fed = spawnSync('ip', ['netns', 'exec', this.#prefix + name, ...command.split(' ')], { input })
    if (fed.status !== 0) throw new Error(`${command}: ${fed.stderr}`)
  }

  /** Starts a program inside. */
  start(name: string, command: string, args: readonly string[]): ChildProcessWithoutNullStreams {
    const child = spawn('ip', ['netns', 'exec', this.#prefix + name, command, ...args])
    this.#children.push(child)
    return child
  }

  /** Where a test may put files. */
  file(name: string, text: string): string {
    const file = path.join(this.#directory, name)
    writeFileSync(file, text)
    return file
  }

  /**
   * Starts a module inside. `src/…` in its imports is ours; `say(value)` and `onLine(line => …)` are there.
   */
  module(name: string, source: string): Inside {
    const head = `import { createInterface } from 'node:readline'
      const say = (value) => console.log(JSON.stringify(value))
      const onLine = (take) => createInterface({ input: process.stdin }).on('line', take)
      `
    const compiled = source.replace(
      /'src\/([^']+)\.ts'/g,
      (_, file: string) => `'${compile(`${file}.ts`, this.#directory)}'`,
    )
    const file = this.file(`${uniqueName()}.mjs`, head + compiled)
    const child = this.start(name, process.execPath, [file])
    let errors = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text
    })
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    return {
      child,
      ended: new Promise((resolve) => child.once('close', () => resolve(errors))),
      tell: (line) => void child.stdin.write(`${line}\n`),
      next: async () => {
        let timer: NodeJS.Timeout | undefined
        const late = new Promise<never>((_, reject) => {
          timer = setTimeout(() => reject(new Error(`nothing was said inside for ${SAY_MS} ms; ${errors}`)), SAY_MS)
        })
        try {
          const { done, value } = await Promise.race([lines.next(), late])
          if (done === true) throw new Error(`the program inside has ended; ${errors}`)
          return JSON.parse(value)
        } finally {
          clearTimeout(timer)
        }
      },
    }
  }

  async close(): Promise<void> {
    await Promise.all(
      this.#children
        .filter(({ exitCode, signalCode }) => exitCode === null && signalCode === null)
        .map((child) => {
          const gone = new Promise((resolve) => child.once('close', resolve))
          child.kill('SIGKILL')
          return gone
        }),
    )
    for (const name of this.#names) await run('ip', ['netns', 'delete', this.#prefix + name]).catch(() => {})
    rmSync(this.#directory, { recursive: true, force: true })
  }
}

/** A name that no other test run has; interfaces and namespaces have at most 15 characters of it to show. */
function uniqueName(): string {
  return `pt${randomBytes(4).toString('hex')}`
}
