"""The panel that shows what a server serves and changes it by buttons: `serving_workbench.panel`."""
