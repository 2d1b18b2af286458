import path from 'node:path'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { MAX_NAME_BYTES, numberedName, safeFileName } from './file-name.ts'

test.each([
  ['report.pdf', 'report.pdf'],
  ['/etc/passwd', 'passwd'],
  ['..\\..\\windows\\system32\\evil.dll', 'evil.dll'],
  ['C:\\temp\\a.txt', 'a.txt'],
  ['C:a.txt', 'C_a.txt'],
  ['a.txt:hidden', 'a.txt_hidden'],
  ['', 'file'],
  ['.', 'file'],
  ['..', 'file'],
  ['...', 'file'],
  ['dir/', 'file'],
  ['a/..', 'file'],
  ['.profile', 'profile'],
  [' . profile', 'profile'],
  ['name. . ', 'name'],
  ['a\u0000b\u001b[31m\nc', 'ab[31mc'],
  ['invoice\u202efdp.exe', 'invoicefdp.exe'],
  ['a?b*c<d>e|f"g', 'a_b_c_d_e_f_g'],
  ['CON', '_CON'],
  ['nul.txt', '_nul.txt'],
  ['Aux .tar.gz', '_Aux .tar.gz'],
  ['COM1', '_COM1'],
  ['com¹.log', '_com¹.log'],
  ['console.log', 'console.log'],
  ['COM10', 'COM10'],
  ['über 文件 📎.txt', 'über 文件 📎.txt'],
  ['half \ud800.txt', 'half \ufffd.txt'],
])('%j becomes %j', (name, safe) => {
  expect(safeFileName(name)).toBe(safe)
})

test('a long name is cut between characters and keeps its extension', () => {
  const name = safeFileName(`${'📎'.repeat(100)}.tar`)
  expect(name).toBe(`${'📎'.repeat(49)}.tar`)
  expect(Buffer.byteLength(safeFileName(`a.${'x'.repeat(300)}`))).toBe(MAX_NAME_BYTES)
  expect(safeFileName(`${'a'.repeat(195)}  ..  .txt`)).toBe(`${'a'.repeat(195)}.txt`)
})

const hostile = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 300 }),
  fc
    .array(
      fc.constantFrom('..', '.', '/', '\\', '\0', ':', ' ', 'CON', 'nul', 'a', '~', '📎', '\u202e', '.part', '%2f'),
      {
        maxLength: 120,
      },
    )
    .map((parts) => parts.join('')),
)

test('property: no name leaves the directory, hides, or is one that a system keeps for itself', () => {
  fc.assert(
    fc.property(hostile, fc.nat(1_000), (given, number) => {
      const name = numberedName(safeFileName(given), number + 1)
      for (const system of [path.posix, path.win32]) {
        const target = system.join('/base/dir', name)
        expect(system.dirname(target)).toBe(system.normalize('/base/dir'))
        expect(system.basename(target)).toBe(name)
      }
      expect(name).not.toMatch(/^[.\s]|[.\s]$|[\p{Cc}<>:"|?*/\\]/u)
      expect(name).not.toMatch(/^(con|prn|aux|nul|com\d|lpt\d)\s*(\.|$)/i)
      expect(Buffer.byteLength(name)).toBeGreaterThan(0)
      expect(Buffer.byteLength(name)).toBeLessThanOrEqual(255)
    }),
    { numRuns: 1_000 },
  )
})

test('property: a safe name stays as it is', () => {
  fc.assert(
    fc.property(hostile, (given) => {
      const name = safeFileName(given)
      expect(safeFileName(name)).toBe(name)
    }),
    { numRuns: 1_000 },
  )
})

test('numbers go before the extension', () => {
  expect(numberedName('a.txt', 1)).toBe('a.txt')
  expect(numberedName('a.txt', 2)).toBe('a (2).txt')
  expect(numberedName('a.tar.gz', 12)).toBe('a.tar (12).gz')
  expect(numberedName('Makefile', 3)).toBe('Makefile (3)')
})
