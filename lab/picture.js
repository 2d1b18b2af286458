/** The matrix as a picture: one square for each pair, by what carries the data, with the ms from the dial to a direct path. */

const SIDE = 44
const LEFT = 170
const TOP = 150
const COLOURS = { tcp: '#2f7d4f', udp: '#2c6fa8', webrtc: '#7a4fa3', relay: '#b9b9b9' }

const mostUsed = (kinds) => {
  const counts = new Map()
  for (const kind of kinds) counts.set(kind, (counts.get(kind) ?? 0) + 1)
  return [...counts].sort(([, a], [, b]) => b - a)[0]?.[0] ?? 'relay'
}

/** @param {readonly { a: string, b: string, together: boolean, directMs: number | null, kinds: string[] }[]} rows */
export function svg(rows) {
  const names = [...new Set(rows.flatMap(({ a, b }) => [a, b]))]
  const find = (a, b) =>
    rows.find((row) => !row.together && ((row.a === a && row.b === b) || (row.a === b && row.b === a)))
  const parts = []
  for (const [y, a] of names.entries()) {
    const top = TOP + y * SIDE
    parts.push(`<text x="${LEFT - 8}" y="${top + SIDE / 2 + 4}" text-anchor="end">${a}</text>`)
    const middle = LEFT + y * SIDE + SIDE / 2
    parts.push(`<text transform="translate(${middle + 4} ${TOP - 8}) rotate(-60)">${a}</text>`)
    for (const [x, b] of names.entries()) {
      const row = find(a, b)
      if (row === undefined) continue
      const kind = row.directMs === null ? 'relay' : mostUsed(row.kinds)
      const said = row.directMs === null ? 'relay' : Math.round(row.directMs)
      const left = LEFT + x * SIDE
      parts.push(
        `<rect x="${left}" y="${top}" width="${SIDE - 2}" height="${SIDE - 2}" rx="4" fill="${COLOURS[kind]}"/>`,
        `<text x="${left + SIDE / 2 - 1}" y="${top + SIDE / 2 + 3}" text-anchor="middle" fill="#fff">${said}</text>`,
      )
    }
  }
  const width = LEFT + names.length * SIDE + 20
  const height = TOP + names.length * SIDE + 50
  const legend = Object.entries({ tcp: 'direct by TCP', udp: 'direct by UDP', relay: 'stays on the relay' }).map(
    ([kind, text], at) =>
      `<rect x="${LEFT + at * 190}" y="${height - 34}" width="14" height="14" rx="3" fill="${COLOURS[kind]}"/>` +
      `<text x="${LEFT + at * 190 + 20}" y="${height - 22}">${text}</text>`,
  )
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="11">
<title>Which pairs of networks connect directly, by what, and ms from the dial until they do</title>
<rect width="${width}" height="${height}" fill="#fff"/>
<g fill="#222">
${parts.join('\n')}
${legend.join('\n')}
</g>
</svg>
`
}
