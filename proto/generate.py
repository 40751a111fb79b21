"""Write the Python stubs of baton/v1/*.proto into proto/gen, or check that they are up to date."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

SOURCES = Path(__file__).resolve().parent
STUBS = SOURCES / "gen" / "baton" / "v1"


def generate(out: Path) -> None:
    """Write the stubs of every source below the empty folder ``out``.

    Raises:
        SystemExit: protoc rejected a source; it has said why on stderr.
    """
    scripts = Path(sys.executable).parent  # protoc looks for its plugins here
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={SOURCES}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet,only_async:{out}",
            *(str(source) for source in sorted(SOURCES.glob("baton/v1/*.proto"))),
        ]
    )
    if status:
        raise SystemExit(status)
    (out / "baton" / "v1" / "__init__.py").touch()


def stale(expected: Path, actual: Path) -> list[str]:
    """Names of the files that are missing from, left over in, or different in ``actual``."""
    old, new = _contents(actual), _contents(expected)
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.suffix in {".py", ".pyi"}
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 on drift")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = Path(scratch) / "baton" / "v1"
        if not check:
            shutil.rmtree(STUBS, ignore_errors=True)
            shutil.copytree(fresh, STUBS)
        elif drift := stale(fresh, STUBS):
            names = ", ".join(f"proto/gen/baton/v1/{name}" for name in drift)
            raise SystemExit(f"stale stubs: {names}: run `make proto` and commit the result")


if __name__ == "__main__":
    main()
