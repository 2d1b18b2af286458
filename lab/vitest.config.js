import { defineConfig } from 'vitest/config'

// biome-ignore lint/style/noDefaultExport: this is how vitest reads it
export default defineConfig({
  test: {
    include: ['lab/**/*.test.js'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: 'forks',
    fileParallelism: false, // labs would take the cores from each other's cables
    maxConcurrency: 2, // of tests that mostly wait, each in a lab of its own
  },
})
