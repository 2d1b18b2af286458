/** What is used here of `udx-native`, which comes without types. */
declare module 'udx-native' {
  import type { UdxEngine } from './udp-engine.ts'

  const UDX: new () => UdxEngine
  // biome-ignore lint/style/noDefaultExport: it is theirs
  export default UDX
}
