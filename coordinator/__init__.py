"""The coordinator: which edges live, which arm a request gets, and what was learned from it.

It holds no model code and never sees a prompt.
"""
