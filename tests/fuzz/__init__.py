"""Coverage-guided fuzzing of what reads bytes from the network; `python -m tests.fuzz.run --help`.

A harness is a module with `check(data)`, which raises when a rule is broken, `SEEDS`, inputs that reach deep, `TOKENS`,
what belongs to the language, and perhaps `mutate`. Seeds and `corpus/` run in every test session (`test_corpus.py`).
"""
