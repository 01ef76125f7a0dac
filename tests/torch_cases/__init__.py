"""Training scripts that are the same with every backend, in small.

A *case* is a function of (rank, world), called inside an initialised process group, that trains or
computes something and returns what it came to, as a dict of tensors. It names no backend, and may
not depend on what differs between runs. `training.same_numbers` runs it by Gloo and by this library
and compares.
"""
