"""What all benchmarks share: turns, checks of answers, load, processes, reports."""
