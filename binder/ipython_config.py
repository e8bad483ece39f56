"""Settings of the kernels on Binder: the magics are there without `%load_ext`."""

c = get_config()  # noqa: F821 - IPython gives it
c.InteractiveShellApp.extensions = ["serving_workbench"]
