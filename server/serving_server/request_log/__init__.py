"""Requests and answers written to disk as `PredictionLog` records: sampled, rotated, good as warmup files."""
