/**
 * What goes wrong, how it is brought about, and how it is known to be so.
 *
 * `bring` makes it happen, proves with plain sockets that it is in effect, and ends it. It gives the moments (ms, monotonic)
 * from which on connectivity was lost and was back; for what has no end of its own, they are the same moment. A fault that
 * is not in effect is `ERR_LAB_NO_FAULT`, not a good result.
 */
import { readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { now } from './chaos-kit.js'
import { LabError } from './errors.js'

/** ms that a probe waits for an answer which must come: 60 there and back, and the queues are full meanwhile. */
const ANSWER_MS = 3_000

/** ms that it waits for one which must not come; the second while a short fault lasts. */
const SILENCE_MS = 1_000
const SHORT_SILENCE_MS = 350

/** ms after which a host must know that its cable is out. */
const CARRIER_MS = 1_000

/** ms that looking takes besides. */
const SLACK_MS = 50

/**
 * @typedef {object} World what a fault may touch
 * @property {import('./lab.js').Lab} lab
 * @property {Side[]} sides both homes; the first is the one that is hit, when only one is
 * @property {Service[]} services servers that run, the one that carries most first
 * @property {(service: Service) => Promise<void>} restart starts a server again as it was
 *
 * @typedef {{ role: 'sender' | 'receiver', home: import('./home.js').Home, program: import('./chaos-program.js').Program, probe: Probe }} Side
 * @typedef {{ host: import('./home.js').Host, port: number, program: import('./chaos-program.js').Program }} Service
 * @typedef {{ tcp: Ask, udp: Ask, kept: Ask, addresses: () => Promise<string[]>, reach: (host: string, port: number) => Promise<Found> }} Probe
 * @typedef {(timeoutMs: number) => Promise<Found>} Ask
 * @typedef {{ ok: boolean, seen?: string, code?: string }} Found
 *
 * @typedef {object} Fault
 * @property {string} about one line
 * @property {number} [servers] how many both sides know; @default 1
 * @property {boolean} [dark] nothing can arrive while it lasts
 * @property {number} [reconnectMs] the window, when it is not the default
 * @property {number} [lastsMs]
 * @property {(kind: string) => 'whole' | 'error'} expects what must come of the transfer, by the kind of path
 * @property {(world: World) => Promise<{ from: number, until: number, hit: string }>} bring
 */

function mustBe(found, wanted, what) {
  if (found !== wanted) throw new LabError('ERR_LAB_NO_FAULT', `${what} is ${found}, not ${wanted}`)
}

async function answers(ask, what) {
  const { ok, code } = await ask(ANSWER_MS)
  if (!ok) throw new LabError('ERR_LAB_NO_FAULT', `no answer to ${what}: ${code}`)
}

const isSilent = async (ask, what, timeoutMs = SILENCE_MS) =>
  mustBe((await ask(timeoutMs)).ok, false, `that there is an answer to ${what}`)

/** A fault of one moment: `strike` does it. */
async function moment(strike) {
  const from = now()
  await strike()
  return { from, until: now() }
}

/** A fault that lasts: what `look` finds meanwhile must be so. */
async function span(lastsMs, begin, look, end) {
  const from = now()
  await begin()
  await look(false)
  // And once more towards the end: it may not have gone over by itself.
  await pause(from + lastsMs - SHORT_SILENCE_MS - SLACK_MS - now())
  await look(true)
  await pause(from + lastsMs - now())
  await end()
  return { from, until: now() }
}

const seconds = (ms) => (ms % 1_000 === 0 ? `${ms / 1_000} s` : `${ms} ms`)

/** The host's cable is pulled: its system sees that at once. */
const cable = (lastsMs) => ({
  about: `one host's cable is out for ${seconds(lastsMs)}, and it knows`,
  dark: true,
  lastsMs,
  bring: async ({ sides: [{ home, probe, role }] }) => {
    const times = await span(
      lastsMs,
      () => home.unplug(true),
      async (late) => {
        // The kernel takes up to a second to say so.
        if (late && lastsMs > CARRIER_MS) {
          mustBe((await probe.addresses()).length, 0, 'the number of addresses without a carrier')
        }
        await isSilent(probe.tcp, 'a TCP probe without a cable', SHORT_SILENCE_MS)
      },
      () => home.unplug(false),
    )
    await answers(probe.tcp, 'a TCP probe after that')
    return { ...times, hit: role }
  },
})

/** What lies behind the router is gone: nobody is told. */
const silence = (lastsMs) => ({
  about: `a router's uplink carries nothing for ${seconds(lastsMs)}, and nobody knows`,
  dark: true,
  lastsMs,
  bring: async ({ sides: [{ home, probe, role }] }) => {
    let before
    const times = await span(
      lastsMs,
      () => home.link.set({ up: false }),
      async () => {
        mustBe((await probe.addresses()).length, 1, 'the number of addresses')
        await isSilent(probe.tcp, 'a TCP probe over a silent uplink', SHORT_SILENCE_MS)
        const { out, in: inward } = await home.link.stats()
        before ??= out.frames + inward.frames
        mustBe(out.frames + inward.frames, before, 'the count of frames that came through')
      },
      () => home.link.set({ up: true }),
    )
    await answers(probe.tcp, 'a TCP probe after that')
    return { ...times, hit: role }
  },
})

const whole = () => 'whole'
const lost = () => 'error'

/** What a server does when it is killed: nothing listens there any more. */
async function killed(service, probe) {
  await service.program.kill()
  mustBe((await probe.reach(service.host.addresses.v4[0], service.port)).code, 'ECONNREFUSED', 'the port of the server')
}

/** @type {Record<string, Fault>} */
export const faults = {
  /** The control: what ends without any fault says nothing about one. */
  none: {
    about: 'nothing',
    expects: whole,
    bring: async () => ({ ...(await moment(async () => {})), hit: 'nobody' }),
  },
  reboot: {
    about: 'a router starts again: its mappings are lost, and it takes up no TCP in the middle',
    expects: whole,
    bring: async ({ sides: [{ home, probe, role }] }) => {
      await answers(probe.kept, 'a connection before the reboot')
      const times = await moment(() => home.reboot({ strict: true }))
      await isSilent(probe.kept, 'a connection from before the reboot')
      await answers(probe.tcp, 'a new connection')
      return { ...times, hit: role }
    },
  },
  address: {
    about: 'a router gets another public address',
    expects: whole,
    bring: async ({ sides: [{ home, probe, role }] }) => {
      mustBe((await probe.tcp(ANSWER_MS)).seen, home.publicAddress.v4, 'the public address')
      const before = home.publicAddress.v4
      const times = await moment(() => home.changeAddress())
      const { seen } = await probe.tcp(ANSWER_MS)
      mustBe(seen === before, false, 'that the public address is the old one')
      mustBe(seen, home.publicAddress.v4, 'the public address')
      await isSilent(probe.kept, 'a connection from the old address')
      return { ...times, hit: role }
    },
  },
  roam: {
    about: 'both hosts come into another network at once: other router, other addresses inside and outside',
    expects: whole,
    bring: async ({ sides }) => {
      const before = await Promise.all(sides.map(({ probe }) => probe.addresses()))
      const times = await moment(() => Promise.all(sides.map(({ home }) => home.roam())))
      for (const [at, { home, probe }] of sides.entries()) {
        mustBe((await probe.tcp(ANSWER_MS)).seen, home.publicAddress.v4, 'the public address')
        mustBe((await probe.addresses())[0] === before[at][0], false, 'that the address inside is the old one')
        await isSilent(probe.kept, 'a connection from the old network')
      }
      return { ...times, hit: 'both' }
    },
  },
  'relay-killed': {
    about: 'the server that carries the circuit is killed; both sides know another one',
    servers: 2,
    expects: whole,
    bring: async ({ services: [service], sides: [{ probe }] }) => {
      const times = await moment(() => service.program.kill())
      await killed(service, probe)
      return { ...times, hit: service.host.name }
    },
  },
  'server-restarts': {
    about: 'the only server is killed, and starts again after 3 s',
    lastsMs: 3_000,
    expects: whole,
    bring: async ({ services: [service], sides: [{ probe }], restart }) => {
      const from = now()
      await killed(service, probe)
      await pause(from + 3_000 - now())
      await restart(service)
      return { from, until: now(), hit: service.host.name }
    },
  },
  'udp-blocked': {
    about: 'a router lets no UDP through any more',
    // Where nothing but UDP was allowed, nothing else can help.
    expects: (kind) => (kind === 'webrtc' ? 'error' : 'whole'),
    bring: async ({ sides: [{ home, probe, role }] }) => {
      await answers(probe.udp, 'a UDP probe before that')
      const times = await moment(() => home.blockUdp(true))
      await isSilent(probe.udp, 'a UDP probe')
      await answers(probe.tcp, 'a TCP probe')
      return { ...times, hit: role }
    },
  },
  'cable-1s': { ...cable(1_000), expects: whole },
  'cable-5s': { ...cable(5_000), expects: whole },
  'cable-30s': { ...cable(30_000), expects: whole },
  'cable-90s': { ...cable(90_000), expects: lost },
  'cable-90s-wait': { ...patient(cable(90_000)), expects: whole },
  'silence-1s': { ...silence(1_000), expects: whole },
  'silence-5s': { ...silence(5_000), expects: whole },
  'silence-30s': { ...silence(30_000), expects: whole },
  'silence-90s': { ...silence(90_000), expects: lost },
  'silence-90s-wait': { ...patient(silence(90_000)), expects: whole },
  'stopped-3s': stopped(3_000),
  'stopped-20s': stopped(20_000),
}

/** The same where three minutes are given to come back. */
function patient(fault) {
  return { ...fault, about: `${fault.about}, with a window of 3 min`, reconnectMs: 180_000 }
}

/** One process stands still, as under a debugger or in a machine that is asleep. */
function stopped(lastsMs) {
  return {
    about: `one process is stopped for ${seconds(lastsMs)} (SIGSTOP)`,
    lastsMs,
    expects: whole,
    bring: async ({ sides: [{ program, role }] }) => {
      const state = () => /\) (\w) /.exec(readFileSync(`/proc/${program.pid}/stat`, 'utf8'))?.[1]
      const times = await span(
        lastsMs,
        async () => program.signal('SIGSTOP'),
        async () => {
          await pause(50) // it stops when it next runs
          mustBe(state(), 'T', 'the state of the process')
        },
        async () => program.signal('SIGCONT'),
      )
      return { ...times, hit: role }
    },
  }
}
