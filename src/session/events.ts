export { TypedEventTarget } from '../events.ts'
