"""What TensorFlow Serving promises, row by row, and the test of ours that holds each row.

`python -m tests.conformance` prints the table, `--write` puts it into TABLE.md, `--run` runs every test that it names.
"""
