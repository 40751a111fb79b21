"""Scoring pictures, and summing scores up honestly."""
