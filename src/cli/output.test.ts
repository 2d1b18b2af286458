import { execFileSync } from 'node:child_process'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { shellWord } from './output.ts'

test('a word that is shown to be copied is one word to a shell, whatever is in it', () => {
  expect(shellWord('ws://192.0.2.1:4400#id')).toBe("'ws://192.0.2.1:4400#id'")
  const words = fc.array(fc.string({ unit: fc.constantFrom("'", '"', '$', '`', '\\', ' ', ';', '\n', 'x', '#') }), {
    minLength: 50,
    maxLength: 50,
  })
  fc.assert(
    fc.property(words, (all) => {
      const line = all.map(shellWord).join(' ')
      expect(execFileSync('sh', ['-c', `printf '%s\\0' ${line}`]).toString()).toBe(
        all.map((one) => `${one}\0`).join(''),
      )
    }),
    { numRuns: 20 },
  )
})
