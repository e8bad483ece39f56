"""Copies of answered requests sent to another version of the model, whose answers nobody gets but who compares."""
