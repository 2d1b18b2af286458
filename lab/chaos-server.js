/** Peerline's server for chaos-contract.md: one port, one identity that outlives the process. */
import { Server } from '../dist/server/index.js'
import { obey, say } from './chaos-kit.js'

await obey({
  async serve({ host, port, folder }) {
    const server = await Server.create({ listen: `:${port}`, identityFile: `${folder}/id` })
    say('serving', { server: `tcp://${host}:${port}#${server.url.split('#')[1]}` })
  },
})
