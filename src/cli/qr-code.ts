/**
 * A QR code in a terminal (ISO/IEC 18004), two modules to a character: dark on light, whatever colours the terminal has.
 */
import type { Output } from './output.ts'

/** Modules of light around a code: readers find it by that (ISO/IEC 18004 section 6.3.8). */
const BORDER = 4

/** Black on bright white, and what was before (ECMA-48 section 8.3.117). */
const COLOURS = '\x1b[30;107m'
const NORMAL = '\x1b[0m'

/** By whether the upper module is dark, and the lower. */
const BLOCKS = [
  [' ', '▄'],
  ['▀', '█'],
] as const

/** Columns of a terminal that does not say how many it has. */
const DEFAULT_COLUMNS = 80

/** Draws a text where people watch a terminal that is wide enough; its letters may be read as capitals. */
export async function drawQrCode(text: string, out: Output): Promise<void> {
  if (!out.live) return
  const lines = await qrLines(text)
  const columns = process.stderr.columns || DEFAULT_COLUMNS
  const needed = lines?.[0]?.length
  if (lines === undefined || needed === undefined) return out.say('it is too long for a QR code')
  if (needed > columns) return out.say(`a QR code of it needs a terminal of ${needed} columns`)
  for (const line of lines) process.stderr.write(`${COLOURS}${line}${NORMAL}\n`)
}

/** The code of a text in capitals, without colours; undefined when it is too long for one. */
export async function qrLines(text: string): Promise<string[] | undefined> {
  const { encodeQR } = await import('qr')
  let modules: readonly (readonly boolean[])[]
  try {
    // A screen is neither torn nor dirty: the least correction gives the smallest code.
    modules = encodeQR(text.toUpperCase(), 'raw', { encoding: 'alphanumeric', ecc: 'low', border: BORDER })
  } catch {
    return undefined
  }
  const lines: string[] = []
  for (let y = 0; y < modules.length; y += 2) {
    lines.push(
      modules[y]!.map((upper, x) => BLOCKS[Number(upper) as 0 | 1][Number(modules[y + 1]?.[x] ?? false) as 0 | 1]).join(
        '',
      ),
    )
  }
  return lines
}
