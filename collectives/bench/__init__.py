"""Measurement, in the conventions of nccl-tests.

``collectives bench`` is the command line of this package. `sweep.run` measures one operation over
many sizes in real processes and checks every element; `overhead.measure` tells what Python adds
to a call. What the columns mean is in ``docs/performance.md``.
"""
