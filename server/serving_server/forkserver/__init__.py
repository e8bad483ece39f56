"""A process that has TensorFlow imported and never runs a session: every worker is a fork of it.

Importing TensorFlow takes seconds, forking a process that has done so takes milliseconds and shares the memory.
"""
