import { decodeQR } from 'qr/decode.js'
import { describe, expect, test } from 'vitest'
import { Identity } from '../identity/index.ts'
import { readTicket, writeTicket } from '../identity/ticket.ts'
import { qrLines } from './qr-code.ts'

/** Pixels to a module, as a camera sees them. */
const SCALE = 4

/** What a camera makes of lines on a screen. */
function scan(lines: readonly string[]): string {
  const dark = lines.flatMap((line) => [
    [...line].map((block) => block === '▀' || block === '█'),
    [...line].map((block) => block === '▄' || block === '█'),
  ])
  const [width, height] = [dark[0]!.length * SCALE, dark.length * SCALE]
  const data = new Uint8Array(width * height * 4).fill(255)
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (dark[Math.floor(y / SCALE)]![Math.floor(x / SCALE)] === true)
        data.fill(0, (y * width + x) * 4, (y * width + x) * 4 + 3)
    }
  }
  return decodeQR({ width, height, data })
}

describe('a QR code', () => {
  test('of a ticket is read by a camera as the ticket', async () => {
    const peer = Identity.generate().peerId
    const ticket = { peer, addresses: ['192.0.2.1:4400'], capability: new Uint8Array(16).fill(5) }
    const read = scan((await qrLines(writeTicket(ticket)))!)
    expect(read).toMatch(/^PEERLINE:[0-9A-Z]+$/)
    expect(readTicket(read)).toMatchObject(ticket)
  })

  test('has a border of light around it, and fits a terminal of 80 columns as a rule', async () => {
    const lines = (await qrLines(`peerline:${'y'.repeat(600)}`))!
    expect(new Set(lines.map((line) => line.length))).toEqual(new Set([69 + 8]))
    expect([lines[0], lines[1], lines.at(-2)?.trim()]).toEqual([' '.repeat(77), ' '.repeat(77), ''])
    for (const line of lines) expect(line).toMatch(/^ {4}.* {4}$/)
  })

  test('is not made of what is too long for one', async () => {
    expect(await qrLines('y'.repeat(4_296))).toBeDefined()
    expect(await qrLines('y'.repeat(4_297))).toBeUndefined()
  })
})
