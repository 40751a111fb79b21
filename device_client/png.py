"""PNG files that say how they were made, and how to read them again."""

from __future__ import annotations

import contextlib
import os
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo, PngStream

from baton.common.config import user_path
from baton.common.errors import BatonError, InvalidRequest
from baton.common.files import saving
from baton.common.outputs import check_suffix, check_writable
from baton.common.size import MAX_SIDE
from baton.device_client.provenance import Provenance, read_chunk

PLAN_CHUNK = "baton"
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_SIGNATURE_BYTES, _CRC_BYTES = 8, 4


@dataclass(frozen=True, eq=False)
class SavedPicture:
    """A PNG with its plan. pixels: uint8 [H, W, 3], ``scale`` times as large as it was drawn."""

    pixels: npt.NDArray[np.uint8]
    scale: int
    provenance: Provenance


def check_png(path: Path) -> Path:
    """The path, if a picture can be written there; leaves nothing behind. Raises InvalidRequest."""
    return check_writable(check_suffix(path, ".png"))


def save_png(image: Image.Image, path: str | Path, provenance: Provenance | None) -> Path:
    """Write a picture. Raises InvalidRequest, naming the file and the cause."""
    path = check_suffix(user_path(path), ".png")
    info = PngInfo()
    if provenance is not None:
        info.add_itxt("parameters", provenance.parameters())
        info.add_itxt(PLAN_CHUNK, provenance.chunk())
    with saving(path) as file:
        image.save(file, format="PNG", pnginfo=info)
    return path


def read_png(path: str | Path) -> SavedPicture:
    """Read a picture that Baton saved with its plan.

    The plan is checked before a pixel is decoded. Raises InvalidRequest for a file that is no such
    picture or is damaged, Incompatible for one that another version of Baton wrote.
    """
    path = user_path(path)
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            return _read(path)
    except BatonError as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {_cause(error)}") from error
    except Exception as error:  # Pillow raises whatever its decoders raise
        raise InvalidRequest(f"{path} is a damaged PNG: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "it is not a PNG"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read(path: Path) -> SavedPicture:
    with Image.open(path, formats=["PNG"]) as image:
        text = image.info.get(PLAN_CHUNK) or _texts(path).get(PLAN_CHUNK)
        if not isinstance(text, str):
            raise InvalidRequest(
                "it carries no plan: it was not drawn by Baton, or saved without metadata"
            )
        provenance = read_chunk(text)
        size = provenance.task.size
        scale = image.width // size.width
        if max(image.size) > MAX_SIDE or image.size != (size.width * scale, size.height * scale):
            raise InvalidRequest(
                f"it has {image.width} x {image.height} pixels, its plan draws {size.width} x"
                f" {size.height}: it was resized or cropped"
            )
        return SavedPicture(np.asarray(image.convert("RGB")), scale, provenance)


def _texts(path: Path) -> dict[str, str]:
    """The texts of a PNG, also those behind its pixels, of which none is decoded.

    Raises what Pillow raises for a damaged text or one that is too large.
    """
    with path.open("rb") as file, contextlib.suppress(struct.error):  # the file has been cut off
        file.seek(_SIGNATURE_BYTES)
        stream, kind = PngStream(file), b""
        while kind != b"IEND":
            kind, place, length = stream.read()
            if kind in _TEXT_CHUNKS:
                stream.crc(kind, stream.call(kind, place, length))
            else:
                file.seek(length + _CRC_BYTES, os.SEEK_CUR)
    return dict(stream.im_text)
