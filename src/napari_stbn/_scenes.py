"""Files that hold several images, such as positions of a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SceneError", "scenes_note"]


class SceneError(ValueError):
    """An image was asked for that a file does not hold."""

    def __init__(self, path: Path, scene: int, count: int) -> None:
        held = "one image" if count == 1 else f"{count} images, numbered 0 to {count - 1}"
        super().__init__(f"{path} holds {held}; there is no scene {scene}.")


def scenes_note(count: int, read: int, why: str) -> str:
    """What is said of a file that holds several images, none of which was asked for."""
    return f"The file holds {count} images; the {why} was read (scene {read})."
