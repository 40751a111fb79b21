"""How unlike two pictures look: multi-scale structural similarity (Wang et al. 2003), made small.

The structural similarity of each channel in windows of 5 x 5 pixels, averaged, at the picture's own
scale and at a half and a quarter of it (means of 2 x 2 pixels); the distance is one minus the mean
of the three. The reference's windows of 11 x 11 and five scales need pictures of 160 pixels. A
distance is 0 for equal pictures, the same both ways, and 2 at most.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

_WINDOW = 5
_SCALES = 3
#: ``(K L)^2`` of values from 0 to 1.
_C1, _C2 = 0.01**2, 0.03**2


@torch.inference_mode()
def distance(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Of each pair of pictures, uint8 [n, H, W, 3] each, to [n].

    Raises ValueError for other shapes, or sides too short for the smallest scale.
    """
    if one.shape != other.shape or one.ndim != 4:
        raise ValueError("pictures are compared in pairs of one size")
    if min(one.shape[1:3]) >> (_SCALES - 1) < _WINDOW:
        raise ValueError(f"pictures have sides of {_WINDOW << (_SCALES - 1)} pixels or more")
    x, y = _planes(one), _planes(other)
    similar = torch.zeros(len(one), dtype=torch.float64)
    for scale in range(_SCALES):
        if scale:
            x, y = avg_pool2d(x, 2), avg_pool2d(y, 2)
        similar += _structural_similarity(x, y) / _SCALES
    return np.asarray(1.0 - similar.numpy())


def _planes(pictures: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).double() / 255.0


def _structural_similarity(x: Tensor, y: Tensor) -> Tensor:
    """Wang et al. 2004, Eq. 13, in even windows; mean over windows and channels."""
    mean_x, mean_y = _windows(x), _windows(y)
    var_x = _windows(x * x) - mean_x**2
    var_y = _windows(y * y) - mean_y**2
    both = _windows(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * both + _C2) / (var_x + var_y + _C2)
    return (luminance * structure).flatten(1).mean(dim=1)


def _windows(x: Tensor) -> Tensor:
    return avg_pool2d(x, _WINDOW, stride=1)
