/**
 * Whether a measured thing stays flat: warm-up left out, the medians of the first and the last third are compared, and a
 * robust slope is laid through all of it, so that neither a burst of garbage nor one slow moment decides.
 *
 *     warm-up | first third | middle | last third
 *               median ───── growth ───── median        slope: Theil and Sen, the median of the slopes of all pairs
 */

/** Share of the samples in which caches, pools and compiled code grow to their size. */
const WARM_UP_SHARE = 0.25

/** Samples that must be left to judge by: four in each third. */
const MIN_SAMPLES = 12

/** Samples that the slope is laid through; of more, every second, third, … is taken: pairs grow with the square. */
const MAX_SLOPE_SAMPLES = 300

const MS_PER_HOUR = 3_600_000

/** @param {readonly number[]} values */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** The median of the slopes between all pairs of points, per ms. */
export function slopeOf(points) {
  const stride = Math.ceil(points.length / MAX_SLOPE_SAMPLES)
  const some = points.filter((_, at) => at % stride === 0)
  const slopes = some.flatMap((from, at) =>
    some.slice(at + 1).flatMap((to) => (to.atMs > from.atMs ? (to.value - from.value) / (to.atMs - from.atMs) : [])),
  )
  return slopes.length === 0 ? 0 : median(slopes)
}

/**
 * @param {readonly { atMs: number, value: number }[]} samples in the order of time
 * @param {{ atLeast: number, share?: number }} allowed growth in the unit of the samples, or a share of the first median,
 *   whichever is more
 */
export function judge(samples, { atLeast, share = 0 }) {
  const judged = samples.slice(Math.floor(samples.length * WARM_UP_SHARE))
  if (judged.length < MIN_SAMPLES) {
    return { flat: false, tooFew: true, first: 0, last: 0, growth: 0, allowed: atLeast, perHour: 0 }
  }
  const third = Math.floor(judged.length / 3)
  const first = median(judged.slice(0, third).map(({ value }) => value))
  const last = median(judged.slice(-third).map(({ value }) => value))
  const allowed = Math.max(atLeast, share * first)
  const slope = slopeOf(judged)
  // What grows evenly grows by half as much again from end to end as from the middle of one third to that of the other.
  const drift = slope * (judged.at(-1).atMs - judged[0].atMs)
  const growth = last - first
  const flat = growth <= allowed && drift <= 1.5 * allowed
  return { flat, tooFew: false, first, last, growth, allowed, perHour: slope * MS_PER_HOUR }
}
