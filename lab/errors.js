/** What goes wrong in the lab itself, apart from what goes wrong in the code it tests. */

/**
 * - `ERR_LAB_UNAVAILABLE`: this machine cannot run a lab; the message says what is missing
 * - `ERR_LAB_NAT_MISMATCH`: a home does not do what its name says; `differences` holds expected and found
 * - `ERR_LAB_COMMAND`: ip, nft, the forwarder or a process in a host failed
 * - `ERR_LAB_TIMEOUT`: a process in a host did not answer in time
 * - `ERR_LAB_UNKNOWN`: no such kind, host, home, link or preset
 * - `ERR_LAB_NO_FAULT`: what was to go wrong in the network did not
 * - `ERR_LAB_UNSUPPORTED`: the system under test has no such thing
 *
 * @typedef {'ERR_LAB_UNAVAILABLE' | 'ERR_LAB_NAT_MISMATCH' | 'ERR_LAB_COMMAND' | 'ERR_LAB_TIMEOUT' | 'ERR_LAB_UNKNOWN' | 'ERR_LAB_NO_FAULT' | 'ERR_LAB_UNSUPPORTED'} LabErrorCode
 * @typedef {{ home: string, what: string, expected: unknown, found: unknown }} Difference
 */
export class LabError extends Error {
  name = 'LabError'
  /** @type {Difference[]} what a probe found that a name does not promise; empty for other codes */
  differences = []

  /**
   * @param {LabErrorCode} code
   * @param {string} message
   * @param {{ cause?: unknown, differences?: Difference[] }} [options]
   */
  constructor(code, message, { cause, differences = [] } = {}) {
    super(message, { cause })
    this.code = code
    this.differences = differences
  }
}
