"""Requests wait here to be run together; parameters and rules are TensorFlow Serving's."""
