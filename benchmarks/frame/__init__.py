"""What the benchmarks share: timers, child processes, learners, result files, tables, pictures."""
