"""Measurement, in the conventions of nccl-tests.

``collectives bench`` is the command line of this package. `sweep.run` is the conductor of a run: it
measures one operation over many sizes and checks every element; `collective` has what each
operation takes and gives. `ranks` starts a process for each rank of each library (or takes those
of a `launcher`), `worker` is what runs in them, `libraries` what they call. `crowd` and `latency`
look at small operations; `overhead.measure` tells what Python adds to a call. What the columns mean
is in ``docs/performance.md``.
"""
