/**
 * What this process has open, seen from outside the library; and the means to take it away: connections end without a
 * goodbye, addresses go, the machine seems to be on another network.
 *
 * Both ends of each connection are in this process, so it is enough to know the ends that dialled.
 */
import diagnostics from 'node:diagnostics_channel'
import { syncBuiltinESMExports } from 'node:module'
import os from 'node:os'

/** An address that nobody dials because another told it (RFC 5737 section 3). */
const FOREIGN = { netmask: '255.255.255.0', family: 'IPv4', mac: '00:00:5e:00:53:01', internal: false }

export class Ground {
  #sockets = new Set()
  /** By port. */
  #servers = new Map()
  #timers = new Set()
  #interfaces = os.networkInterfaces
  #setTimeout = globalThis.setTimeout
  #setInterval = globalThis.setInterval
  #network = 0

  #onSocket = ({ socket }) => {
    this.#sockets.add(socket)
    socket.once('close', () => this.#sockets.delete(socket))
  }

  #onListening = ({ server }) => {
    const { port } = server.address()
    this.#servers.set(port, server)
    server.once('close', () => this.#servers.get(port) === server && this.#servers.delete(port))
  }

  constructor() {
    diagnostics.subscribe('net.client.socket', this.#onSocket)
    diagnostics.subscribe('tracing:net.server.listen:asyncEnd', this.#onListening)
    globalThis.setTimeout = this.#counting(this.#setTimeout)
    globalThis.setInterval = this.#counting(this.#setInterval)
    os.networkInterfaces = () => {
      const foreign = this.#network === 0 ? {} : { soak0: [{ ...FOREIGN, address: `192.0.2.${this.#network}` }] }
      return { ...this.#interfaces(), ...foreign }
    }
    syncBuiltinESMExports()
  }

  /** Leaves the process as it was. */
  leave() {
    diagnostics.unsubscribe('net.client.socket', this.#onSocket)
    diagnostics.unsubscribe('tracing:net.server.listen:asyncEnd', this.#onListening)
    globalThis.setTimeout = this.#setTimeout
    globalThis.setInterval = this.#setInterval
    os.networkInterfaces = this.#interfaces
    syncBuiltinESMExports()
  }

  #counting(set) {
    const counting = (...args) => {
      const timer = set(...args)
      this.#timers.add(timer)
      return timer
    }
    return Object.assign(counting, set)
  }

  /** Timers that have yet to fire, those among them that would not keep the process alive. */
  get timers() {
    // Nothing public tells; a Node that had no such property would make them grow, and that be seen.
    for (const timer of this.#timers) if (timer._destroyed) this.#timers.delete(timer)
    return this.#timers.size
  }

  isListening(port) {
    return this.#servers.has(port)
  }

  /** No goodbye, as when a router reboots. @returns how many */
  cut(which) {
    const some = [...this.#sockets].filter((socket) => !socket.destroyed && which(socket))
    for (const socket of some) socket.resetAndDestroy()
    return some.length
  }

  /** The address of a listener is no longer ours: nobody answers there, and what came by it is cut. @returns how many */
  forget(port) {
    this.#servers.get(port)?.close()
    return this.cut(({ localPort, remotePort }) => localPort === port || remotePort === port)
  }

  /** The machine has another address, or one less: 0. The library looks every second. */
  set network(number) {
    this.#network = number
  }
}
