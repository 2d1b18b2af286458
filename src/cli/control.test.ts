import { once } from 'node:events'
import { lstat, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import net from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import fc from 'fast-check'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { type ErrorCode, PeerlineError } from '../errors.ts'
import { sendOrder } from './control-client.ts'
import { type Json, MAX_LINE_CHARS } from './control-lines.ts'
import { type Answerer, ControlServer } from './control-server.ts'
import { boundAs, placesOf, substituteOf } from './state-places.ts'

const never = new AbortController().signal

async function directory(): Promise<string> {
  const made = await mkdtemp(path.join(tmpdir(), 'peerline-control-'))
  onTestFinished(() => rm(made, { recursive: true, force: true }))
  return made
}

async function listen(socket: string, answer?: Answerer): Promise<ControlServer> {
  const server = await ControlServer.listen(socket)
  onTestFinished(() => server!.close())
  if (answer !== undefined) server!.serve(answer)
  return server!
}

const withCode = (code: ErrorCode) => expect.objectContaining({ code })

/** Counts to what the order says, and answers with it. */
async function* count({ to }: Json): AsyncGenerator<Json, Json, undefined> {
  for (let n = 1; n <= Number(to); n++) yield { n }
  return { counted: to }
}

describe('the control socket', () => {
  test('carries an order, the items that come of it, and the answer', async () => {
    const socket = path.join(await directory(), 'id.sock')
    await listen(socket, count)
    const items: Json[] = []
    const done = await sendOrder(socket, { to: 3 }, { signal: never, onItem: (item) => items.push(item) })
    expect([items, done]).toEqual([[{ n: 1 }, { n: 2 }, { n: 3 }], { counted: 3 }])
  })

  test('carries more than fits at once, to a reader that takes its time', async () => {
    const socket = path.join(await directory(), 'id.sock')
    await listen(socket, async function* () {
      for (let n = 0; n < 1_000; n++) yield { n, text: 'x'.repeat(10_000) }
      return {}
    })
    let items = 0
    await sendOrder(socket, {}, { signal: never, onItem: () => items++ })
    expect(items).toBe(1_000)
  })

  test('makes nothing for who does not read', async () => {
    const socket = path.join(await directory(), 'id.sock')
    let made = 0
    await listen(socket, async function* () {
      for (; made < 10_000; made++) yield { text: 'x'.repeat(10_000) }
      return {}
    })
    const client = net.connect(socket)
    onTestFinished(() => void client.destroy())
    client.write('{}\n')
    let before = -1
    await expect
      .poll(() => {
        const still = made > 0 && made === before
        before = made
        return still
      })
      .toBe(true)
    expect(made).toBeLessThan(1_000)
  })

  test('is for its owner alone, and leaves nothing behind', async () => {
    const home = await directory()
    const socket = path.join(home, 'new/id.sock')
    const server = await ControlServer.listen(socket)
    expect((await lstat(socket)).mode & 0o777).toBe(0o600)
    expect((await lstat(path.dirname(socket))).mode & 0o777).toBe(0o700)
    await server!.close()
    expect(await readdir(path.dirname(socket))).toEqual([])
    expect(await sendOrder(socket, {}, { signal: never })).toBeUndefined()
    expect(await sendOrder(path.join(home, 'none/id.sock'), {}, { signal: never })).toBeUndefined()
  })

  test('of another user is not believed', async () => {
    const socket = path.join(await directory(), 'id.sock')
    await listen(socket, count)
    const owner = (await lstat(socket)).uid
    const user = vi.spyOn(process, 'getuid').mockReturnValue(owner + 1)
    onTestFinished(() => user.mockRestore())
    const foreign = { code: 'ERR_PEERLINE_FILE', message: expect.stringMatching(/belongs to another user/) }
    await expect(sendOrder(socket, { to: 0 }, { signal: never })).rejects.toMatchObject(foreign)
    await expect(ControlServer.listen(socket)).rejects.toMatchObject(foreign)
    user.mockReturnValue(owner)
    expect(await sendOrder(socket, { to: 0 }, { signal: never })).toEqual({ counted: 0 })
  })

  test('has one who listens', async () => {
    const socket = path.join(await directory(), 'id.sock')
    const first = await listen(socket)
    expect(await ControlServer.listen(socket)).toBeUndefined()
    await first.close()
    await listen(socket)
  })

  test('says that it is busy until it serves, and when it is about to end', async () => {
    const socket = path.join(await directory(), 'id.sock')
    const server = await listen(socket)
    const send = () => sendOrder(socket, { to: 0 }, { signal: never })
    await expect(send()).rejects.toEqual(withCode('ERR_PEERLINE_BUSY'))
    server.serve(count)
    expect(await send()).toEqual({ counted: 0 })
    server.pause()
    await expect(send()).rejects.toEqual(withCode('ERR_PEERLINE_BUSY'))
  })

  test('tells what failed, and why', async () => {
    const socket = path.join(await directory(), 'id.sock')
    let failure: Error = new PeerlineError('ERR_PEERLINE_LIMIT', 'too many', { recover: 'Remove some.' })
    const server = await listen(socket, () => {
      throw failure
    })
    const send = () => sendOrder(socket, {}, { signal: never })
    await expect(send()).rejects.toMatchObject({
      code: 'ERR_PEERLINE_LIMIT',
      message: 'too many',
      recover: 'Remove some.',
    })
    failure = new Error('oh')
    await expect(send()).rejects.toMatchObject({ code: 'ERR_PEERLINE_REMOTE', message: 'oh' })
    // biome-ignore lint/correctness/useYield: it fails before
    server.serve(async function* () {
      throw failure
    })
    await expect(send()).rejects.toMatchObject({ code: 'ERR_PEERLINE_REMOTE', message: 'oh' })
  })

  test('ends what a client no longer listens to', async () => {
    const socket = path.join(await directory(), 'id.sock')
    let end = () => {}
    const ended = new Promise<void>((resolve) => {
      end = resolve
    })
    await listen(socket, async function* (_, { signal }) {
      signal.addEventListener('abort', end)
      yield {}
      await new Promise(() => {})
      return {}
    })
    const stop = new AbortController()
    const sent = sendOrder(socket, {}, { signal: stop.signal, endless: true, onItem: () => stop.abort() })
    await expect(sent).rejects.toEqual(withCode('ERR_PEERLINE_ABORTED'))
    await ended
  })

  test('that does not answer is given up; one that has nothing to tell is not', async () => {
    const home = await directory()
    const hung = net.createServer().listen(path.join(home, 'hung.sock'))
    await once(hung, 'listening')
    onTestFinished(() => void hung.close())
    const silent = sendOrder(path.join(home, 'hung.sock'), {}, { signal: never, endless: true, silentMs: 50 })
    await expect(silent).rejects.toEqual(withCode('ERR_PEERLINE_TIMEOUT'))
    const quiet = path.join(home, 'quiet.sock')
    let tell = () => {}
    const told = new Promise<void>((resolve) => {
      tell = resolve
    })
    // biome-ignore lint/correctness/useYield: it has nothing to tell
    await listen(quiet, async function* () {
      await told
      return { told: true }
    })
    const following = sendOrder(quiet, {}, { signal: never, endless: true, silentMs: 50 })
    // Another order is given up meanwhile: more than that time has gone by.
    const other = sendOrder(quiet, {}, { signal: never, silentMs: 100 })
    await expect(other).rejects.toEqual(withCode('ERR_PEERLINE_TIMEOUT'))
    tell()
    expect(await following).toEqual({ told: true })
  })

  test('tells its clients when it ends', async () => {
    const socket = path.join(await directory(), 'id.sock')
    const server = await listen(socket, async function* () {
      yield {}
      await new Promise(() => {})
      return {}
    })
    const sent = sendOrder(socket, {}, { signal: never, endless: true, onItem: () => void server.close() })
    await expect(sent).rejects.toEqual(withCode('ERR_PEERLINE_CLOSED'))
  })

  test('that ends before it has taken an order says that it may be given again', async () => {
    const socket = path.join(await directory(), 'id.sock')
    for (const [said, code] of [
      ['', 'ERR_PEERLINE_BUSY'],
      ['{"taken":true}\n', 'ERR_PEERLINE_CLOSED'],
    ] as const) {
      const server = net.createServer((client) => client.once('data', () => client.end(said))).listen(socket)
      await once(server, 'listening')
      await expect(sendOrder(socket, { to: 1 }, { signal: never })).rejects.toEqual(withCode(code))
      await new Promise((resolve) => server.close(resolve))
    }
  })

  test('takes 32 clients at once', async () => {
    const socket = path.join(await directory(), 'id.sock')
    await listen(socket, count)
    const idle = Array.from({ length: 32 }, () => net.connect(socket))
    onTestFinished(() => {
      for (const one of idle) one.destroy()
    })
    await Promise.all(idle.map((one) => once(one, 'connect')))
    await expect(sendOrder(socket, { to: 1 }, { signal: never })).rejects.toEqual(withCode('ERR_PEERLINE_BUSY'))
    idle[0]!.destroy()
    await once(idle[0]!, 'close')
    for (;;) {
      const done = await sendOrder(socket, { to: 1 }, { signal: never }).catch(() => undefined)
      if (done !== undefined) break
    }
  })

  test('answers whatever comes with one line of failure, or as it was told', async () => {
    const socket = path.join(await directory(), 'id.sock')
    await listen(socket, count)
    const answerTo = async (bytes: Uint8Array | string): Promise<string> => {
      const client = net.connect(socket).setEncoding('utf8')
      client.on('error', () => {})
      client.end(bytes)
      let answer = ''
      client.on('data', (chunk) => {
        answer += chunk
      })
      await once(client, 'close')
      return answer
    }
    expect(await answerTo(`${'x'.repeat(MAX_LINE_CHARS + 1)}`)).toMatch(/"code":"ERR_PEERLINE_PROTOCOL".*longer than/)
    expect(await answerTo('[]\n')).toMatch(/no object/)
    expect(await answerTo('{"to":0}')).toBe('')
    await fc.assert(
      fc.asyncProperty(fc.oneof(fc.uint8Array(), fc.json()), async (what) => {
        const answer = await answerTo(Buffer.concat([Buffer.from(what), Buffer.from('\n')]))
        expect(answer).toMatch(/^(\{"(error|taken|item|done)":.*\}\n)*$/)
      }),
      { numRuns: 200 },
    )
  })
})

describe('what a process that died has left behind', () => {
  /** A socket that nobody listens at. */
  async function stale(socket: string): Promise<void> {
    const server = net.createServer().listen(socket)
    await once(server, 'listening')
    // Linked elsewhere, it is not removed when the server closes.
    const { link, rename } = await import('node:fs/promises')
    await link(socket, `${socket}.kept`)
    await new Promise((resolve) => server.close(resolve))
    await rename(`${socket}.kept`, socket)
  }

  test('is taken over, by one of many', async () => {
    const socket = path.join(await directory(), 'id.sock')
    await stale(socket)
    const servers = await Promise.all(Array.from({ length: 8 }, () => ControlServer.listen(socket)))
    const held = servers.filter((server) => server !== undefined)
    onTestFinished(async () => {
      for (const server of held) await server.close()
    })
    expect(held.length).toBe(1)
    held[0]!.serve(count)
    expect(await sendOrder(socket, { to: 0 }, { signal: never })).toEqual({ counted: 0 })
  })

  test('is not taken over when it is no socket', async () => {
    const socket = path.join(await directory(), 'id.sock')
    await writeFile(socket, 'precious')
    await expect(ControlServer.listen(socket)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_FILE',
      message: expect.stringMatching(/is no socket/),
    })
    expect((await lstat(socket)).isFile()).toBe(true)
  })
})

describe('a path that is too long for a socket', () => {
  test('leads to one elsewhere, in a directory for its owner alone', async () => {
    const long = path.join(await directory(), 'x'.repeat(60), 'y'.repeat(60), 'id.sock')
    onTestFinished(() => rm(path.dirname(substituteOf(long)), { recursive: true, force: true }))
    await listen(long, count)
    const place = await boundAs(long)
    expect(place).toBe(substituteOf(long))
    expect((await lstat(path.dirname(place))).mode & 0o777).toBe(0o700)
    expect(await sendOrder(long, { to: 0 }, { signal: never })).toEqual({ counted: 0 })
    expect(await ControlServer.listen(long)).toBeUndefined()
  })

  test('leads nowhere when that directory is open to others', async () => {
    const long = path.join(await directory(), 'x'.repeat(60), 'y'.repeat(60), 'id.sock')
    const open = path.dirname(substituteOf(long))
    await mkdir(open, { mode: 0o755 })
    onTestFinished(() => rm(open, { recursive: true }))
    await expect(ControlServer.listen(long)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_FILE',
      message: expect.stringMatching(/open to other users/),
    })
  })
})

test('an identity has one place, by whatever name its file is called', async () => {
  const home = await directory()
  await mkdir(path.join(home, 'real'))
  await symlink(path.join(home, 'real'), path.join(home, 'linked'))
  const before = await placesOf(path.join(home, 'linked/id'))
  expect(before.state).toBe(path.join(home, 'real/id.state'))
  await writeFile(path.join(home, 'real/id'), '')
  await symlink(path.join(home, 'real/id'), path.join(home, 'alias'))
  expect([await placesOf(path.join(home, 'linked/id')), await placesOf(path.join(home, 'alias'))]).toEqual([
    before,
    before,
  ])
  await expect(placesOf('')).rejects.toEqual(withCode('ERR_PEERLINE_INVALID'))
})
