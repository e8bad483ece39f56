"""Unversioned requests of one model, split over several of its versions by weight."""
