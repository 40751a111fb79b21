"""Cheaper steps: encoder propagation and learned block masks, written into a plan's columns."""
