/** JSON that is almost right: what a file holds when a disk, a text editor or somebody else has had a hand in it. */
import fc from 'fast-check'

const STRANGE = [
  null,
  true,
  -1,
  0.5,
  1e300,
  2 ** 53,
  '',
  '\ud800',
  '\u202e',
  'x'.repeat(2_000),
  [],
  {},
  [[]],
  { id: 1 },
]

/** Keys on the way to each value in `json`. */
function* paths(json: unknown, way: readonly string[] = []): Generator<readonly string[]> {
  yield way
  if (typeof json !== 'object' || json === null) return
  for (const [key, value] of Object.entries(json)) yield* paths(value, [...way, key])
}

/** `json` with what lies at `way` replaced, or without it. */
function changed(json: unknown, [key, ...rest]: readonly string[], to: { value?: unknown }): unknown {
  if (key === undefined) return to.value
  if (Array.isArray(json)) {
    const at = Number(key)
    if (rest.length === 0 && !('value' in to)) return json.toSpliced(at, 1)
    return json.with(at, changed(json[at], rest, to))
  }
  const { [key]: old, ...others } = json as Record<string, unknown>
  return rest.length === 0 && !('value' in to) ? others : { ...others, [key]: changed(old, rest, to) }
}

/** `valid` with one to three of its values replaced by others, or left out. */
export function hostileJson(valid: unknown): fc.Arbitrary<unknown> {
  const value = fc.oneof(fc.constantFrom(...STRANGE), fc.jsonValue({ maxDepth: 3 }))
  const change = fc.tuple(
    fc.nat(),
    fc.oneof(
      value.map((one) => ({ value: one })),
      fc.constant({}),
    ),
  )
  return fc.array(change, { minLength: 1, maxLength: 3 }).map((changes) =>
    changes.reduce((json, [number, to]) => {
      const all = [...paths(json)]
      return changed(json, all[number % all.length]!, to)
    }, valid),
  )
}
