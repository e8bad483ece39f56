"""The channel between the front and a worker: shared memory for tensors, small packets to announce them.

Each *lane* is one thread of the worker with its own packet socket and its own pair of shared buffers, and carries one
batch at a time. So nothing on it needs a lock or an allocator: the request buffer is the front's while the lane is
free, the worker's while it runs, and the response buffer the other way round.
"""
