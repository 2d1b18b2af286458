export type { DeadLetter } from './dead-letters.ts'
export type { TaskHandle, TaskOrigin, TaskResult } from './job.ts'
export {
  type OverlapPolicy,
  type RoutineOptions,
  type RoutineStatus,
  Routines,
} from './routines.ts'
export {
  decodeTask,
  encodeTask,
  type KnownTask,
  type Setting,
  type Task,
  type TaskKind,
} from './task.ts'
export {
  type AddTaskOptions,
  type Executor,
  TaskQueue,
  type TaskQueueOptions,
} from './task-queue.ts'
