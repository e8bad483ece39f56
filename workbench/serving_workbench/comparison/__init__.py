"""Two arms compared: what they answer, how well, how fast, and whether the second may replace the first.

`evidence` is what all sources of data (rows sent to both arms, a live split, a mirror, a replayed log) give; `verdict`
decides from that and from margins that were declared before, and from nothing else.
"""
