/** What is used here of `bittorrent-dht`, which comes without types. */
declare module 'bittorrent-dht' {
  /** Checks a signature of Ed25519 over the signed part of an item. */
  export type Verify = (signature: unknown, signed: Uint8Array, key: unknown) => boolean

  /** An item as it was answered, or is kept here. */
  export interface Item {
    readonly v: Uint8Array
    readonly k?: Uint8Array
    readonly sig?: Uint8Array
    readonly seq?: number
  }

  export class Client {
    constructor(options: {
      /** false: it knows no node to begin with. */
      readonly bootstrap: false
      /** Instead of a socket of `node:dgram`. */
      readonly socket: object
      readonly verify: Verify
      readonly concurrency: number
      readonly maxTables: number
      readonly maxValues: number
      readonly maxPeers: number
      readonly maxAge: number
    })
    readonly nodeId: Buffer
    readonly nodes: { count(): number }
    listen(): void
    addNode(node: { readonly host: string; readonly port: number }): void
    lookup(target: Buffer, done: (error: Error | null) => void): void
    get(
      target: Buffer,
      options: { readonly salt: Buffer; readonly verify: Verify; readonly cache: false },
      done: (error: Error | null, item?: Item | null) => void,
    ): void
    put(
      item: {
        readonly k: Buffer
        readonly salt: Buffer
        readonly seq: number
        readonly v: Buffer
        readonly sig: Buffer
      },
      done: (error: (Error & { readonly code?: number }) | null, key?: Buffer, nodes?: number) => void,
    ): void
    on(event: 'node' | 'error', listener: (about: unknown) => void): void
    off(event: 'node', listener: (about: unknown) => void): void
    destroy(done: () => void): void
  }
}
