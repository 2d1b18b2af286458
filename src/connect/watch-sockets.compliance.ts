/**
 * A look at what this process dials, for tests that count sockets, cut them, or must find none left.
 */
import diagnostics from 'node:diagnostics_channel'
import type net from 'node:net'
import { onTestFinished } from 'vitest'

/** Every TCP connection that this process dials from now on, until the test ends. */
export function watchSockets(): net.Socket[] {
  const sockets: net.Socket[] = []
  const onSocket = (message: unknown) => {
    sockets.push((message as { socket: net.Socket }).socket)
  }
  diagnostics.subscribe('net.client.socket', onSocket)
  onTestFinished(() => {
    diagnostics.unsubscribe('net.client.socket', onSocket)
  })
  return sockets
}
