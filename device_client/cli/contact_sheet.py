"""Many pictures on one, with labels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_GAP = 12
_LABEL_WIDTH = 190
_HEADER = 30
_CHARS_PER_LINE = 24


def contact_sheet(
    rows: Sequence[str], columns: Sequence[str], images: Sequence[Image.Image]
) -> Image.Image:
    """A grid with a label per row and column; ``images`` row by row, all of one size."""
    width, height = images[0].size
    sheet = Image.new(
        "RGB",
        (
            _LABEL_WIDTH + len(columns) * (width + _GAP) + _GAP,
            _HEADER + len(rows) * (height + _GAP) + _GAP,
        ),
        "white",
    )
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for index, column in enumerate(columns):
        pen.text((_LABEL_WIDTH + index * (width + _GAP), 8), column, "black", font)
    for index, row in enumerate(rows):
        label = "\n".join(textwrap.wrap(row, _CHARS_PER_LINE))
        pen.multiline_text((_GAP, _HEADER + index * (height + _GAP) + 8), label, "black", font)
    for index, image in enumerate(images):
        down, across = divmod(index, len(columns))
        place = (_LABEL_WIDTH + across * (width + _GAP), _HEADER + down * (height + _GAP))
        sheet.paste(image, place)
    return sheet
