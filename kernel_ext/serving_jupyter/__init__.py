"""Binds the workbench to Jupyter: magics in the kernel."""
