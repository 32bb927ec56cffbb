"""Exported files, run: one in a process of its own, several timed in turns, other processors emulated."""
