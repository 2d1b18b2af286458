/** Runs every example, as a reader would, and fails when one fails. */
import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'

const folder = new URL('./', import.meta.url)
const examples = readdirSync(folder).filter((name) => name.endsWith('.js') && name !== 'run.js')
let failed = 0
for (const name of examples) {
  const { status, signal } = spawnSync(process.execPath, [new URL(name, folder).pathname], {
    stdio: ['ignore', 'inherit', 'inherit'],
    timeout: 60_000,
  })
  if (status !== 0) failed++
  console.log(`${status === 0 ? 'ok' : 'FAILED'}  ${name}${signal === null ? '' : ` (${signal})`}`)
}
console.log(`${examples.length - failed} of ${examples.length} examples ran`)
process.exitCode = failed === 0 ? 0 : 1
