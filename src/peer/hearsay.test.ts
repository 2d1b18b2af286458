import { expect, test } from 'vitest'
import { mayDial } from '../connect/index.ts'
import type { KnownAddress } from '../discovery/index.ts'
import { dialable } from './hearsay.ts'

const from = (source: KnownAddress['source'], ...addresses: readonly string[]) =>
  addresses.map((address): KnownAddress => ({ address, source, failures: 0 }))

const FAR = (host: string) => mayDial(host, { loopback: false })
const signal = AbortSignal.timeout(10_000)

test('what a peer or a record says of itself leads neither to this machine nor to a link', async () => {
  const told = ['127.0.0.1:1', '[::1]:1', '169.254.169.254:80', '[fe80::1]:1', '192.0.2.1:1', 'localhost:1']
  expect(await dialable([...from('record', ...told), ...from('told', ...told)], FAR, signal)).toEqual([])
  const mapped = from('record', '127.0.0.1:1', 'localhost:1')
  expect(await dialable(mapped, () => true, signal)).toEqual(expect.arrayContaining(['127.0.0.1:1']))
})

test('what the user gave, what worked, and what the own network said, stands; and the order stays', async () => {
  const known = [
    ...from('dialled', 'home.example:1'),
    ...from('record', '10.0.0.1:2', '127.0.0.1:2'),
    ...from('given', 'localhost:3'),
    ...from('lan', '[fe80::1%eth0]:4'),
    ...from('told', '1.1.1.1:5'),
  ]
  const expected = ['home.example:1', '10.0.0.1:2', 'localhost:3', '[fe80::1%eth0]:4', '1.1.1.1:5']
  expect(await dialable(known, FAR, signal)).toEqual(expected)
})

test('looking up ends with its signal', async () => {
  const looking = dialable(from('record', 'localhost:1'), FAR, AbortSignal.abort())
  await expect(looking).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
})
