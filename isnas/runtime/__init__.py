"""What every part stands on: errors, files, randomness, processes, progress, memory. No science."""
