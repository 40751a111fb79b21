"""The command line ``baton``."""
