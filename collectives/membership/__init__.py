"""Who is in the run: pure state machines (coordinator, peer) and their thin I/O shells."""
