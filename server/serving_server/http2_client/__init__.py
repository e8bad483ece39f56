"""gRPC's client over HTTP/2, for load generators and tools: a callback per call, no task, future or thread.

    connection = await connect("127.0.0.1:8500")
    headers = RequestHeaders("/tensorflow.serving.PredictionService/Predict", connection.authority)
    connection.unary(headers, request.SerializeToString(), on_done)      # on_done(message, status, details)
    message = await request(connection, headers, data, timeout=5)        # or raises a ServingError
    await connection.close()

It shares frames, windows and limits with the server (`serving_server.http2`) and knows nothing of models.
`request_headers` are encoded once and sent many times; `response_headers` are decoded once and met many times;
`call` is one call; a connection has three storeys, `sending`, `streams` (answers) and `connection` (socket, time and
end); `connecting` opens it;
`awaitable` is for who would rather wait than be called.
"""
