import { expect, test } from 'vitest'
import { behaviourOf } from './nat-report.ts'

/** `a1 > 7`: the reflector at address a, port 1, sees port 7. */
function seen(...texts: string[]): Parameters<typeof behaviourOf>[0] {
  return texts.map((text) => {
    const [, host, port, mapped] = /^([a-z])(\d) > (\d)$/.exec(text)!
    return {
      place: { host: host!, port: Number(port) },
      mapped: { host: '198.41.0.4', port: Number(mapped) },
    }
  })
}

test.each<[string, string[], string]>([
  ['nobody', [], 'unknown'],
  ['one', ['a1 > 7'], 'unknown'],
  ['the same everywhere', ['a1 > 7', 'a2 > 7', 'b1 > 7', 'b2 > 7'], 'endpoint-independent'],
  ['the same at two ports', ['a1 > 7', 'a2 > 7'], 'endpoint-independent'],
  ['another for each address', ['a1 > 7', 'a2 > 7', 'b1 > 8', 'b2 > 8'], 'address-dependent'],
  ['another for each port', ['a1 > 7', 'a2 > 8'], 'address-and-port-dependent'],
  ['another everywhere', ['a1 > 6', 'a2 > 7', 'b1 > 8', 'b2 > 9'], 'address-and-port-dependent'],
  ['another for each address, one port of each asked', ['a1 > 7', 'b1 > 8'], 'unknown'],
])('%s', (_, observations, expected) => {
  expect(behaviourOf(seen(...observations))).toBe(expected)
})
