/** node:tls, TLS 1.3 only, a fresh Ed25519 certificate that the client verifies; every connection is a full handshake. */

import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import nodeTls from 'node:tls'
import { promisify } from 'node:util'
import { opened, streamPipe } from '../lib/pipe.js'

const HOST = '127.0.0.1'

/** A self-signed certificate for this run, by the openssl command: Node can make keys, but not certificates. */
async function prepare() {
  const folder = await mkdtemp(join(tmpdir(), 'peerline-bench-'))
  const [keyFile, certFile] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
  try {
    await promisify(execFile)('openssl', [
      ...['req', '-x509', '-newkey', 'ed25519', '-nodes', '-days', '2'],
      ...['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'],
      ...['-keyout', keyFile, '-out', certFile],
    ])
    return { key: await readFile(keyFile, 'utf8'), cert: await readFile(certFile, 'utf8') }
  } catch (error) {
    const why = error.code === 'ENOENT' ? 'is not installed' : `failed: ${String(error.stderr ?? error.message).trim()}`
    throw new Error(`a certificate needs the openssl command (1.1.1 or newer), which ${why}`)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

export const tls = {
  prepare,
  async listen(context, accept) {
    const options = { ...context.prepared, minVersion: 'TLSv1.3', noDelay: true }
    const server = nodeTls.createServer(options, (socket) => {
      socket.setNoDelay(true)
      accept(streamPipe(socket, { canCork: true }))
    })
    server.listen(0, HOST)
    await opened(server, 'listening')
    return { info: { port: server.address().port }, close: () => server.close() }
  },
  async dial(context) {
    const { cert } = context.prepared
    const secureContext = nodeTls.createSecureContext({ ca: cert, minVersion: 'TLSv1.3' })
    return {
      async connect() {
        const socket = nodeTls.connect({
          port: context.server.port,
          host: HOST,
          servername: 'localhost',
          secureContext,
        })
        socket.setNoDelay(true)
        await opened(socket, 'secureConnect')
        return streamPipe(socket, { canCork: true })
      },
    }
  },
}
