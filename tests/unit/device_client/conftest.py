"""The tiny family for the tests below this folder."""

from tests.support.fixtures import family, family_folder

__all__ = ["family", "family_folder"]
