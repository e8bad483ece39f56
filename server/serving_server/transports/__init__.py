"""gRPC on the wire. A transport translates; what a request means is decided in `serving_server.inference`."""
