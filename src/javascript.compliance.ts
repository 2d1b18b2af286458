/**
 * Our sources as JavaScript, for tests that start processes: those cannot read TypeScript.
 */
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const SRC = fileURLToPath(new URL('.', import.meta.url))

const OPTIONS = {
  target: ts.ScriptTarget.ES2023,
  module: ts.ModuleKind.ESNext,
  verbatimModuleSyntax: true,
  rewriteRelativeImportExtensions: true,
}

/** Writes a file of `src/`, and all that it imports, below a directory, where programs find them and our packages; gives its path. */
export function compile(file: string, to: string): string {
  const modules = path.join(to, 'node_modules')
  rmSync(modules, { force: true })
  symlinkSync(path.join(SRC, '..', 'node_modules'), modules)
  writeFileSync(path.join(to, 'package.json'), '{ "type": "module" }')
  const files = new Set([file])
  // what is added meanwhile is visited as well
  for (const one of files) {
    const { outputText } = ts.transpileModule(readFileSync(path.join(SRC, one), 'utf8'), { compilerOptions: OPTIONS })
    const target = path.join(to, one.replace(/\.ts$/, '.js'))
    mkdirSync(path.dirname(target), { recursive: true })
    writeFileSync(target, outputText)
    for (const [, imported] of outputText.matchAll(/(?:from|import)\s*\(?\s*['"](\.[^'"]+)\.js['"]/g)) {
      files.add(`${path.join(path.dirname(one), imported!)}.ts`)
    }
  }
  return path.join(to, file.replace(/\.ts$/, '.js'))
}
