/** Makes, configures and removes network namespaces, many at a time, and finds those a dead lab left behind. */

import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { environment, forEachOf, inNamespace, run } from './command.js'

const FOLDER = '/run/netns'
const NAME = /^plab-(\d+)-([0-9a-z]+)-\d+-/ // the owner's process id and when it began, then the lab's number
const AT_ONCE = 4 // shells that configure; more than the cores helps nobody
const DEATH_MS = 3_000

/** When a process began, which with its number makes it unmistakable; undefined when there is none. */
function beginningOf(pid) {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return Number(fields.slice(fields.lastIndexOf(')') + 2).split(' ')[19]).toString(36)
  } catch {
    return undefined
  }
}

/** What the names of a lab's namespaces begin with. */
export const prefixOf = (lab) => `plab-${process.pid}-${beginningOf(process.pid)}-${lab}-`

function listed() {
  try {
    return readdirSync(FOLDER)
  } catch {
    return []
  }
}

/** Namespaces of this lab. */
export const namespacesOf = (prefix) => listed().filter((name) => name.startsWith(prefix))

/** Namespaces of labs whose process is gone. */
export const staleNamespaces = () =>
  listed().filter((name) => {
    const [, pid, beginning] = NAME.exec(name) ?? []
    return pid !== undefined && beginningOf(pid) !== beginning
  })

/** Processes that live in these namespaces. */
function inhabitants(names) {
  const inodes = new Set()
  for (const name of names) {
    try {
      inodes.add(`net:[${statSync(`${FOLDER}/${name}`).ino}]`)
    } catch {} // gone meanwhile
  }
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false
    try {
      return inodes.has(readlinkSync(`/proc/${pid}/ns/net`))
    } catch {
      return false
    }
  })
}

function killAll(pids) {
  for (const pid of pids) {
    try {
      process.kill(Number(pid), 'SIGKILL')
    } catch {} // gone meanwhile
  }
}

const deletions = (names) => names.map((name) => `netns del ${name}\n`).join('')

/** Ends every process in them and removes them. */
export async function removeNamespaces(names) {
  const deadline = Date.now() + DEATH_MS
  for (let left = inhabitants(names); left.length > 0 && Date.now() < deadline; left = inhabitants(names)) {
    killAll(left)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  if (names.length > 0) await run('ip', ['-force', '-batch', '-'], { input: deletions(names) })
}

/** The same for the last moment of a process, when nothing can be awaited. */
export function removeNamespacesNow(names) {
  killAll(inhabitants(names))
  if (names.length > 0) spawnSync('ip', ['-force', '-batch', '-'], { input: deletions(names), env: environment() })
}

/** Runs lines of ip(8) outside of any namespace of the lab. */
export const ipBatch = (lines) => run('ip', ['-batch', '-'], { input: `${lines.join('\n')}\n` })

/**
 * What is to be done inside one namespace.
 *
 * @typedef {{ namespace: string, settings?: Record<string, string | number>, ip?: string[], rules?: string }} Setup
 */

const QUIET = `set -e
for dad in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 > $dad; done
for ra in /proc/sys/net/ipv6/conf/*/accept_ra; do echo 0 > $ra; done
for filter in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $filter; done
for keep in /proc/sys/net/ipv4/conf/*/promote_secondaries; do echo 1 > $keep; done
for redirect in /proc/sys/net/ipv4/conf/*/send_redirects; do echo 0 > $redirect; done
for bridge in /proc/sys/net/bridge/bridge-nf-call-*; do test ! -w $bridge || echo 0 > $bridge; done
`

/**
 * A shell script for it: addresses are usable at once, a second one outlives the first, and bridges do not pass through
 * the firewall.
 */
function script({ settings = {}, ip = [], rules }) {
  const parts = [QUIET]
  for (const [name, value] of Object.entries(settings)) parts.push(`echo ${value} > /proc/sys/net/${name}\n`)
  parts.push(`ip -batch - <<'END'\nlink set lo up\n${ip.join('\n')}\nEND\n`)
  if (rules !== undefined) parts.push(`nft -f - <<'END'\n${rules}END\n`)
  return parts.join('')
}

/** @param {Setup[]} setups */
export const configure = (setups) =>
  forEachOf(setups, AT_ONCE, async (setup) => {
    const [command, args] = inNamespace(setup.namespace, 'sh', ['-s'])
    await run(command, args, { input: script(setup) })
  })

/** Replaces or adds rules in one namespace. */
export async function loadRules(namespace, rules) {
  const [command, args] = inNamespace(namespace, 'nft', ['-f', '-'])
  await run(command, args, { input: rules })
}

/** Runs lines of ip(8) in one namespace. */
export const ipIn = (namespace, lines) =>
  run('ip', ['-n', namespace, '-batch', '-'], { input: `${lines.join('\n')}\n` })
