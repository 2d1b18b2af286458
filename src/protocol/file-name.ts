/**
 * Names of received files: whatever the sender calls a file, it lands in the directory, visible, under a plain name.
 *
 * - Only the last component counts, for both `/` and `\`.
 * - Control characters and those that turn the direction of writing are dropped: `exe.fdp` must not read `pdf.exe`.
 * - What Windows forbids is replaced, on every system: files travel on, and `a:b` names a hidden stream there.
 * - Leading dots go: a sender must not place a `.profile`, and part files start with a dot.
 * - At most {@link MAX_NAME_BYTES} of UTF-8; the extension stays.
 */
import path from 'node:path'
import { wellFormed } from './failure.ts'

/** Bytes of the longest name: 255 is what file systems take; the rest is left to ` (2)` and the like. */
export const MAX_NAME_BYTES = 200

/** Bytes up to which an extension survives when a name is cut. */
const MAX_EXTENSION_BYTES = 20

/** What a file without a usable name is called. */
const NO_NAME = 'file'

/** Devices, with any extension (Microsoft, "Naming Files, Paths, and Namespaces"). */
const RESERVED = /^(?:con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(?:\.|$)/iu

const DROPPED = /[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/gu
const REPLACED = /[<>:"|?*]/g

/** A safe file name made of what the sender calls the file. Doing it again changes nothing. */
export function safeFileName(name: string): string {
  const last = wellFormed(name).split(/[/\\]/).at(-1)!
  const clean = trim(last.replace(DROPPED, '').replace(REPLACED, '_'))
  const free = RESERVED.test(clean) ? `_${clean}` : clean
  return trim(cut(free)) || NO_NAME
}

/** `report.pdf` as `report (2).pdf`; 1 is the name itself. */
export function numberedName(name: string, number: number): string {
  if (number === 1) return name
  const extension = path.extname(name)
  return `${name.slice(0, name.length - extension.length)} (${number})${extension}`
}

/** Without leading dots and spaces, and without trailing ones, which Windows drops by itself. */
function trim(name: string): string {
  return name.replace(/^[\s.]+/, '').replace(/[\s.]+$/, '')
}

function cut(name: string): string {
  if (Buffer.byteLength(name) <= MAX_NAME_BYTES) return name
  const extension = path.extname(name)
  const kept = Buffer.byteLength(extension) <= MAX_EXTENSION_BYTES ? extension : ''
  let room = MAX_NAME_BYTES - Buffer.byteLength(kept)
  let base = ''
  for (const character of name) {
    room -= Buffer.byteLength(character)
    if (room < 0) break
    base += character
  }
  return trim(base) + kept
}
