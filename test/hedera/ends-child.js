/**
 * A program that has a ledger at Hedera, closes it in the state that it is told, and has nothing else to do.
 */
import { HederaLedger } from '../../dist/ledger/hedera.js'

const { state, topic, ...options } = JSON.parse(process.env.ENDS)
const signal = AbortSignal.timeout(600_000)
const before = process.getActiveResourcesInfo()
const ledger = await HederaLedger.open(options)
const message = new Uint8Array(10)
let ended
if (state === 'idle') {
  await ledger.append(topic, message, { signal })
  await ledger.read(topic, { signal })
} else if (state === 'reading') {
  const reading = ledger.subscribe(topic, { signal })
  await ledger.append(topic, message, { signal })
  await reading.next()
  ended = reading.next()
} else {
  ended = ledger.append(topic, message, { signal })
  await new Promise((resolve) => process.stdin.once('data', resolve))
  process.stdin.destroy()
}
const said = ended?.then(
  () => 'done',
  (error) => error.code,
)
await ledger.close()
const left = process.getActiveResourcesInfo().filter((one) => !before.includes(one) && one === 'Timeout')
console.log(JSON.stringify({ ended: await said, left }))
