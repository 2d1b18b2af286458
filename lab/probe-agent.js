/**
 * Runs inside a host: on the public hosts it answers, in the homes it asks, in the manner of RFC 5780. A datagram says
 * from which of the responder's sockets it wants to be answered; every answer says which address and port it came from.
 */

import dgram from 'node:dgram'
import { once } from 'node:events'
import net from 'node:net'
import { serve } from './agent.js'

const ANSWER_MS = 1_600 // four round trips of 40 ms, and a machine that is busy with thirty of these
const RESEND_MS = 400
const STRAY_MS = 60 // the wanted answer is sent last on a way that keeps the order: a stray one is at most this late
const HAIRPIN_MS = 400
const SYN_MS = 700
const MOST_ROUTERS = 5

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const udp = (address) => dgram.createSocket({ type: net.isIPv6(address) ? 'udp6' : 'udp4' })

async function bind(socket, port, address) {
  socket.bind(port, address)
  await once(socket, 'listening')
  return socket
}

/** @param {{ addresses: string[], udpPorts: number[], tcpPorts: number[] }} where */
async function respond({ addresses, udpPorts, tcpPorts }) {
  const sockets = new Map()
  const other = (all, one) =>
    all.find((each) => each !== one && net.isIP(String(each)) === net.isIP(String(one))) ?? one
  for (const address of addresses) {
    for (const port of udpPorts) {
      const socket = await bind(udp(address), port, address)
      sockets.set(`${address} ${port}`, socket)
      socket.on('message', async (message, { address: seen, port: seenPort }) => {
        const { id, from, afterMs = 0 } = JSON.parse(message)
        if (afterMs > 0) await sleep(afterMs)
        const sources = {
          'other address': `${other(addresses, address)} ${other(udpPorts, port)}`,
          'other port': `${address} ${other(udpPorts, port)}`,
          same: `${address} ${port}`,
        }
        for (const source of from) {
          const answer = JSON.stringify({ id, source, seen: { address: seen, port: seenPort } })
          sockets.get(sources[source]).send(answer, seenPort, seen)
        }
      })
    }
    for (const port of tcpPorts) {
      const server = net.createServer((socket) => {
        socket.on('error', () => {})
        socket.end(JSON.stringify({ address: socket.remoteAddress, port: socket.remotePort }))
      })
      server.listen(port, address)
      await once(server, 'listening')
    }
  }
}

/** What a SYN gets, and what the other side says before it ends. */
function dial({ address, port, localPort, localAddress, timeoutMs = SYN_MS }) {
  return new Promise((resolve) => {
    const socket = net.connect({ host: address, port, localPort, localAddress })
    let said = ''
    const done = (outcome) => {
      clearTimeout(timer)
      socket.destroy()
      resolve({ outcome, ...(said === '' ? {} : { seen: JSON.parse(said) }) })
    }
    const timer = setTimeout(() => done('dropped'), timeoutMs)
    socket.setEncoding('utf8')
    socket.on('data', (text) => {
      said += text
    })
    socket.on('end', () => done('connected'))
    socket.on('error', ({ code }) => done(code === 'ECONNREFUSED' || code === 'ECONNRESET' ? 'refused' : 'dropped'))
  })
}

/** Asks a responder from a socket until the plain answer is there; gives every answer. */
async function question(socket, { address, port }, from = ['same'], patience = ANSWER_MS) {
  const id = Math.random()
  const answers = []
  let finish
  const finished = new Promise((resolve) => {
    finish = resolve
  })
  const onMessage = (message) => {
    const answer = JSON.parse(message)
    if (answer.id !== id) return
    answers.push(answer)
    if (answer.source === 'same') finish()
  }
  const send = () => socket.send(JSON.stringify({ id, from }), port, address, () => {})
  socket.on('message', onMessage)
  const resend = setInterval(send, RESEND_MS)
  const timer = setTimeout(finish, patience)
  send()
  await finished
  if (from.length > 1) await sleep(STRAY_MS)
  clearInterval(resend)
  clearTimeout(timer)
  socket.off('message', onMessage)
  return answers
}

/** `first` and `otherPort` differ in the port only, `otherAddress` in the address. */
function mappingOf(local, first, otherPort, otherAddress) {
  const same = (a, b) => a.address === b.address && a.port === b.port
  if (first.address === local) return 'none'
  if (same(first, otherPort) && same(first, otherAddress)) return 'endpoint-independent'
  return same(first, otherPort) ? 'address-dependent' : 'address-and-port-dependent'
}

function portsOf(localPort, ports) {
  if (ports.every((port) => port === localPort)) return 'preserved'
  const steps = ports.slice(1).map((port, at) => port - ports[at])
  return steps.every((step) => step >= 0 && step <= 4) && steps.some((step) => step > 0) ? 'sequential' : 'random'
}

const NO_UDP = { udp: false, mapping: null, ports: null, filtering: null, hairpin: null, routers: null }

async function examineUdp({ local, servers, reflector, udpPorts }) {
  const [a1, a2] = servers
  const [p1, p2] = udpPorts
  const open = []
  const socketHere = async () => {
    const socket = await bind(udp(local), 0, local)
    socket.on('error', () => {})
    open.push(socket)
    return socket
  }
  const seenBy = async (socket, address, port) => (await question(socket, { address, port }))[0]?.seen
  try {
    const socket = await socketHere()
    const first = await seenBy(socket, a1, p1)
    if (first === undefined) return NO_UDP
    // One after the other, so that ports given in sequence show as one.
    const otherPort = await seenBy(socket, a1, p2)
    const otherAddress = await seenBy(socket, a2, p1)
    const third = await seenBy(socket, reflector, p1)

    const filtered = async () => {
      const answers = await question(await socketHere(), { address: a1, port: p1 }, [
        'other address',
        'other port',
        'same',
      ])
      const sources = answers.map(({ source }) => source)
      if (sources.includes('other address')) return 'endpoint-independent'
      return sources.includes('other port') ? 'address-dependent' : 'address-and-port-dependent'
    }
    const hairpin = async () => {
      if (first.address === local) return null
      const second = await socketHere()
      let heard = false
      socket.on('message', (message) => {
        heard ||= String(message) === 'hairpin'
      })
      for (let waited = 0; waited < HAIRPIN_MS && !heard; waited += 20) {
        if (waited % 100 === 0) second.send('hairpin', first.port, first.address, () => {})
        await sleep(20)
      }
      return heard
    }
    const routers = async () => {
      const sockets = await Promise.all(Array.from({ length: MOST_ROUTERS + 1 }, socketHere))
      const patience = 500
      const reached = await Promise.all(
        sockets.map(async (each, hops) => {
          each.setTTL(hops + 1)
          return (await question(each, { address: a1, port: p1 }, ['same'], patience)).length > 0
        }),
      )
      return reached.indexOf(true)
    }
    const [filtering, turned, count] = await Promise.all([filtered(), hairpin(), routers()])
    return {
      udp: true,
      mapping: mappingOf(local, first, otherPort, otherAddress),
      ports: portsOf(
        socket.address().port,
        [first, otherPort, otherAddress, third].map(({ port }) => port),
      ),
      filtering,
      hairpin: turned,
      routers: count,
      mapped: first.address,
    }
  } finally {
    for (const socket of open) socket.close()
  }
}

async function examineTcp({ local, servers, tcpPorts }) {
  const [a1, a2] = servers
  const [p443, other] = tcpPorts
  const from = (address, port, localPort) =>
    dial({ address, port, localPort, localAddress: local, timeoutMs: ANSWER_MS })
  // A free port for all three; the kernel lends it to several connections as long as they go to different places.
  const holder = net.createServer().listen(0, local)
  await once(holder, 'listening')
  const { port } = holder.address()
  await new Promise((resolve) => holder.close(resolve))
  const [first, otherPort, otherAddress] = await Promise.all([
    from(a1, p443, port),
    from(a1, other, port),
    from(a2, p443, port),
  ])
  const complete = first.seen !== undefined && otherAddress.seen !== undefined
  return {
    tcp443: first.outcome === 'connected',
    tcpOther: otherPort.outcome === 'connected',
    tcpMapping: complete ? mappingOf(local, first.seen, otherPort.seen ?? first.seen, otherAddress.seen) : null,
    mapped: first.seen?.address,
  }
}

/** Everything one host can find out with the responders' help, for one address family. */
async function examine(where) {
  const [overUdp, overTcp] = await Promise.all([examineUdp(where), examineTcp(where)])
  return { ...overUdp, ...overTcp, mapped: overTcp.mapped ?? overUdp.mapped ?? null }
}

const listeners = new Map()

serve({
  respond,
  examine,
  dial,
  /** Opens a socket and remembers what it hears. */
  async listen({ address, port = 0 }) {
    const socket = await bind(udp(address), port, address)
    const heard = []
    socket.on('message', (message) => heard.push(String(message)))
    listeners.set(socket.address().port, { socket, heard })
    return socket.address().port
  },
  async send({ fromPort, address, port, text }) {
    const { socket } = listeners.get(fromPort)
    await new Promise((resolve) => socket.send(text, port, address, resolve))
  },
  async heard({ port, text, withinMs }) {
    const { heard } = listeners.get(port)
    for (let waited = 0; waited < withinMs && !heard.includes(text); waited += 20) await sleep(20)
    return heard.includes(text)
  },
  /** Whether an answer that comes `idleMs` after the question still gets in. */
  async outlives({ local, server, port, idleMs }) {
    const socket = await bind(udp(local), 0, local)
    const timer = { ref: undefined }
    try {
      const answered = once(socket, 'message').then(() => true)
      const silent = new Promise((resolve) => {
        timer.ref = setTimeout(() => resolve(false), idleMs + ANSWER_MS)
      })
      socket.send(JSON.stringify({ from: ['same'], afterMs: idleMs }), port, server)
      return await Promise.race([answered, silent])
    } finally {
      clearTimeout(timer.ref)
      socket.close()
    }
  },
})
