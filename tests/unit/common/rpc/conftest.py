"""Certificates for the tests of this folder."""

from tests.support.security import credentials, others

__all__ = ["credentials", "others"]
