"""The A/B tab: a live comparison with its controls, and what a finished comparison found, to be looked through."""
