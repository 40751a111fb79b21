"""Averages on their way between machines: a few small tar files, rewritten while a stage trains.

A run that is cut off loses what it learned since the files were last written, and nothing else.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import defaultdict
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

from baton.common.errors import InvalidRequest
from baton.common.files import saving

LIMIT = 15 * 2**20  # bytes a tar file
MOST_FILES = 4
_SHARD = 3 * 2**20  # bytes of tensors that stay together
_ROOM = 64 * 2**10  # for headers and the end of a tar file
#: What travels as it is; averages travel in shards.
_PLAIN = ("*.jsonl", "clock.json", "vae/*.json", "tokenizer/*")

_Entry = tuple[str, bytes]


def write_pack(run_dir: Path, folder: Path) -> None:
    """Write the averages of every stage, and what goes with them, as ``averages-K.tar``.

    Each file is written aside and renamed. Raises InvalidRequest if they do not fit.
    """
    files = _fill(_entries(run_dir))
    if len(files) > MOST_FILES:
        raise InvalidRequest(f"the averages need {len(files)} files of {LIMIT} bytes")
    for number, entries in enumerate(files):
        path = folder / f"averages-{number}.tar"
        with saving(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
            for name, content in entries:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def read_pack(folder: Path, run_dir: Path) -> None:
    """Lay packed averages out in a run's folder. Raises InvalidRequest if there are none."""
    paths = sorted(folder.glob("averages-*.tar"))
    if not paths:
        raise InvalidRequest(f"{folder} has no averages-*.tar")
    shards: dict[str, dict[str, Tensor]] = defaultdict(dict)
    metadata: dict[str, dict[str, str]] = {}
    for path in paths:
        for name, content in _read(path):
            stage, _, shard = name.partition(".shard-")
            if shard:
                shards[stage] |= load(content)
                metadata[stage] = _metadata(content)
            else:
                with saving(run_dir / name) as file:
                    file.write(content)
    for stage, tensors in shards.items():
        with saving(run_dir / f"{stage}.safetensors") as file:
            file.write(save(tensors, metadata=metadata[stage]))


def _entries(run_dir: Path) -> list[_Entry]:
    entries: list[_Entry] = []
    for path in sorted(run_dir.glob("*.safetensors")):
        entries += _shards(path)
    for pattern in _PLAIN:
        for path in sorted(run_dir.glob(pattern)):
            entries.append((path.relative_to(run_dir).as_posix(), path.read_bytes()))
    return entries


def _shards(path: Path) -> list[_Entry]:
    groups: list[dict[str, Tensor]] = [{}]
    held = 0
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        for key in file.keys():  # noqa: SIM118 -- no mapping
            tensor = file.get_tensor(key)
            if held and held + tensor.nbytes > _SHARD:
                groups.append({})
                held = 0
            groups[-1][key] = tensor
            held += tensor.nbytes
    return [
        (f"{path.stem}.shard-{number}", save(group, metadata=metadata))
        for number, group in enumerate(groups)
    ]


def _fill(entries: list[_Entry]) -> list[list[_Entry]]:
    """Largest first, each into the first file that has room."""
    files: list[list[_Entry]] = []
    sizes: list[int] = []
    for entry in sorted(entries, key=lambda item: -len(item[1])):
        size = len(entry[1]) + 1024  # with its header and padding
        for number, held in enumerate(sizes):
            if held + size <= LIMIT - _ROOM:
                files[number].append(entry)
                sizes[number] += size
                break
        else:
            files.append([entry])
            sizes.append(size)
    return files


def _read(path: Path) -> list[_Entry]:
    with tarfile.open(path) as tar:
        found = [(info.name, tar.extractfile(info)) for info in tar if info.isfile()]
        for name, _ in found:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise InvalidRequest(f"{path} names a file outside the run's folder: {name}")
        return [(name, file.read()) for name, file in found if file is not None]


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata in a safetensors file: its header is JSON behind eight bytes of length."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(content[8 : 8 + length])
    return header.get("__metadata__", {})
