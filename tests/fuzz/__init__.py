"""Files that no tool writes, for every reader: `python -m fuzz` in tests/, or `make fuzz`."""
