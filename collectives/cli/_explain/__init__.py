"""What ``collectives explain`` reads, prints and draws."""
