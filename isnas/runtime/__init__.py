"""The ground of every other part: errors, files, randomness, processes, progress, memory. No science."""
