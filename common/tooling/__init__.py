"""Measures on a family's own models, and trains, what its accelerations are made of."""
