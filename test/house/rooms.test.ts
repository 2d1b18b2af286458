/**
 * The house stands: each room imports only from floors below it, and nothing goes in a circle.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'

const SRC = fileURLToPath(new URL('../../src', import.meta.url))

/** The rooms from the ground floor up. Each may import from those before it; CONTRIBUTING.md says what each holds. */
const FLOORS = [
  'errors.ts',
  'io-error.ts',
  'whole-file.ts',
  'events.ts',
  'pause.ts',
  'bucket.ts',
  'staggered.ts',
  'bytes',
  'identity',
  'handshake',
  'path',
  'session',
  'network',
  'ledger',
  'signaling',
  'discovery',
  'connect',
  'policy',
  'protocol',
  'tasks',
  'peer',
  'server',
  'index.ts',
  'cli',
]

/** What stands by itself, so that the rooms beside it stay unaware of it: the room, and what it may not know. */
const UNAWARE: readonly (readonly [string, readonly string[]])[] = [
  ['path', ['identity', 'handshake']],
  ['network', ['identity', 'handshake', 'session']],
  ['ledger', ['handshake', 'path', 'network']],
  ['discovery', ['handshake', 'path', 'session', 'signaling']],
  ['policy', ['path', 'session', 'signaling', 'connect']],
  ['protocol', ['connect', 'signaling', 'policy']],
  ['tasks', ['path', 'session', 'signaling', 'connect', 'policy', 'protocol']],
]

/** No test, nor of tests alone. */
const isSource = (name: string) => /\.ts$/.test(name) && !/\.(test|compliance)\.ts$/.test(name)

function sourceFiles(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const full = path.join(directory, entry.name)
    if (entry.isDirectory()) return sourceFiles(full)
    return isSource(entry.name) ? [full] : []
  })
}

const files = sourceFiles(SRC)
const imports = new Map(
  files.map((file) => {
    const text = readFileSync(file, 'utf8')
    const targets = [...text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)].map(([, target]) =>
      path.resolve(path.dirname(file), target!),
    )
    return [file, targets]
  }),
)
const roomOf = (file: string) => path.relative(SRC, file).split(path.sep)[0]!
const show = (file: string) => path.relative(SRC, file)

describe('the rooms of src/', () => {
  test('are known, and none is empty', () => {
    for (const entry of readdirSync(SRC)) {
      const isDirectory = statSync(path.join(SRC, entry)).isDirectory()
      if (isDirectory || isSource(entry)) expect(FLOORS).toContain(entry)
      if (isDirectory) expect(sourceFiles(path.join(SRC, entry))).not.toEqual([])
    }
  })

  test('import only from floors below', () => {
    const upwards = files.flatMap((file) =>
      imports
        .get(file)!
        .filter((target) => FLOORS.indexOf(roomOf(target)) > FLOORS.indexOf(roomOf(file)))
        .map((target) => `${show(file)} imports ${show(target)}`),
    )
    expect(upwards).toEqual([])
  })

  test('know nothing they need not', () => {
    const nosy = UNAWARE.flatMap(([room, unknown]) =>
      files
        .filter((file) => roomOf(file) === room)
        .flatMap((file) =>
          imports
            .get(file)!
            .filter((target) => unknown.includes(roomOf(target)))
            .map((target) => `${show(file)} imports ${show(target)}`),
        ),
    )
    expect(nosy).toEqual([])
  })

  test('every import leads to a file', () => {
    expect(files.flatMap((file) => imports.get(file)!.filter((target) => !files.includes(target)))).toEqual([])
  })

  test('have no circle of imports', () => {
    const state = new Map<string, 'open' | 'done'>()
    const circles: string[] = []
    const visit = (file: string, trail: readonly string[]): void => {
      if (state.get(file) === 'done') return
      if (state.get(file) === 'open') {
        circles.push([...trail.slice(trail.indexOf(file)), file].map(show).join(' -> '))
        return
      }
      state.set(file, 'open')
      for (const target of imports.get(file) ?? []) visit(target, [...trail, file])
      state.set(file, 'done')
    }
    for (const file of files) visit(file, [])
    expect(circles).toEqual([])
  })
})
