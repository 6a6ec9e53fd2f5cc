"""Single wrong pixels of a movie, found by a prediction, taken out before anything learns from it.

A cosmic ray or a transmission error spoils more than its own place: the network sees it when it
predicts the neighbours, a filter against shared noise spreads it, and a fit explains it by a wide
prior, which then believes it. So what `napari_stbn._doubt` finds in a first prediction is replaced
by that prediction and counts as not measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ._inference_steps import DenoisedWindow
from .correlation import NoiseCorrelation

__all__ = ["WrongPixels", "wrong_pixels_note"]

_MOST_OF_FRAME = 0.05  # beyond it the prediction is wrong, not the frame
_WORTH_SAYING = 1e-5  # of all pixels
_MOST = 2**24  # pixels that are kept in mind; further ones are only doubted in the result


class WrongPixels:
    """Where single pixels of a movie of C channels are wrong, and by how much.

    Parameters
    ----------
    filters : sequence of C NoiseCorrelation or None
        That made the noise of each channel white.

    Attributes
    ----------
    count : int
        Pixels found.
    """

    def __init__(self, filters: Sequence[NoiseCorrelation | None]) -> None:
        self._filters = list(filters)
        self._found: dict[int, tuple[Tensor, Tensor]] = {}
        self.count = 0

    def add(self, window: DenoisedWindow, intensities: Tensor) -> None:
        """Look at a first result.

        Parameters
        ----------
        window : DenoisedWindow
            With `DenoisedWindow.wrong`.
        intensities : Tensor, shape (T', C, Y, X) [user's units]
            What was measured in its frames, after the filters.
        """
        if window.wrong is None:
            return
        for place, wrong in enumerate(window.wrong):
            index = wrong.flatten().nonzero().flatten()
            if not 0 < index.numel() < min(_MOST_OF_FRAME * wrong.numel(), _MOST - self.count):
                continue
            excess = intensities[place] - window.mean[place]
            for c, correlation in enumerate(self._filters):
                if correlation is not None:  # by how much the recorded pixel was off
                    excess[c : c + 1] = torch.from_numpy(
                        correlation.restore(excess[c : c + 1].numpy())
                    )
            self._found[window.start + place] = index.int(), excess.flatten()[index]
            self.count += index.numel()

    def take_out(self, t: int, intensities: Tensor, valid: Tensor) -> bool:
        """Replace the wrong pixels of frame t by their prediction, in place.

        Parameters
        ----------
        intensities : Tensor, shape (C, Y, X) [user's units]
            After the filters.
        valid : Tensor of bool, shape (1, Y, X)

        Returns
        -------
        bool
            Whether there were any.
        """
        if t not in self._found:
            return False
        index, values = self._found[t]
        excess = torch.zeros_like(intensities)
        excess.view(-1)[index.long()] = values
        valid &= (excess == 0).all(0, keepdim=True)
        for c, correlation in enumerate(self._filters):
            if correlation is None:
                intensities[c] -= excess[c]
            else:
                spread = correlation.whiten(np.asarray(excess[c : c + 1]), offsets=False)
                intensities[c] -= torch.from_numpy(spread)[0]
        return True


def wrong_pixels_note(count: int, pixels: int) -> str:
    """Sentence for the user; empty for so few pixels that noise may have made them."""
    if not count > _WORTH_SAYING * pixels:
        return ""
    many = "One single pixel" if count == 1 else f"{count} single pixels"
    share = 1e6 * count / pixels
    return (
        f"{many} ({share:.3g} in a million) cannot be what was there, by the frames around and by "
        "the noise, as after cosmic rays: the prediction stands in for them."
    )
