"""Requests on an edge: admitted or refused, followed, ended once, and kept for a time."""
