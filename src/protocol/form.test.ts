import fc from 'fast-check'
import { expect, test } from 'vitest'
import { splitForm, withForm } from './form.ts'

test('property: every form of a protocol leads back to it', () => {
  const names = fc.string({ minLength: 1, maxLength: 40 }).filter((name) => !name.includes(';'))
  fc.assert(
    fc.property(names, fc.constantFrom('plain', 'keyed', 'one-way'), (protocol, form) => {
      expect(splitForm(withForm(protocol, form))).toEqual({ protocol, form })
    }),
  )
})

test('a form that is not known, or no form, leaves the name as it is', () => {
  for (const name of ['', '/a/1', '/a/1;once/2', '/a/1;', ';once/1x']) {
    expect(splitForm(name)).toEqual({ protocol: name, form: 'plain' })
  }
})

test('no protocol has a form in its name', () => {
  for (const name of ['', '/a;b', '/a/1;once/1']) {
    expect(() => withForm(name, 'plain')).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  }
})
