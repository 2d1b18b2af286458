/**
 * Typed events on the platform's own EventTarget, so that Node and browsers are served alike.
 */

/** An EventTarget whose event names and details are known. `E` maps a name to the detail of its `CustomEvent`. */
export class TypedEventTarget<E extends Record<string, unknown>> {
  readonly #target = new EventTarget()
  /** Names that somebody has listened for. */
  readonly #heard = new Set<string>()

  addEventListener<K extends keyof E & string>(
    type: K,
    listener: (event: CustomEvent<E[K]>) => void,
    options?: AddEventListenerOptions,
  ): void {
    this.#heard.add(type)
    this.#target.addEventListener(type, listener as EventListener, options)
  }

  removeEventListener<K extends keyof E & string>(type: K, listener: (event: CustomEvent<E[K]>) => void): void {
    this.#target.removeEventListener(type, listener as EventListener)
  }

  /** @internal Tells the listeners; what one of them throws is reported as Node does and disturbs nobody else. */
  emit<K extends keyof E & string>(type: K, detail: E[K]): void {
    // An event that nobody ever listened for costs a look.
    if (this.#heard.has(type)) this.#target.dispatchEvent(new CustomEvent(type, { detail }))
  }
}
