"""Numbers in sentences."""

from __future__ import annotations

import numpy as np
import pytest

from napari_stbn._words import counted, ordinal
from napari_stbn.stack import MovieDefects, inspect_movie


@pytest.mark.parametrize(
    ("number", "said"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (22, "22nd")],
)
def test_numbers_that_say_which_one(number: int, said: str) -> None:
    assert ordinal(number) == said


def test_one_is_not_many() -> None:
    assert [counted(n, "frame") for n in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]
    dead = np.zeros((3, 3), bool)
    dead[1, 1] = True
    assert MovieDefects(None, dead, (4,), 0.0, None, missing=1).sentences() == [
        "1 pixel is NaN or infinite.",
        "1 camera pixel never changes (dead or stuck).",
        "1 frame is blank: 4.",
    ]
    movie = np.random.default_rng(0).random((4, 9, 9))
    movie[1:3] = 0
    assert inspect_movie(movie).sentences() == ["2 frames are blank: 1, 2."]
