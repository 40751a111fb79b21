"""Model families: the manifest that describes one, and the loader that builds it."""
