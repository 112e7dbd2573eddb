"""Before a run: what fits, how fast it can be at best, what it will cost; stages are read by the fields that they declare."""
