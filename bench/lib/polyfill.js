/** js-libp2p 3 expects Promise.withResolvers, which Node 20 lacks. Import this before libp2p. */
Promise.withResolvers ??= () => {
  let resolve
  let reject
  const promise = new Promise((yes, no) => {
    resolve = yes
    reject = no
  })
  return { promise, resolve, reject }
}
