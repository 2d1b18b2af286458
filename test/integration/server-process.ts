/**
 * A server in a process of its own: it can be killed or stopped like one, and takes no turns with its peers.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'

const SERVER = fileURLToPath(new URL('../../dist/server/index.js', import.meta.url))

/** Says, a line each, where it is, and how many peers it has whenever that has changed. */
const SCRIPT = `
  const { Server } = await import(process.argv[1])
  const [listen, identityFile] = process.argv.slice(2)
  const server = await Server.create({ listen, identityFile, alternatePort: false })
  const say = (line) => console.log(JSON.stringify({ at: performance.timeOrigin + performance.now(), ...line }))
  say({ url: server.url })
  let peers = 0
  setInterval(() => {
    if (server.peers !== peers) say({ peers: (peers = server.peers) })
  }, 5)
`

export interface ServerLine {
  /** ms since the epoch. */
  readonly at: number
  readonly url?: string
  readonly peers?: number
}

export class ServerProcess {
  readonly child: ChildProcess
  readonly lines: ServerLine[] = []
  readonly #watchers = new Set<() => void>()

  /** Starts it; it is killed with the test. */
  constructor(listen: string, identityFile: string) {
    const args = ['--input-type=module', '--eval', SCRIPT, SERVER, listen, identityFile]
    this.child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
    createInterface({ input: this.child.stdout! }).on('line', (line) => {
      this.lines.push(JSON.parse(line) as ServerLine)
      for (const watch of this.#watchers) watch()
    })
    onTestFinished(() => this.kill())
  }

  /** Resolves with the first line for which `match` holds. */
  line(match: (line: ServerLine) => boolean): Promise<ServerLine> {
    return new Promise((resolve) => {
      const watch = () => {
        const found = this.lines.find(match)
        if (found === undefined) return
        this.#watchers.delete(watch)
        resolve(found)
      }
      this.#watchers.add(watch)
      watch()
    })
  }

  /** The URL, once it listens. */
  async url(): Promise<string> {
    return (await this.line(({ url }) => url !== undefined)).url!
  }

  /** Ends it without a word to anybody; resolves when it is gone. */
  async kill(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return
    const gone = new Promise((resolve) => this.child.once('exit', resolve))
    this.child.kill('SIGKILL')
    await gone
  }
}
