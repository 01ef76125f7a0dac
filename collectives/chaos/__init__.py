"""The chaos harness: puts a run through faults, and proves by its journals what was promised."""
