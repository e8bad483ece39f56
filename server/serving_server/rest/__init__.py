"""REST: HTTP/1.1 on asyncio, TensorFlow Serving's JSON, and the routes between them."""
