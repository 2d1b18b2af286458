/**
 * A port for a test that has to name one, or to come back to it: free for TCP and UDP now, and below those that the system gives
 * to whoever asks for any (32,768 and up on Linux), so that no other test has it when it is wanted.
 */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer } from 'node:net'

const FIRST = 20_000
const COUNT = 12_000

export async function freePort(host = '127.0.0.1'): Promise<number> {
  for (;;) {
    const port = FIRST + Math.floor(Math.random() * COUNT)
    const tcp = createServer()
    const udp = createSocket('udp4')
    try {
      tcp.listen(port, host)
      udp.bind(port, host)
      await Promise.all([once(tcp, 'listening'), once(udp, 'listening')])
      return port
    } catch {
      // In use: another one.
    } finally {
      await Promise.all([new Promise((resolve) => tcp.close(resolve)), closed(udp)])
    }
  }
}

function closed(udp: ReturnType<typeof createSocket>): Promise<void> {
  return new Promise((resolve) => {
    try {
      udp.close(resolve)
    } catch {
      resolve() // it never was open
    }
  })
}
