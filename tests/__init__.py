"""Tests of all three floors; run them by `make test`."""
