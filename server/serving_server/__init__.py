"""The serving process: TensorFlow Serving's protocols and lifecycle, without Jupyter."""

__version__ = "0.1.0"
