/** Who may do what: rules, a look at the request, a rule for one time, a change that reaches what is open, and a ban. */
import { defineProtocol, isPeerlineError, Peer } from 'peerline'

const encode = (text) => new TextEncoder().encode(text)
const nothing = new Uint8Array(0)

// What decides is shown the folder of a request, and never the rest of it.
const fetchFile = defineProtocol({ name: '/files/1', view: ({ folder }) => ({ folder }) })

const ann = await Peer.create({ listen: [] })
const ben = await Peer.create({ listen: [] })
const host = await Peer.create({
  listen: ['127.0.0.1:0'],
  firewall: {
    groups: { family: [ann.id, ben.id] },
    rules: [
      { subject: 'group:family', object: 'connection', direction: 'in', action: 'allow' },
      { subject: 'group:family', object: '/door/1', direction: 'in', action: 'deny' },
      {
        subject: 'group:family',
        object: '/files/1',
        direction: 'in',
        action: 'restrict',
        when: ({ view }) => view?.folder === 'photos',
      },
    ],
  },
})
host.handle(fetchFile, ({ folder, name }) => `${name} of ${folder}`)
host.handle('/door/1', () => encode('open'))
// A handler that goes on until nobody may wait for it any more.
host.handle('/watch/1', (_, { signal }) => new Promise((resolve) => signal.addEventListener('abort', resolve)))
for (const peer of [ann, ben]) peer.known.give(host.id, host.addresses[0])

/** Says what came of asking. */
async function tell(what, asking) {
  try {
    const answer = await asking
    console.log(`${what}: ${answer instanceof Uint8Array ? new TextDecoder().decode(answer) : answer}`)
  } catch (error) {
    if (!isPeerlineError(error)) throw error
    console.log(`${what}: ${error.code}`)
  }
}

await tell('ann, a photo', ann.request(host.id, fetchFile, { folder: 'photos', name: 'lake.jpg' }))
await tell('ann, a letter', ann.request(host.id, fetchFile, { folder: 'letters', name: '1.txt' }))

// A rule for a peer goes before those of its groups. This one ends when it has let something through.
host.firewall.set({ subject: ann.id, object: '/door/1', direction: 'in', action: 'allow', uses: 1 })
await tell('ann, the door', ann.request(host.id, '/door/1', nothing))
await tell('ann, the door again', ann.request(host.id, '/door/1', nothing))

// What runs is cut when nothing allows it any more.
await ben.connect(host.id)
const rule = host.firewall.set({ subject: ben.id, object: '/watch/1', direction: 'in', action: 'allow' })
const watching = tell('ben, watching', ben.request(host.id, '/watch/1', nothing))
// When this is answered, what he asked before it is under way.
await tell('ben, a photo', ben.request(host.id, fetchFile, { folder: 'photos', name: 'dog.jpg' }))
host.firewall.remove(rule)
await watching

// A ban ends the session, and shuts him out whatever the rules say.
host.bans.ban(ben.id, { until: Date.now() + 3_600_000, why: 'an hour of rest' })
await tell('ben, again', ben.request(host.id, fetchFile, { folder: 'photos', name: 'lake.jpg' }))

for (const { action, object, reason } of host.firewall.audit.entries) console.log(`  ${action} ${object}: ${reason}`)
await Promise.all([ann.close(), ben.close(), host.close()])
