"""HTTP/2 (RFC 9113) and gRPC's framing on it, on asyncio protocols: no task, future or thread per request.

What both ends need: `frames`, `settings`, `field_decoder` (HPACK around the `hpack` package's table and Huffman
code), `reader` (bytes to frames), `flow` (what goes out, within the peer's windows), `connection`; `messages` and
`grpc_status` are what gRPC puts into DATA and trailers. The server's side: `headers` (rules for requests), `routing`,
`call` (one request and its answer), then one connection in three storeys, `request_streams`, `call_runner` and
`server_connection`; `server` listens and keeps the time. `limits` bounds it all. The client's side is a room of its
own, `serving_server.http2_client`.
"""
