/**
 * What is asked of two sessions after a schedule: invariants 1, 5 and 6 of the design.
 *
 * - Inside of the window nothing is lost, and both sides end in order. Beyond it every stream that is still open fails, at
 *   both sides, with the one typed error that its session ended with.
 * - What was read is what was written, from the first byte on; `traffic.ts` sees to that as it comes. An end in order was
 *   read only by those who have read all.
 * - No wait is left, no timer, no path.
 */
import { isPeerlineError, type PeerlineError } from '../../src/errors.ts'
import { other, SIDES, type Side } from './lane.ts'
import type { Simulation } from './simulation.ts'
import type { Flow, FlowEnd } from './traffic.ts'

/** ms that a session may take to close when nothing is in its way: no drain runs into its deadline. */
const QUICK_CLOSE_MS = 9_000

/** What sessions may end with, when every link was lost for too long. */
const LOST: readonly string[] = ['ERR_PEERLINE_PATH_LOST', 'ERR_PEERLINE_UNKNOWN_SESSION']

export function judge(world: Simulation): void {
  for (const side of SIDES) judgeEnd(world, side)
  for (const flow of world.traffic.flows) judgeFlow(world, flow)
  for (const side of SIDES) judgeRemains(world, side)
  world.sides.judgeCandidates(!world.mayEnd)
}

/** How each session may have ended. */
function judgeEnd(world: Simulation, side: Side): void {
  const { aborted, closedAt, crashed, ends, opened } = world.sides
  const foreign = other(side)
  if (crashed[side]) return
  const end = ends[side]
  if (end === undefined) return world.complain(`the session of ${side} has not ended`)
  const { error } = end
  const closed = closedAt[0] !== undefined || closedAt[1] !== undefined
  if (error === undefined) {
    if (!closed) world.complain(`${side} ended in order, and nobody had closed it`)
    return
  }
  const { code } = error
  if (!isPeerlineError(error)) return world.complain(`${side} ended with ${error}`)
  if (code === 'ERR_PEERLINE_DENIED' && (aborted[side] || aborted[foreign])) return
  const never = code === 'ERR_PEERLINE_NO_PATH' && !opened[side]
  if (!never && !LOST.includes(code)) return world.complain(`${side} ended with ${code}: ${error.message}`)
  if (!world.mayEnd && !world.ending) world.complain(`${side} ended with ${code}, though it could have survived`)
  // The last to go is the one that is told; when all is well, nobody is.
  if (world.ending && world.allWork) world.complain(`${side} was not told of the end: ${code}`)
}

/** How an end of a flow may have come about, when its own plan says nothing of it. */
function isSessionEnd(world: Simulation, side: Side, end: PeerlineError): boolean {
  const of = world.sides.ends[side]
  if (of === undefined) return false
  return of.error === undefined ? end.code === 'ERR_PEERLINE_CLOSED' : end === of.error
}

function judgeFlow(world: Simulation, flow: Flow): void {
  const { plan, reader, writer } = flow
  const { closedAt } = world.sides
  const twin = world.traffic.flows.find((one) => one !== flow && one.index === flow.index)!
  // What is opened while the other side closes is refused.
  const refused = closedAt[other(flow.opener)] !== undefined && !flow.begun[other(flow.opener)]
  // A stream that is reset ends both ways, and what it ends may have been over, or under way.
  const reset = plan.end === 'reset' || twin.plan.end === 'reset' || refused
  judgeFlowEnd(world, flow, writer, 'writer', flow.writeEnd, reset || plan.cancelAt !== undefined)
  judgeFlowEnd(world, flow, reader, 'reader', flow.readEnd, reset)
  if (flow.readEnd === 'done' && (flow.finishedAt === undefined || flow.read !== flow.total)) {
    world.complain(`${flow.name}: ended in order after ${flow.read} of ${flow.total} bytes`)
  }
  if (reset) return
  const read = flow.readEnd === 'done' || flow.readEnd === 'cancelled'
  if (!world.mayEnd) {
    if (flow.writeEnd !== 'done' && plan.cancelAt === undefined)
      world.complain(`${flow.name}: was not written to its end`)
    if (!read) world.complain(`${flow.name}: was not read to its end`)
  } else if (!read && mustHaveCome(world, flow)) {
    world.complain(`${flow.name}: was finished before the session was closed, and ended with ${describe(flow.readEnd)}`)
  }
}

/** @param may it may have been given up by the other side */
function judgeFlowEnd(
  world: Simulation,
  { name, begun }: Flow,
  side: Side,
  who: string,
  end: FlowEnd | undefined,
  may: boolean,
): void {
  if (world.sides.crashed[side] || typeof end === 'string') return
  if (end === undefined) {
    if (begun[side]) world.complain(`${name}: its ${who} waits for ever`)
    return
  }
  // Opening one fails as soon as this side closes.
  const closing = !begun[side] && end.code === 'ERR_PEERLINE_CLOSED' && world.sides.closedAt[side] !== undefined
  if (closing || isSessionEnd(world, side, end) || (may && isGivenUp(end))) return
  world.complain(`${name}: its ${who} failed with ${describe(end)}`)
}

/** True when a side has closed in order, and was not held up: then all came that it had finished before. */
function mustHaveCome({ sides }: Simulation, { writer, reader, finishedAt }: Flow): boolean {
  const [mine, theirs, closedAt] = [sides.ends[writer], sides.ends[reader], sides.closedAt[writer]]
  if (closedAt === undefined || sides.closedAt[reader] !== undefined) return false
  if (sides.aborted[0] || sides.aborted[1] || sides.crashed[reader]) return false
  if (mine === undefined || mine.error !== undefined || theirs === undefined || theirs.error !== undefined) return false
  return mine.ms - closedAt <= QUICK_CLOSE_MS && finishedAt !== undefined && finishedAt <= closedAt
}

/** What the two ends of a stream get to see when one of them gives it up. */
function isGivenUp(end: PeerlineError): boolean {
  return end.code === 'ERR_PEERLINE_RESET' || end.code === 'ERR_PEERLINE_CLOSED'
}

function describe(end: FlowEnd | undefined): string {
  return end === undefined || typeof end === 'string' ? String(end) : `${end.code}: ${end.message}`
}

/** Nothing is left behind. */
function judgeRemains(world: Simulation, side: Side): void {
  if (world.sides.crashed[side]) return
  const timers = world.clock.timersOf(side)
  if (timers > 0) world.complain(`${side} has left ${timers} timers`)
  for (const { ends } of world.network.links) {
    const end = ends[side]
    if (end.taken && !end.ended && !end.closing) world.complain(`${side} has left ${end.remote} open`)
  }
  const { streams } = world.sides.sessions[side]
  if (streams > 0) world.complain(`${side} has left ${streams} streams`)
}
