"""Files that hold several images, such as positions of a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from napari_stbn.stack import Stack

__all__ = ["SceneError", "add_to_guess", "scene_number", "scenes_note"]


class SceneError(ValueError):
    """An image was asked for that a file does not hold."""


def scene_number(path: Path, scene: int | None, count: int, default: int = 0) -> int:
    """Which of `count` images of a file is read: the one asked for, else the default.

    Raises
    ------
    SceneError
        If the file does not hold it.
    """
    number = default if scene is None else scene
    if not 0 <= number < count:
        held = "one image" if count == 1 else f"{count} images, numbered 0 to {count - 1}"
        raise SceneError(f"{path} holds {held}; there is no scene {number}.")
    return number


def scenes_note(scene: int | None, count: int, read: int, why: str) -> str:
    """What is said of a file that holds several images, none of which was asked for."""
    if scene is not None or count < 2:
        return ""
    return f"The file holds {count} images; the {why} was read (scene {read})."


def add_to_guess(stack: Stack, *said: str) -> Stack:
    """Add sentences to what was guessed of a stack that was just made."""
    object.__setattr__(stack, "guess", " ".join(filter(None, (stack.guess, *said))))
    return stack
