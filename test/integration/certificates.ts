/**
 * Certificates for tests, made by the `openssl` command, and a child process that trusts them.
 *
 * Node reads NODE_EXTRA_CA_CERTS when it starts, so that trust needs a process of its own. The child runs the sources
 * as they are: a loader takes the types out.
 */
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'

const run = promisify(execFile)

export interface Certificate {
  readonly cert: string
  readonly key: string
}

export class CertificateRoom {
  readonly directory: string

  private constructor(directory: string) {
    this.directory = directory
  }

  static async open(): Promise<CertificateRoom> {
    return new CertificateRoom(await mkdtemp(path.join(tmpdir(), 'peerline-tls-')))
  }

  /** A self-signed certificate for an IP address; -1 days: it has expired. */
  async make(name: string, ip: string, days: number): Promise<Certificate> {
    const file = (ending: string) => path.join(this.directory, `${name}.${ending}`)
    await writeFile(file('ext'), `subjectAltName=IP:${ip}\n`)
    const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
    await run('openssl', ['req', '-new', ...curve, '-keyout', file('key'), '-out', file('csr'), '-subj', `/CN=${name}`])
    const sign = ['-signkey', file('key'), '-days', String(days), '-extfile', file('ext'), '-out', file('crt')]
    await run('openssl', ['x509', '-req', '-in', file('csr'), ...sign])
    return { cert: await readFile(file('crt'), 'utf8'), key: await readFile(file('key'), 'utf8') }
  }

  /** Runs `code`, a module that finds the sources at `process.env.SRC`, and gives what it printed as JSON. */
  async runTrusting(certificates: readonly Certificate[], code: string, ...args: string[]): Promise<unknown> {
    const file = (name: string) => path.join(this.directory, name)
    const typescript = pathToFileURL(createRequire(import.meta.url).resolve('typescript')).href
    await writeFile(file('ca.pem'), certificates.map(({ cert }) => cert).join('\n'))
    await writeFile(file('main.mjs'), code)
    await writeFile(
      file('loader.mjs'),
      `import { readFile } from 'node:fs/promises'
       import ts from '${typescript}'
       const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 }
       export async function load(url, context, next) {
         if (!url.endsWith('.ts')) return next(url, context)
         const source = ts.transpileModule(await readFile(new URL(url), 'utf8'), { compilerOptions }).outputText
         return { format: 'module', source, shortCircuit: true }
       }`,
    )
    await writeFile(
      file('register.mjs'),
      `import { register } from 'node:module'
       register('./loader.mjs', import.meta.url)`,
    )
    const env = {
      ...process.env,
      NODE_OPTIONS: '',
      NODE_EXTRA_CA_CERTS: file('ca.pem'),
      SRC: new URL('../../src/', import.meta.url).href,
    }
    const node = ['--import', pathToFileURL(file('register.mjs')).href, file('main.mjs'), ...args]
    const { stdout } = await run(process.execPath, node, { env, timeout: 15_000 })
    return JSON.parse(stdout)
  }

  async close(): Promise<void> {
    await rm(this.directory, { recursive: true, force: true })
  }
}
