"""What peers do while things go wrong: one module a workload, with ``run(seat)``."""
