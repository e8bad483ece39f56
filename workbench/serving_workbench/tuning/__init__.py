"""Batching tuned for a latency objective: measure the service time, simulate the queue, verify few by real load."""
