/** Commands on a local network: in network namespaces, for what they find is what the network holds. */
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, describe, expect, test } from 'vitest'
import { Namespaces, noNamespaces } from '../../src/network/namespaces.compliance.ts'
import { temporaryDirectory } from '../../src/temporary.compliance.ts'

const MAIN = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const missing = noNamespaces()
if (missing !== undefined) console.warn(`not tested on a real network: ${missing}`)

describe.skipIf(missing !== undefined)('who is on the local network', () => {
  let network: Namespaces
  afterEach(() => network.close())

  async function machines(): Promise<void> {
    network = new Namespaces()
    await network.add('a', 'b')
    await network.cable(['a', 'eth0', '10.88.0.1/24'], ['b', 'eth0', '10.88.0.2/24'])
  }

  /** What the command prints in machine b, and how it ends. */
  async function command(home: string, ...args: string[]): Promise<{ stdout: string; stderr: string; code: number }> {
    const env = [`HOME=${home}`, `PEERLINE_IDENTITY=${path.join(home, 'b.key')}`]
    const child = network.start('b', 'env', [...env, process.execPath, MAIN, ...args])
    let [stdout, stderr] = ['', '']
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    const code = await new Promise<number>((resolve) => child.once('close', resolve))
    return { stdout, stderr, code }
  }

  test('is listed, by name where it has one, and is not told who asks', async () => {
    await machines()
    const announcing = network.module(
      'a',
      `import { Identity } from 'src/identity/index.ts'
      import { LanDiscovery } from 'src/discovery/lan.ts'
      const identity = Identity.generate()
      const lan = await LanDiscovery.open({ identity, listening: () => ['[::]:4401'] })
      say(identity.peerId)
      onLine(async () => {
        say(lan.peers.length)
        await lan.close()
        process.stdin.destroy()
      })`,
    )
    const id = (await announcing.next()) as string
    const home = await temporaryDirectory()
    const lan = ['peers', '--lan']
    const listed = await command(home, ...lan, '--json', '--for', '2s')
    expect([listed.code, listed.stderr]).toEqual([0, ''])
    const [found, ...more] = listed.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(found).toEqual({
      event: 'found',
      peer: id,
      name: null,
      addresses: expect.any(Array),
      by: expect.any(String),
    })
    expect(found.addresses).toContain('10.88.0.1:4401')
    expect(more).toEqual([])
    expect((await command(home, 'peers', 'add', id, '--name', 'alice')).code).toBe(0)
    const shown = await command(home, ...lan, '--for', '2s')
    expect(shown.stdout).toMatch(new RegExp(`^${id}  alice  (mdns|beacon) `))
    expect(shown.stdout).toContain(' 10.88.0.1:4401')
    announcing.tell('close')
    expect(await announcing.next()).toBe(0)
    expect(await announcing.ended).toBe('')
  })

  test('is found by its id alone, by who asks nobody who else is there', async () => {
    await machines()
    const heard = network.module(
      'a',
      `import { createSocket } from 'node:dgram'
      const open = []
      let count = 0
      for (const [port, group] of [[5353, '224.0.0.251'], [61457, '239.255.112.108']]) {
        const socket = createSocket({ type: 'udp4', reuseAddr: true })
        socket.on('message', (_, { address }) => { if (address === '10.88.0.2') count++ })
        await new Promise((resolve) => socket.bind(port, resolve))
        socket.addMembership(group, '10.88.0.1')
        open.push(socket)
      }
      say('open')
      onLine((line) => {
        say(count)
        if (line !== 'close') return
        for (const socket of open) socket.close()
        process.stdin.destroy()
      })`,
    )
    await heard.next()
    const home = await temporaryDirectory()
    const env = [`HOME=${home}`, `PEERLINE_IDENTITY=${path.join(home, 'a.key')}`]
    const up = network.start('a', 'env', [...env, process.execPath, MAIN, 'up', '--json', '--allow', 'all'])
    const ready = await new Promise<Buffer>((resolve) => up.stdout.once('data', resolve))
    const { peerId } = JSON.parse(String(ready).split('\n')[0]!)
    const pinged = await command(home, 'ping', peerId, '--count', '1')
    expect(pinged, pinged.stderr).toMatchObject({ code: 0 })
    heard.tell('count')
    expect(await heard.next()).toBe(0)
    await command(home, 'peers', '--lan', '--for', '1s')
    heard.tell('close')
    expect(await heard.next()).toBeGreaterThan(0)
    expect(await heard.ended).toBe('')
    up.kill('SIGTERM')
  })

  test('where nobody is, says so', async () => {
    await machines()
    const home = await temporaryDirectory()
    const { stdout, stderr, code } = await command(home, 'peers', '--lan', '--for', '1s')
    expect([stdout, stderr, code]).toEqual(['', 'nobody announces itself on the local network\n', 0])
  })
})
