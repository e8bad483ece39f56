"""HTTP/2 (RFC 9113) and gRPC's framing on it, on asyncio protocols: no task, future or thread per request.

From the bytes up: `frames`, `settings`, `headers` (HPACK by the `hpack` package), `flow` (both windows), `messages` and
`grpc_status` (what gRPC puts into DATA and trailers), `call` (one request at the server), `connection` (what both ends
share), `server_connection`, `server`. `limits` bounds it all.
"""
