"""Messages on the wire, with TensorFlow's names and numbers, without TensorFlow."""
