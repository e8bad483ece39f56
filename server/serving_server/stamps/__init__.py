"""When each answered request passed which point of the server, kept for a while, and what clients are told of it."""
