export type { DeadLetter } from './dead-letters.ts'
export type { TaskHandle, TaskOrigin, TaskResult, TaskState } from './job.ts'
export {
  type OverlapPolicy,
  type RoutineEvents,
  type RoutineOptions,
  type RoutineResult,
  type RoutineState,
  type RoutineStatus,
  Routines,
} from './routines.ts'
export {
  checkTask,
  decodeTask,
  encodeTask,
  isTaskKind,
  type KnownTask,
  MAX_TASK_BYTES,
  type Setting,
  TASK_KINDS,
  type Task,
  type TaskKind,
  type TaskOf,
  type UnknownTask,
} from './task.ts'
export {
  type AddTaskOptions,
  type Executor,
  type TaskContext,
  type TaskEvents,
  TaskQueue,
  type TaskQueueOptions,
} from './task-queue.ts'
