import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

/** Much garbage, and little room for it: the collector comes by some hundred times. */
const MAKE_KEYS = `
  import { generateKeyPair } from './dist/identity/curve.js'
  for (let made = 0; made < 20_000; made++) generateKeyPair()
  console.log('made')
`

it('key pairs can be made without end: no visit of the garbage collector stops the process', async () => {
  const args = ['--max-semi-space-size=1', '--input-type=module', '--eval', MAKE_KEYS]
  const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 15_000 })
  expect(stdout).toBe('made\n')
})
