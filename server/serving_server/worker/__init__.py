"""One process per loaded version: a graph, a Session, and threads that run batches found in shared memory."""
