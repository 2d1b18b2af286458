/** Which network of Hedera. */

export const NETWORKS = ['mainnet', 'testnet', 'previewnet'] as const

/** A network other than the public ones. */
export interface HederaNetwork {
  /** What it is called in `Ledger.id`: 1 to 40 characters of `a-z 0-9 . _ -`. */
  readonly name: string
  /** The accounts of the nodes, by `host:port` of their gRPC. */
  readonly nodes: { readonly [address: string]: string }
  /** `host:port` of the gRPC of the mirror nodes; port 443 is by TLS. */
  readonly mirrors: readonly string[]
}
