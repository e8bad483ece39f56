"""Clients that others wrote, against both gRPC transports; and one that writes each frame as a test wants it."""
