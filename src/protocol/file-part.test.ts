import { chmod, link, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises'
import path from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { temporaryDirectory } from '../temporary.compliance.ts'
import { PartFile, partFileName, writeAll } from './file-part.ts'

const IDENTITY = { from: 'someone', name: 'a.txt', size: 5, modified: 1 }

let directory: string
beforeEach(async () => {
  directory = await temporaryDirectory()
})
afterEach(() => chmod(directory, 0o700))

function openPart(): Promise<PartFile> {
  return PartFile.open(directory, IDENTITY, 'receiving a.txt')
}

async function whole(): Promise<PartFile> {
  const part = await openPart()
  await part.startAt(0)
  await part.write(Buffer.from('hel'))
  await part.write(Buffer.from('lo'))
  await part.flush(true)
  return part
}

test('the part file is hidden and for its owner alone', async () => {
  const part = await openPart()
  const [name] = await readdir(directory)
  expect(name).toBe(partFileName(IDENTITY))
  expect(name).toMatch(/^\.peerline-[0-9a-f]{32}\.part$/)
  expect((await stat(path.join(directory, name!))).mode & 0o777).toBe(0o600)
  await part.close()
})

test('sender, name, size and time each make another part file', () => {
  const names = [{}, { from: 'else' }, { name: 'b.txt' }, { size: 6 }, { modified: 2 }].map((other) =>
    partFileName({ ...IDENTITY, ...other }),
  )
  expect(new Set(names).size).toBe(names.length)
})

test('what has come stays; nothing stays of nothing', async () => {
  await (await openPart()).close()
  expect(await readdir(directory)).toEqual([])
  const part = await openPart()
  await part.write(Buffer.from('hel'))
  await part.close()
  const again = await openPart()
  expect(again.size).toBe(3)
  await again.startAt(2)
  await again.write(Buffer.from('p!'))
  await again.close()
  expect(await readFile(path.join(directory, partFileName(IDENTITY)), 'utf8')).toBe('hep!')
})

test('pieces by the thousand are written in order', async () => {
  const part = await openPart()
  for (let i = 0; i < 5_000; i++) {
    const full = part.write(Buffer.from(`${i} `.repeat(i % 100 === 0 ? 20_000 : 1)))
    if (full !== undefined) await full
  }
  await part.flush(false)
  const file = await part.publish('a.txt')
  await part.close()
  let expected = ''
  for (let i = 0; i < 5_000; i++) expected += `${i} `.repeat(i % 100 === 0 ? 20_000 : 1)
  expect((await readFile(file, 'utf8')) === expected).toBe(true)
})

test('property: a system that takes fewer bytes than it is given gets the rest in the right place', async () => {
  const pieces = fc.array(fc.uint8Array({ minLength: 1, maxLength: 30 }), { maxLength: 20 })
  await fc.assert(
    fc.asyncProperty(pieces, fc.infiniteStream(fc.integer({ min: 1, max: 60 })), async (given, takes) => {
      const disk = new Map<number, number>()
      const writev = async (buffers: readonly NodeJS.ArrayBufferView[], position?: number | null) => {
        const offered = Buffer.concat(buffers as Uint8Array[])
        const bytesWritten = Math.min(offered.length, takes.next().value)
        for (let i = 0; i < bytesWritten; i++) disk.set(position! + i, offered[i]!)
        return { bytesWritten, buffers: [...buffers] as never }
      }
      await writeAll({ writev }, given, 7)
      const content = Buffer.concat(given)
      expect([...disk.keys()].toSorted((a, b) => a - b)).toEqual([...content.keys()].map((at) => at + 7))
      expect(Buffer.from([...content.keys()].map((at) => disk.get(at + 7)!))).toEqual(content)
    }),
    { numRuns: 100 },
  )
})

test('a second user of the same part file is refused, until the first is done', async () => {
  const part = await openPart()
  await expect(openPart()).rejects.toMatchObject({ code: 'ERR_PEERLINE_BUSY' })
  await part.close()
  await (await openPart()).close()
})

test.each([
  ['with hard links', undefined],
  ['without hard links', () => Promise.reject(Object.assign(new Error('no'), { code: 'EPERM' }))],
])('a file that is there is not replaced, %s', async (_how, linkFile) => {
  for (const expected of ['a.txt', 'a (2).txt', 'a (3).txt']) {
    const part = await whole()
    expect(path.basename(await part.publish('a.txt', linkFile))).toBe(expected)
    await part.close()
  }
  await writeFile(path.join(directory, 'b.txt'), 'mine')
  await symlink('/nowhere', path.join(directory, 'b (2).txt'))
  const part = await whole()
  expect(path.basename(await part.publish('b.txt', linkFile))).toBe('b (3).txt')
  await part.close()
  expect(await readFile(path.join(directory, 'b.txt'), 'utf8')).toBe('mine')
  expect(await readFile(path.join(directory, 'b (3).txt'), 'utf8')).toBe('hello')
  expect((await readdir(directory)).filter((name) => name.startsWith('.'))).toEqual([])
})

test('a link in place of the part file is not followed', async () => {
  const victim = path.join(directory, 'victim')
  await writeFile(victim, 'precious')
  await symlink(victim, path.join(directory, partFileName(IDENTITY)))
  await expect(openPart()).rejects.toMatchObject({ code: 'ERR_PEERLINE_FILE' })
  expect(await readFile(victim, 'utf8')).toBe('precious')
})

test('a finished file that kept its part name when the program died is left alone', async () => {
  const done = path.join(directory, 'a.txt')
  await writeFile(done, 'hello')
  await link(done, path.join(directory, partFileName(IDENTITY)))
  const part = await whole()
  expect(part.size).toBe(0)
  expect(path.basename(await part.publish('a.txt'))).toBe('a (2).txt')
  await part.close()
  expect(await readFile(done, 'utf8')).toBe('hello')
})

test('a directory in place of the part file, or no directory at all, is a typed error without a path', async () => {
  const missing = PartFile.open(path.join(directory, 'missing'), IDENTITY, 'receiving a.txt')
  await expect(missing).rejects.toMatchObject({
    code: 'ERR_PEERLINE_FILE',
    message: 'receiving a.txt failed: ENOENT',
  })
})

test.skipIf(process.getuid?.() === 0)('a directory that cannot be written to is a typed error', async () => {
  await chmod(directory, 0o500)
  await expect(openPart()).rejects.toMatchObject({ code: 'ERR_PEERLINE_FILE' })
})
