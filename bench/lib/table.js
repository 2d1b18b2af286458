/** Lines of text from rows of cells: the first column to the left, figures to the right. */
export function alignedTable(header, rows) {
  const widths = header.map((_title, column) => Math.max(...[header, ...rows].map((row) => row[column].length)))
  const line = (row) =>
    row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[column]))).join('  ')
  return [line(header), widths.map((width) => '-'.repeat(width)).join('  '), ...rows.map(line)].map((text) =>
    text.trimEnd(),
  )
}

/** A figure with as many digits as mean something; a dash when there is none. */
export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return '-'
  const size = Math.abs(value)
  if (size >= 100) return Math.round(value).toLocaleString('en-US')
  return value.toFixed(size >= 10 ? 1 : 2)
}
