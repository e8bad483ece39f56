"""The Jupyter Server extension: serving processes that belong to the Jupyter server rather than to a kernel.

`serving_jupyter.extension.app` is where Jupyter enters. Nothing here runs in a kernel.
"""
