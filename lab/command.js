/** Runs ip, nft and the like, and says clearly what failed. */

import { spawn } from 'node:child_process'
import { LabError } from './errors.js'

const OUTPUT_LIMIT = 64 * 2 ** 20 // of one command; a capture that long is a mistake
const SYSTEM_PATH = '/usr/local/sbin:/usr/sbin:/sbin' // where ip and nft live, and which a plain PATH may lack

/** The environment of every command: whatever PATH holds, and where administrators' tools are. */
export const environment = () => ({ ...process.env, PATH: `${process.env.PATH ?? '/usr/bin:/bin'}:${SYSTEM_PATH}` })

/** The command line that runs something in a namespace. */
export const inNamespace = (namespace, command, args) => ['ip', ['netns', 'exec', namespace, command, ...args]]

/**
 * Runs to the end and gives stdout. Fails on any other exit code than 0, with what it wrote to stderr.
 *
 * @param {string} command
 * @param {string[]} args
 * @param {{ input?: string, timeoutMs?: number, cwd?: string, env?: Record<string, string | undefined> }} [options]
 * @returns {Promise<string>}
 */
export function run(command, args, { input = '', timeoutMs = 30_000, cwd, env = environment() } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], timeout: timeoutMs, cwd, env })
    const output = { stdout: '', stderr: '' }
    for (const name of ['stdout', 'stderr']) {
      child[name].setEncoding('utf8')
      child[name].on('data', (text) => {
        if (output[name].length < OUTPUT_LIMIT) output[name] += text
      })
    }
    child.stdin.on('error', () => {}) // it ended before it read everything: the exit code tells
    child.stdin.end(input)
    const fail = (why, cause) => {
      const said = output.stderr.trim().split('\n').slice(0, 5).join('; ')
      const line = [command, ...args].join(' ')
      reject(new LabError('ERR_LAB_COMMAND', `${line}: ${why}${said === '' ? '' : `: ${said}`}`, { cause }))
    }
    child.on('error', (error) => fail(error.message, error))
    child.on('close', (code, signal) => {
      if (code === 0) resolve(output.stdout)
      else fail(signal === null ? `exit code ${code}` : `ended by ${signal}`)
    })
  })
}

/** Calls `work` for every item, a few at a time. */
export async function forEachOf(items, atOnce, work) {
  const queue = [...items]
  const worker = async () => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await work(item)
  }
  const outcomes = await Promise.allSettled(Array.from({ length: Math.min(atOnce, queue.length) }, worker))
  const failed = outcomes.find(({ status }) => status === 'rejected')
  if (failed !== undefined) throw failed.reason
}
