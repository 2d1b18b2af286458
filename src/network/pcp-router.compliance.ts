/** A router for tests: it speaks PCP and NAT-PMP, and says what the test likes. */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { bytesToIp, ipToBytes } from './address.ts'
import { type MappedProtocol, PCP_PORT } from './pcp.ts'

/** A request as it was read, and an answer to it. */
export interface Answer {
  readonly protocol: MappedProtocol
  readonly internal: number
  readonly external: number
  readonly lifetime: number
  /** Of PCP, in hex. */
  readonly nonce?: string
  readonly ip?: string
  /** 0 is success. */
  readonly result?: number
}

export class FakeRouter {
  readonly requests: Answer[] = []
  languages: readonly ('pcp' | 'natpmp')[] = ['pcp', 'natpmp']
  /** Says other things before the answer. */
  noise = false
  readonly #socket: Socket
  readonly #answer: (request: Answer) => Answer | undefined

  private constructor(socket: Socket, answer: (request: Answer) => Answer | undefined) {
    this.#socket = socket
    this.#answer = answer
    socket.on('message', (bytes, from) => this.#onMessage(bytes, from))
  }

  static async start(host: string, answer: (request: Answer) => Answer | undefined): Promise<FakeRouter> {
    const socket = createSocket('udp4')
    socket.bind(PCP_PORT, host)
    await once(socket, 'listening')
    return new FakeRouter(socket, answer)
  }

  close(): Promise<unknown> {
    return once(this.#socket.close(), 'close')
  }

  #onMessage(bytes: Buffer, from: RemoteInfo): void {
    const send = (answer: Uint8Array) => this.#socket.send(answer, from.port, from.address)
    const isPcp = bytes[0] === 2
    if (this.noise) for (const noise of noises(isPcp, bytes)) send(noise)
    if (isPcp && !this.languages.includes('pcp')) return send(Buffer.from('0081000100000000', 'hex'))
    if (isPcp) {
      const request = readPcpRequest(bytes)
      this.requests.push(request)
      const answer = this.#answer(request)
      if (answer !== undefined) send(pcpResponse(bytes, answer))
      return
    }
    const [, op] = bytes
    if (op === 0) {
      const probe = this.#answer({ protocol: 'tcp', internal: 0, external: 0, lifetime: 0 })
      if (probe !== undefined) send(Buffer.concat([Buffer.from('0080000000000001', 'hex'), ipToBytes(probe.ip!)!]))
      return
    }
    const request: Answer = {
      protocol: op === 1 ? 'udp' : 'tcp',
      internal: bytes.readUInt16BE(4),
      external: bytes.readUInt16BE(6),
      lifetime: bytes.readUInt32BE(8),
    }
    this.requests.push(request)
    const answer = this.#answer(request)
    if (answer === undefined) return
    const response = Buffer.alloc(16)
    response[1] = 128 + op!
    response.writeUInt16BE(answer.result ?? 0, 2)
    response.writeUInt16BE(request.internal, 8)
    response.writeUInt16BE(answer.external, 10)
    response.writeUInt32BE(answer.lifetime, 12)
    send(response)
  }
}

function readPcpRequest(bytes: Buffer): Answer {
  return {
    protocol: bytes[36] === 6 ? 'tcp' : 'udp',
    internal: bytes.readUInt16BE(40),
    external: bytes.readUInt16BE(42),
    lifetime: bytes.readUInt32BE(4),
    nonce: bytes.toString('hex', 24, 36),
  }
}

function pcpResponse(request: Buffer, answer: Answer): Buffer {
  const response = Buffer.from(request)
  response[1] = 0x81
  response[3] = answer.result ?? 0
  response.writeUInt32BE(answer.lifetime, 4)
  response.fill(0, 8, 24)
  response.writeUInt16BE(answer.external, 42)
  response.set(ipToBytes(`::ffff:${answer.ip ?? bytesToIp(new Uint8Array(4))}`)!, 44)
  return response
}

/** Answers to other questions, and nonsense. */
function noises(isPcp: boolean, request: Buffer): Uint8Array[] {
  const nonsense = [new Uint8Array(0), Uint8Array.of(2), Buffer.alloc(60, 0xff), Buffer.alloc(1_100, 2)]
  if (!isPcp) return [...nonsense, Buffer.from('00820000', 'hex'), Buffer.from('0082000000000000ffff', 'hex')]
  const ofAnother = pcpResponse(request, { ...readPcpRequest(request), external: 9, ip: '6.6.6.6' })
  const swapped = [24, 36, 41].map((at) => {
    const response = Buffer.from(ofAnother)
    response[at] = response[at]! ^ 0xff
    return response
  })
  return [...nonsense, ...swapped, ofAnother.subarray(0, 59)]
}
