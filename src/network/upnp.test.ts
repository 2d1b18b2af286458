import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import {
  elementText,
  externalAddress,
  type Igd,
  mapByUpnp,
  readDescription,
  readSearchAnswer,
  unmapByUpnp,
} from './upnp.ts'

const signal = new AbortController().signal
const LOCATION = new URL('http://192.168.1.1:5000/root.xml')

describe('an answer to a search', () => {
  const answer = (location: string, status = '200 OK') =>
    `HTTP/1.1 ${status}\r\nCACHE-CONTROL: max-age=120\r\nST: x\r\nLocation: ${location}\r\nSERVER: y\r\n\r\n`

  test('says where the description is', () => {
    expect(readSearchAnswer(answer(LOCATION.href), '192.168.1.1')?.href).toBe(LOCATION.href)
  })

  test.each([
    ['on another machine', answer('http://192.168.1.2:5000/root.xml')],
    ['on loopback', answer('http://127.0.0.1/root.xml')],
    ['on loopback by name', answer('http://localhost/root.xml')],
    ['with a user', answer('http://192.168.1.1@192.168.1.2/')],
    ['with a password', answer('http://a:b@192.168.1.1/')],
    ['by TLS', answer('https://192.168.1.1/root.xml')],
    ['in a file', answer('file:///etc/passwd')],
    ['of no URL', answer('root.xml')],
    ['far too long', answer(`http://192.168.1.1/${'x'.repeat(600)}`)],
    ['with another status', answer(LOCATION.href, '404 Not Found')],
    ['none', 'HTTP/1.1 200 OK\r\nST: x\r\n\r\n'],
    ['that is a search', `M-SEARCH * HTTP/1.1\r\nLOCATION: ${LOCATION.href}\r\n\r\n`],
  ])('with a location %s is passed over', (_, text) => {
    expect(readSearchAnswer(text, '192.168.1.1')).toBeUndefined()
  })
})

describe('a description', () => {
  const service = (type: string, control: string) =>
    `<service><serviceType>urn:schemas-upnp-org:service:${type}</serviceType><serviceId>x</serviceId>` +
    `<SCPDURL>/x.xml</SCPDURL><controlURL>${control}</controlURL></service>`
  const read = (...parts: string[]) => readDescription(`<root>${parts.join('\n')}</root>`, LOCATION, '192.168.1.7')

  test.each<[string, string[], string]>([
    ['a path', [service('WANIPConnection:1', '/ctl/IPConn')], 'http://192.168.1.1:5000/ctl/IPConn'],
    ['a relative path', [service('WANIPConnection:2', 'ctl?a=1&amp;b=2')], 'http://192.168.1.1:5000/ctl?a=1&b=2'],
    ['a URL', [service('WANPPPConnection:1', 'http://192.168.1.1:80/c')], 'http://192.168.1.1/c'],
    [
      'a base',
      ['<URLBase>http://192.168.1.1:49152/</URLBase>', service('WANIPConnection:1', 'c')],
      'http://192.168.1.1:49152/c',
    ],
    ['a base that is none', ['<URLBase>x</URLBase>', service('WANIPConnection:1', '/c')], 'http://192.168.1.1:5000/c'],
    [
      'the service behind others',
      [
        service('Layer3Forwarding:1', '/f'),
        service('WANCommonInterfaceConfig:1', '/w'),
        service('WANIPConnection:1', '/c'),
      ],
      'http://192.168.1.1:5000/c',
    ],
  ])('with %s', (_, parts, url) => {
    expect(read(...parts)?.controlUrl.href).toBe(url)
  })

  test.each<[string, string[]]>([
    ['a URL on another machine', [service('WANIPConnection:1', 'http://10.0.0.1/c')]],
    [
      'a base on another machine',
      ['<URLBase>http://10.0.0.1/</URLBase>', service('WANIPConnection:1', '//10.0.0.2/c')],
    ],
    ['a URL of another kind', [service('WANIPConnection:1', 'javascript:1')]],
    ['other services', [service('WANCommonInterfaceConfig:1', '/c')]],
    ['a type that only starts like it', [service('WANIPConnection:12', '/c')]],
    [
      'a service without a URL',
      ['<service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType></service>'],
    ],
    ['nothing', []],
  ])('with %s is of no use', (_, parts) => {
    expect(read(...parts)).toBeUndefined()
  })

  test('made to be slow to read is not', () => {
    const started = performance.now()
    for (const part of ['<service>', '</service>', '<serviceType>', '<controlURL>', '<URLBase>', '&amp;', '<']) {
      expect(read(part.repeat(131_072 / part.length))).toBeUndefined()
    }
    expect(performance.now() - started).toBeLessThan(1_000)
  })

  test('of any text is read or passed over', () => {
    const piece = fc.oneof(
      fc.string({ maxLength: 20 }),
      fc.constantFrom('<service>', '</service>', '<serviceType>', '</serviceType>', '<controlURL>', '</controlURL>'),
      fc.constantFrom('urn:schemas-upnp-org:service:WANIPConnection:1', '/c', 'http://', '<URLBase>', '</URLBase>'),
    )
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 20 }), (pieces) => {
        const igd = readDescription(pieces.join(''), LOCATION, '192.168.1.7')
        readSearchAnswer(pieces.join(''), '192.168.1.1')
        return igd === undefined || igd.controlUrl.hostname === '192.168.1.1'
      }),
      { numRuns: 500 },
    )
  })
})

test('the text of an element is read without its entities and blanks', () => {
  expect(elementText('<a>1</a><b> x &lt;&amp;lt;&apos; </b>', 'b')).toBe("x <&lt;'")
  expect(elementText('<b>', 'b')).toBeUndefined()
  expect(elementText('', 'b')).toBeUndefined()
  expect(elementText(`<b>${'x'.repeat(513)}</b>`, 'b')).toBeUndefined()
})

describe('a router', () => {
  const servers: Server[] = []
  afterEach(async () => {
    for (const server of servers.splice(0)) {
      server.closeAllConnections()
      await once(server.close(), 'close')
    }
  })

  interface Asked {
    action: string
    values: Record<string, string>
  }

  /** Answers SOAP as the test likes: with values, or with the number of a fault. */
  async function router(answer: (asked: Asked) => Record<string, string | number> | number) {
    const asked: Asked[] = []
    const igd = await serve(async (request, response) => {
      let body = ''
      for await (const chunk of request) body += chunk
      const action = /#(\w+)"$/.exec(String(request.headers.soapaction))![1]!
      const values = Object.fromEntries([...body.matchAll(/<(New\w+)>([^<]*)</g)].map(([, name, text]) => [name, text]))
      asked.push({ action, values })
      const said = answer({ action, values })
      const xml =
        typeof said === 'number'
          ? `<s:Fault><detail><UPnPError><errorCode>${said}</errorCode></UPnPError></detail></s:Fault>`
          : `<u:${action}Response>${Object.entries(said).map(([name, text]) => `<${name}>${text}</${name}>`)}</u:${action}Response>`
      response.writeHead(typeof said === 'number' ? 500 : 200, { 'Content-Type': 'text/xml' })
      response.end(`<s:Envelope><s:Body>${xml}</s:Body></s:Envelope>`)
    })
    return { igd, asked }
  }

  async function serve(handle: (request: IncomingMessage, response: ServerResponse) => unknown): Promise<Igd> {
    const server = createServer(handle).listen(0, '127.0.0.1')
    servers.push(server)
    await once(server, 'listening')
    const controlUrl = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/ctl`)
    return { controlUrl, serviceType: 'urn:schemas-upnp-org:service:WANIPConnection:1', localAddress: '127.0.0.1' }
  }

  const WANTED = { protocol: 'udp', internalPort: 4_000, externalPort: 4_000, lifetime: 600 } as const
  const outside = { NewExternalIPAddress: '11.22.33.1' }
  const adding = (asked: Asked[]) =>
    asked.filter(({ action }) => action === 'AddPortMapping').map(({ values }) => values)

  test('is asked for a mapping to our address, and to take it back', async () => {
    const { igd, asked } = await router(({ action }) => (action === 'GetExternalIPAddress' ? outside : {}))
    expect(await mapByUpnp(igd, WANTED, { signal })).toEqual({
      external: { host: '11.22.33.1', port: 4_000, family: 4 },
      internalHost: '127.0.0.1',
      lifetime: 600,
    })
    expect(adding(asked)).toEqual([
      {
        NewRemoteHost: '',
        NewExternalPort: '4000',
        NewProtocol: 'UDP',
        NewInternalPort: '4000',
        NewInternalClient: '127.0.0.1',
        NewEnabled: '1',
        NewPortMappingDescription: 'peerline',
        NewLeaseDuration: '600',
      },
    ])
    await unmapByUpnp(igd, WANTED, { signal })
    expect(asked.at(-1)).toEqual({
      action: 'DeletePortMapping',
      values: { NewRemoteHost: '', NewExternalPort: '4000', NewProtocol: 'UDP' },
    })
  })

  test('whose port is taken, and that knows only mappings without end, is asked accordingly', async () => {
    const { igd, asked } = await router(({ action, values }) => {
      if (action === 'GetExternalIPAddress') return outside
      if (values.NewExternalPort === '4000') return 718
      return values.NewLeaseDuration === '0' ? {} : 725
    })
    const { external, lifetime } = await mapByUpnp(igd, WANTED, { signal })
    expect(adding(asked).map(({ NewLeaseDuration }) => NewLeaseDuration)).toEqual(['600', '600', '0'])
    expect(external.port).toBe(Number(adding(asked).at(-1)!.NewExternalPort))
    expect(external.port).toBeGreaterThanOrEqual(49_152)
    expect(lifetime).toBe(600)
  })

  test.each([
    [718, 4],
    [724, 4],
    [725, 2],
  ])('that says nothing but %i is asked %i times', async (fault, times) => {
    const { igd, asked } = await router(({ action }) => (action === 'GetExternalIPAddress' ? outside : fault))
    const mapping = mapByUpnp(igd, WANTED, { signal })
    await expect(mapping).rejects.toMatchObject({ code: 'ERR_PEERLINE_REMOTE' })
    expect(adding(asked).length).toBe(times)
  })

  test('that refuses is asked once', async () => {
    const { igd, asked } = await router(({ action }) => (action === 'GetExternalIPAddress' ? outside : 606))
    const mapping = mapByUpnp(igd, WANTED, { signal })
    await expect(mapping).rejects.toMatchObject({ code: 'ERR_PEERLINE_REMOTE', message: expect.stringMatching(/606/) })
    expect(adding(asked).length).toBe(1)
  })

  test.each([[{}], [{ NewExternalIPAddress: '' }], [{ NewExternalIPAddress: 'evil.example' }]])(
    'without an address outside, as in %j, is not asked for a mapping',
    async (said: Record<string, string>) => {
      const { igd, asked } = await router(() => said)
      await expect(mapByUpnp(igd, WANTED, { signal })).rejects.toMatchObject({ code: 'ERR_PEERLINE_REMOTE' })
      expect(adding(asked)).toEqual([])
    },
  )

  test('that never stops talking is cut off', async () => {
    let sent = 0
    const igd = await serve((_, response) => {
      const more = () => {
        while (!response.destroyed && response.write('x'.repeat(10_000))) sent += 10_000
      }
      response.on('drain', more)
      response.on('error', () => {})
      more()
    })
    await expect(externalAddress(igd, { signal })).rejects.toMatchObject({ code: 'ERR_PEERLINE_TOO_LARGE' })
    expect(sent).toBeLessThan(20_000_000)
  })

  test('that sends us elsewhere is not followed', async () => {
    let visits = 0
    const igd = await serve((request, response) => {
      visits++
      response.writeHead(307, { Location: `http://${request.headers.host}/elsewhere` }).end()
    })
    await expect(externalAddress(igd, { signal })).rejects.toMatchObject({ code: 'ERR_PEERLINE_REMOTE' })
    expect(visits).toBe(1)
  })

  test('that answers with something else broke the protocol', async () => {
    const igd = await serve((_, response) => response.end('<html>hello</html>'))
    await expect(externalAddress(igd, { signal })).rejects.toMatchObject({ code: 'ERR_PEERLINE_PROTOCOL' })
  })

  test('that hangs up, or is silent, is unreachable', async () => {
    const gone = await serve((request) => request.socket.destroy())
    await expect(externalAddress(gone, { signal })).rejects.toMatchObject({ code: 'ERR_PEERLINE_UNREACHABLE' })
    const half = await serve((_, response) => {
      response.writeHead(200, { 'Content-Length': 100 })
      response.write('half', () => response.destroy())
    })
    await expect(externalAddress(half, { signal })).rejects.toMatchObject({ code: 'ERR_PEERLINE_UNREACHABLE' })
    const silent = await serve(() => {})
    const cancelled = externalAddress(silent, { signal: AbortSignal.timeout(20) })
    await expect(cancelled).rejects.toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
  })
})
