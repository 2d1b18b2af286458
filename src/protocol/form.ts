/**
 * The forms of a request, told by the name that its stream is opened for.
 *
 *     /greet/1            plain       one request, one answer: as it always was                    request.ts
 *     /greet/1;once/1     keyed       the same with a key: executed once, however often it comes   once.ts
 *     /greet/1;send/1     one-way     no answer                                                    one-way.ts
 *
 * - The form carries the version of its wire. A peer that does not know one refuses it with NO_PROTOCOL, before anything
 *   is executed, and goes on with the plain form.
 * - Rules and handlers are those of the protocol, whatever the form: whoever decides or looks up does so by the name that
 *   {@link splitForm} gives. A name of a protocol therefore has no `;`.
 */
import { PeerlineError } from '../errors.ts'

export type RequestForm = 'plain' | 'keyed' | 'one-way'

const SUFFIX: Readonly<Record<RequestForm, string>> = { plain: '', keyed: ';once/1', 'one-way': ';send/1' }

/** The name to open a stream for. @throws PeerlineError `ERR_PEERLINE_INVALID` when `protocol` has a form already */
export function withForm(protocol: string, form: RequestForm): string {
  checkName(protocol)
  return protocol + SUFFIX[form]
}

/** The protocol and the form that a stream was opened for. A form that is not known stays in the name: nobody handles it. */
export function splitForm(name: string): { readonly protocol: string; readonly form: RequestForm } {
  if (name.includes(';')) {
    for (const form of ['keyed', 'one-way'] as const) {
      if (name.endsWith(SUFFIX[form])) return { protocol: name.slice(0, -SUFFIX[form].length), form }
    }
  }
  return { protocol: name, form: 'plain' }
}

/** @throws PeerlineError `ERR_PEERLINE_INVALID` for a name that no protocol may have */
export function checkName(protocol: string): void {
  if (typeof protocol === 'string' && protocol.length > 0 && !protocol.includes(';')) return
  throw new PeerlineError('ERR_PEERLINE_INVALID', 'a protocol has a name, without a semicolon')
}
