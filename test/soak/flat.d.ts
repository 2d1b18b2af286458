export interface Point {
  readonly atMs: number
  readonly value: number
}

export interface Judgement {
  readonly flat: boolean
  readonly tooFew: boolean
  readonly first: number
  readonly last: number
  readonly growth: number
  readonly allowed: number
  readonly perHour: number
}

export function median(values: readonly number[]): number
export function slopeOf(points: readonly Point[]): number
export function judge(samples: readonly Point[], allowed: { atLeast: number; share?: number }): Judgement
