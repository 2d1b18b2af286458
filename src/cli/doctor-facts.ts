/**
 * What `peerline doctor` looks at, and what it found: plain JSON. doctor-verdict.ts says what follows from it.
 *
 *     rendezvous ──> reflectors ──> mapping, filtering, hairpin, lifetime, TCP, IPv6
 *     router, local network, packages                                                  meanwhile
 *
 * Nothing here fails because something does not work: that is what is to be found out.
 */
import type { PinnedServerUrl } from '../connect/index.ts'
import { formatHostPort, type LocalAddress, localAddresses } from '../network/address.ts'
import { type DiagnosisStep, diagnoseNat } from '../network/nat-diagnosis.ts'
import { resolveReflectors } from '../network/nat-reflectors.ts'
import type { NatDiagnosis } from '../network/nat-report.ts'
import { examineLan, examinePackages, type LanFacts, type PackageFacts } from './doctor-machine.ts'
import { examineRouter, type RouterFacts } from './doctor-router.ts'
import { examineServer, type ServerFacts } from './doctor-server.ts'

export interface DoctorFacts {
  /** Of this machine, without loopback. */
  readonly addresses: readonly LocalAddress[]
  readonly rendezvous: readonly ServerFacts[]
  /** Names given with `--reflector` that lead to no address. */
  readonly notFound: readonly string[]
  /** Undefined when there was nobody to ask. */
  readonly nat: NatDiagnosis | undefined
  /** Undefined when it was not to be asked. */
  readonly router: RouterFacts | undefined
  /** Undefined when it was not to be tried. */
  readonly lan: LanFacts | undefined
  readonly packages: PackageFacts
}

export type Step = DiagnosisStep | 'rendezvous' | 'router' | 'lan'

export interface ExamineOptions {
  readonly rendezvous: readonly PinnedServerUrl[]
  /** Besides those of the rendezvous, `host:port`. */
  readonly reflectors: readonly string[]
  /** How long to wait for a mapping to go, ms; 0: do not. */
  readonly longestIdleMs: number
  readonly router: boolean
  readonly lan: boolean
  readonly signal: AbortSignal
  readonly onProgress: (step: Step, state: 'started' | 'finished') => void
}

/** Looks at everything. @throws PeerlineError what the signal says */
export async function examine(options: ExamineOptions): Promise<DoctorFacts> {
  const { onProgress } = options
  // What is aside ends with the rest: a mapping must not be left at the router.
  const stop = new AbortController()
  const signal = AbortSignal.any([options.signal, stop.signal])
  const step = async <T>(name: Step, wanted: boolean, work: () => Promise<T>): Promise<T | undefined> => {
    if (!wanted) return undefined
    onProgress(name, 'started')
    const found = await work()
    onProgress(name, 'finished')
    return found
  }
  const aside = [
    step('router', options.router, () => examineRouter(signal)),
    step('lan', options.lan, () => examineLan(signal)),
    examinePackages(),
  ] as const
  // Looked at below; until then, nobody need hear that one was stopped.
  for (const one of aside) one.catch(() => {})
  try {
    const { rendezvous, notFound, nat } = await examineOutside({ ...options, signal }, step)
    const [router, lan, packages] = await Promise.all(aside)
    return { addresses: localAddresses(), rendezvous, notFound, nat, router, lan, packages }
  } finally {
    stop.abort()
    await Promise.allSettled(aside)
  }
}

type Stepper = <T>(name: Step, wanted: boolean, work: () => Promise<T>) => Promise<T | undefined>

/** The servers, and what they and their reflectors see of us. */
async function examineOutside(
  { rendezvous: urls, reflectors: names, longestIdleMs, signal, onProgress }: ExamineOptions,
  step: Stepper,
): Promise<Pick<DoctorFacts, 'rendezvous' | 'notFound' | 'nat'>> {
  const rendezvous =
    (await step('rendezvous', urls.length > 0, () => Promise.all(urls.map((url) => examineServer(url, signal))))) ?? []
  const own = await Promise.all(names.map((name) => resolveReflectors([name], { signal, trusted: true })))
  const notFound = names.filter((_, at) => own[at]!.length === 0)
  const ofServers = await Promise.all(
    rendezvous.map(async (server, at) => {
      const { host, port } = urls[at]!
      const itself = await resolveReflectors([formatHostPort(host, port)], { signal, trusted: true })
      return [...itself, ...(server.reached ? await resolveReflectors(server.reflectors, { signal, at: host }) : [])]
    }),
  )
  const reflectors = [...own.flat(), ...ofServers.flat()]
  if (reflectors.length === 0) return { rendezvous, notFound, nat: undefined }
  const nat = await diagnoseNat({
    reflectors,
    signal,
    longestIdleMs,
    onProgress: ({ step: name, state }) => {
      if (name !== 'lifetime' || longestIdleMs > 0) onProgress(name, state)
    },
  })
  return { rendezvous, notFound, nat }
}
