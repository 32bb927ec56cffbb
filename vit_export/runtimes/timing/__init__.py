"""Latencies that can be believed: rounds in turns, intervals of medians, ranks."""
