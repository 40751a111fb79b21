"""The tiny family, and an edge of it that a user started, for the tests below this folder."""

from tests.support.fixtures import family, family_folder
from tests.support.security import credentials, others
from tests.support.served import environment, folder, served

__all__ = ["credentials", "environment", "family", "family_folder", "folder", "others", "served"]
