"""Profiles of a served model: where the time of a request and of a run goes."""
