"""What operators see: counters and histograms, and Prometheus' text of them.

`histogram` and `requests` are what the hot path touches: plain lists and numbers, one or two additions per request.
`loads` counts what happens per version directory. Everything else happens when somebody looks: `serving_families`
makes TensorFlow Serving's metrics out of those, `workbench_families` ours, `exposition` writes text, and `registry`
joins them.
"""
