/** How often each of many askers asks: so many times in a minute of its own. The minutes are those of a clock that is never set. */
import { BoundedMap } from '../identity/bounded-map.ts'
import type { PeerId } from '../identity/index.ts'

/** Askers that are counted; when there are more, the one counted first begins anew. */
const MAX_ASKERS = 10_000

const MINUTE_MS = 60_000

export class PerMinute {
  readonly #max: number
  readonly #askers = new BoundedMap<PeerId, { until: number; left: number }>(MAX_ASKERS)

  /** @param max times that one asks in a minute */
  constructor(max: number) {
    this.#max = max
  }

  /** Counts one more; false when it is too many. */
  take(asker: PeerId): boolean {
    const now = performance.now()
    const counted = this.#askers.getOrMake(asker, () => ({ until: 0, left: 0 }))
    if (now >= counted.until) Object.assign(counted, { until: now + MINUTE_MS, left: this.#max })
    return counted.left-- > 0
  }
}
