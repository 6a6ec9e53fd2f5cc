"""What a file says of its pixels, and the stack that is made with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_stbn._scenes import add_to_guess
from napari_stbn._units import seconds
from napari_stbn.stack import Stack

if TYPE_CHECKING:
    from napari_stbn.stack import ArrayLike

__all__ = ["Description", "described_stack", "interval_in_seconds"]


@dataclass(frozen=True)
class Description:
    """Physical scale and names; empty where they are not known.

    Attributes
    ----------
    pixel_size : Mapping of str to float [`unit`]
        Along Z, Y and X.
    unit : str
    frame_interval : float or None [s]
    channels : sequence of str
        Names along the C axis.
    note : str
        A sentence on what the file says and could not be understood.
    """

    pixel_size: Mapping[str, float] = field(default_factory=dict)
    unit: str = "µm"
    frame_interval: float | None = None
    channels: Sequence[str] = ()
    note: str = ""


def described_stack(
    array: ArrayLike,
    axes: str | None,
    said: Description,
    *,
    name: str,
    hint: str | None,
    notes: Sequence[str] = (),
) -> Stack:
    """A stack with all that its file says; sentences on that go to its guess."""
    stack = Stack(
        array,
        axes,
        pixel_size=said.pixel_size,
        unit=said.unit,
        frame_interval=said.frame_interval,
        name=name,
        hint=hint,
    )
    # Axes that were set by hand may make another number of channels of the same pixels.
    if any(said.channels) and len(said.channels) == stack.size("C"):
        object.__setattr__(stack, "channel_names", tuple(said.channels))
    return add_to_guess(stack, *notes, said.note)


def interval_in_seconds(interval: float | None, unit: str) -> tuple[float | None, str]:
    """A frame interval [s], and a sentence where its unit is no time that is known."""
    if interval is None:
        return None, ""
    factor = seconds(unit)
    if factor is None:
        return None, (
            f'The frame interval has the unit "{unit}", which is no time that is known; it was '
            "left out."
        )
    return interval * factor, ""
