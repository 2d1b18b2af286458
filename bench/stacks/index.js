/**
 * The stacks that are compared, in the order in which a round runs them. Each is an object of
 *
 *   prepare()              optional, once, in the parent: anything serialisable, given to every process as context.prepared
 *   order                  optional: in which order the roles start; default third (if any), server, client
 *   third(context)         optional: a relay or a bootstrap node in its own process -> { info, close }
 *   listen(context, accept) the accepting end: calls accept(pipe) for each pipe -> { info, close }
 *   dial(context)          the dialing end -> { connect(index) -> pipe, close, openRequests?, prepareIdle? }
 *
 * `context` also holds what the earlier roles announced (`context.server`, `context.third`) and a signaling channel
 * between client and server (`signal(data)`, `onSignal(listener)`). Each connect() makes a new connection. Packages
 * are imported when a role starts, so that a missing one only costs its own row.
 */

const STACKS = {
  tcp: { title: 'tcp', file: './tcp.js', part: 'tcp' },
  'tcp-splice': { title: 'tcp splice', file: './tcp.js', part: 'splice' },
  tls: { title: 'tls', file: './tls.js', part: 'tls' },
  ws: { title: 'ws', file: './ws.js', part: 'ws' },
  libp2p: { title: 'libp2p', file: './libp2p.js', part: 'libp2p' },
  hyperdht: { title: 'hyperdht', file: './hyperdht.js', part: 'hyperdht' },
  'node-datachannel': { title: 'node-datachannel', file: './datachannel.js', part: 'datachannel' },
  'peerline-direct': { title: 'peerline direct', file: './peerline.js', part: 'direct' },
  'peerline-relayed': { title: 'peerline relayed', file: './peerline.js', part: 'relayed' },
}

export const stackNames = Object.keys(STACKS)

export function stackTitle(name) {
  return STACKS[name].title
}

export async function loadStack(name) {
  const { file, part } = STACKS[name]
  return (await import(file))[part]
}

/** The stacks meant by `tcp,peerline`: a full name, else every name that starts with it. */
export function selectStacks(only) {
  if (only === undefined) return stackNames
  const wanted = new Set()
  for (const word of only
    .split(',')
    .map((text) => text.trim().replace(' ', '-'))
    .filter(Boolean)) {
    const found = stackNames.includes(word) ? [word] : stackNames.filter((name) => name.startsWith(word))
    if (found.length === 0) throw new Error(`--only: no stack is called "${word}"; there are ${stackNames.join(', ')}`)
    for (const name of found) wanted.add(name)
  }
  return stackNames.filter((name) => wanted.has(name))
}
