"""A `Denoiser` during its fit: one frame as well as it can be denoised by now."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from ._colour_stack import ColourStack
from ._denoiser_state import DenoiserState
from ._views import views_of
from .inference import denoise_frame
from .stack import Stack

__all__ = ["DenoiserPreview"]


class DenoiserPreview(DenoiserState):
    """What a person sees of a fit that goes on."""

    def preview_steps(
        self,
        frame: int,
        *,
        channel: int = 0,
        plane: int = 0,
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> Generator[None, None, NDArray[np.float32] | None]:
        """Denoise one frame as well as the fit can by now: a quick look between two of its steps.

        Parameters
        ----------
        frame, channel, plane : int
        rows, columns : slice
            Part of the frame [px].

        Yields
        ------
        None
            Several times a frame.

        Returns
        -------
        ndarray, shape (Y', X'), float32 [user's units], or None
            Posterior mean from the two frames before and after alone; None before the first step.
        """
        prepared = self._prepared
        if prepared is None or self.model is None or not self.history:
            return None
        views = [*views_of(prepared.stack)]
        places = [(channel, plane, frame)]  # from the user's stack to the last view
        windows = [(rows, columns)]
        for view in reversed(views):
            places.append(view.place(places[-1]))
            windows.append(view.window(*windows[-1]))
        channel, plane, frame = places.pop()
        image = yield from self._look_at(prepared.stack, frame, channel, plane, *windows.pop())
        for view in views:
            image = view.shown(places.pop(), image, *windows.pop())
        return image

    def _look_at(
        self,
        stack: Stack,
        frame: int,
        channel: int,
        plane: int,
        rows: slice,
        columns: slice,
    ) -> Generator[None, None, NDArray[np.float32]]:
        """A part of one frame of the user's channel, in even light; see `preview_steps`."""
        if isinstance(stack, ColourStack):
            colour, sample = divmod(channel, stack.size("S"))
            parts: list[NDArray[np.float32]] = []
            for component in stack.components_of(colour):
                part = yield from self._look(component, plane, frame, rows, columns)
                parts.append(part[None])
            means, _ = stack.restored(colour, plane, frame, parts, [], rows, columns)
            image: NDArray[np.float32] = means[sample][0]
            return image
        return (yield from self._look(channel, plane, frame, rows, columns))

    def _look(
        self, channel: int, plane: int, frame: int, rows: slice, columns: slice
    ) -> Generator[None, None, NDArray[np.float32]]:
        """Denoise a part of one frame of one movie as it was prepared; see `preview_steps`."""
        prepared, average, model = self._prepared, self._average, self.model
        if prepared is None or model is None:
            raise RuntimeError("there is no fit to look at")
        joint = model.config.channels > 1
        key = (0 if joint else channel, plane)
        movie, at = prepared.around(key, frame, rows, columns)
        look = denoise_frame(model, movie, at, precision=self._fitted_in or "float32")
        if average is not None:
            average.swap()
        try:
            window = yield from look
        finally:
            look.close()
            if average is not None:
                average.swap()
        shown: NDArray[np.float32] = window.mean[0, channel if joint else 0].numpy()
        correlation = prepared.correlation.get(channel)
        return shown if correlation is None else correlation.restore(shown[None])[0]
