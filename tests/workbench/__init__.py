"""Tests of the library: what needs no server is tested without one, the rest with real processes."""
