"""The tiny family for the tests below this folder."""

from tests.support.fixtures import family, family_folder
from tests.support.security import credentials, others

__all__ = ["credentials", "family", "family_folder", "others"]
