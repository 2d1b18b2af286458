import { describe, expect, test } from 'vitest'
import { Identity } from '../identity/index.ts'
import { readTicket, writeTicket } from '../identity/ticket.ts'
import { usable } from './joining.ts'

const peer = Identity.generate().peerId

describe('a ticket from anybody', () => {
  test('is used as far as it makes sense', () => {
    const addresses = [
      '',
      'nowhere',
      '0.0.0.0:1',
      '192.0.2.1:0',
      '\u001b[2J',
      '239.0.0.1:5',
      '192.0.2.1:4400',
      '[2001:db8::1]:5',
    ]
    const server = `ws://192.0.2.9:4400#${peer}`
    const rendezvous = ['x', 'http://192.0.2.9', 'ws://192.0.2.9:4400', server]
    const ticket = readTicket(writeTicket({ peer, addresses, rendezvous }))
    expect(usable(ticket)).toEqual({ addresses: addresses.slice(6), rendezvous: [server] })
  })
})
