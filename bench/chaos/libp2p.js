/** What the agent and the server of js-libp2p have in common. */

/**
 * libp2p pings every connection and ends those that do not answer in 5 s. By default yamux lets 16 MiB be on their way,
 * and pings wait behind them: over 80 Mbit/s every second long transfer then ended without any fault. This is twice what
 * 80 Mbit/s and 100 ms need.
 */
export const YAMUX = { streamOptions: { maxStreamWindowSize: 2 ** 21 } }
