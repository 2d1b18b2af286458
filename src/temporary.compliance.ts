/**
 * Places for the files of a test. They are removed when it has finished, after all that was to be closed later than they were made.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'

export async function temporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'peerline-'))
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
  return directory
}

/** The path of a file that is not there yet, in a directory of its own. */
export async function temporaryFile(name: string): Promise<string> {
  return join(await temporaryDirectory(), name)
}
