"""Maps the folders of the repository into one package, which pyproject.toml alone cannot say."""

from setuptools import find_packages, setup

ROOMS = ("common", "coordinator", "device_client", "edge_server")

setup(
    packages=[
        *("baton", "baton.v1"),
        *(f"baton.{room}" for room in ROOMS),
        *(f"baton.{room}.{inner}" for room in ROOMS for inner in find_packages(room)),
    ],
    package_dir={"baton": "proto/gen/baton"} | {f"baton.{room}": room for room in ROOMS},
)
