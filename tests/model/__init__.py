"""The agreement explored exhaustively: every state of a few peers, a coordinator and a bad network.

``core`` calls the pure code of the engine, ``rules`` that of the coordinator; ``world`` says what
can happen, ``moves`` does it, ``forget`` drops what can matter no more, ``symmetry`` takes states
for one that differ in names only, ``explore`` walks, ``mutants`` break one rule each, and
``configurations`` says who takes part and how many faults there are.
"""
