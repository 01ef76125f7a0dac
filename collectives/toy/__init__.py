"""A small model and a text to train it on: for the demo and the chaos harness."""
