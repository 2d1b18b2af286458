/** Nodes of a DHT on loopback: plain ones of the library, and ones that answer as a test says. */
import { createSocket, type RemoteInfo } from 'node:dgram'
import { Client } from 'bittorrent-dht'
import { verifyItem } from './dht-item.ts'
import { type Bencoded, readBencode } from './dht-message.ts'

/** A node as anybody runs it: without our socket before it. */
export interface PlainNode {
  readonly at: string
  readonly library: Client
  close(): Promise<void>
}

const Plain = Client as unknown as new (options: {
  bootstrap: readonly string[] | false
  verify: typeof verifyItem
}) => Client & {
  listen(port: number, host: string, done: () => void): void
  once(event: 'ready', listener: () => void): void
  address(): { port: number }
}

let hosts = 1

/** Another address of this machine: limits are for each address. */
export function anotherHost(): string {
  hosts = (hosts % 200) + 1
  return `127.0.3.${hosts}`
}

export async function plainNode(bootstrap: readonly string[]): Promise<PlainNode> {
  const library = new Plain({ bootstrap: bootstrap.length === 0 ? false : bootstrap, verify: verifyItem })
  const host = anotherHost()
  await Promise.all([
    new Promise<void>((resolve) => library.listen(0, host, resolve)),
    new Promise<void>((resolve) => library.once('ready', resolve)),
  ])
  return {
    at: `${host}:${library.address().port}`,
    library,
    close: () => new Promise((resolve) => library.destroy(resolve)),
  }
}

/** So many nodes that know each other. */
export async function plainNodes(count: number, bootstrap: readonly string[] = []): Promise<PlainNode[]> {
  const nodes: PlainNode[] = []
  for (let i = 0; i < count; i++) {
    nodes.push(await plainNode([...bootstrap, ...nodes.slice(0, 1).map(({ at }) => at)]))
  }
  return nodes
}

type Encodable =
  | number
  | string
  | Uint8Array
  | readonly Encodable[]
  | { readonly [name: string]: Encodable | undefined }

export function bencode(value: Encodable): Buffer {
  if (typeof value === 'number') return Buffer.from(`i${value}e`)
  if (typeof value === 'string') return bencode(Buffer.from(value, 'latin1'))
  if (value instanceof Uint8Array) return Buffer.concat([Buffer.from(`${value.length}:`), value])
  if (Array.isArray(value)) return Buffer.concat([Buffer.from('l'), ...value.map(bencode), Buffer.from('e')])
  const entries = Object.entries(value as Record<string, Encodable | undefined>)
  const parts = entries.flatMap(([name, one]) => (one === undefined ? [] : [bencode(name), bencode(one)]))
  return Buffer.concat([Buffer.from('d'), ...parts, Buffer.from('e')])
}

export interface Question {
  readonly method: string
  readonly args: ReadonlyMap<string, Bencoded>
  readonly transaction: Uint8Array
  readonly from: RemoteInfo
}

/** A node that answers what the test says: the fields of an answer, or nothing. */
export class ScriptedNode {
  readonly socket = createSocket('udp4')
  readonly questions: Question[] = []
  at = ''
  #closed = false

  static async open(
    answer: (question: Question) => { readonly [name: string]: Encodable } | undefined,
  ): Promise<ScriptedNode> {
    const node = new ScriptedNode()
    node.socket.on('message', (bytes, from) => {
      const message = readBencode(bytes) as ReadonlyMap<string, Bencoded>
      if (Buffer.from(message.get('y') as Uint8Array).toString() !== 'q') return
      const question = {
        method: Buffer.from(message.get('q') as Uint8Array).toString(),
        args: message.get('a') as ReadonlyMap<string, Bencoded>,
        transaction: message.get('t') as Uint8Array,
        from,
      }
      node.questions.push(question)
      const fields = answer(question)
      if (fields !== undefined) node.answer(question, fields)
    })
    const host = anotherHost()
    await new Promise<void>((resolve) => node.socket.bind(0, host, resolve))
    node.at = `${host}:${node.socket.address().port}`
    return node
  }

  answer({ transaction, from }: Question, fields: { readonly [name: string]: Encodable }): void {
    if (this.#closed) return
    this.socket.send(bencode({ t: transaction, y: 'r', r: fields }), from.port, from.address)
  }

  close(): Promise<void> {
    this.#closed = true
    return new Promise((resolve) => this.socket.close(() => resolve()))
  }
}

/** A node's id, address and port, as nodes tell it. */
export function compactNode(id: Uint8Array, at: string): Buffer {
  const [host = '', port] = at.split(':')
  const place = Buffer.alloc(6)
  for (const [i, part] of host.split('.').entries()) place[i] = Number(part)
  place.writeUInt16BE(Number(port), 4)
  return Buffer.concat([id, place])
}
