"""Denoise a file, keep its axes and scale, keep the model for the next file.

Run it with ``python examples/denoise_file.py [SECONDS] [FILE]``. Without a file it makes a small
two-channel movie. What it writes goes to the current folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import napari_stbn as stbn


def make_movie(path: Path) -> None:
    """Write a simulated movie of two channels, as a microscope's software might."""
    channels = [
        stbn.simulate((6, 48, 48), kind=kind, seed=2).noisy for kind in ("nuclei", "filaments")
    ]
    stack = stbn.Stack(np.stack(channels), axes="CTYX", pixel_size=0.16, frame_interval=5.0)
    stbn.write(path, stack, overwrite=True)


def main(seconds: float = 20.0, file: str = "") -> None:
    """Read, fit for some seconds, denoise, write; then use the model again."""
    path = Path(file) if file else Path("simulated cells.tif")
    if not file:
        make_movie(path)
    stack = stbn.read(path)
    print(stack)
    if stack.guess:
        print(stack.guess)

    denoiser = stbn.Denoiser(seed=0)
    # The same generator that `fit` loops over: look at the progress, or stop when you like.
    for progress in denoiser.fit_steps(stack, time_budget=seconds):
        if progress.step is not None and progress.step.held_out is not None:
            print(f"{progress.fraction:4.0%}  held-out loss {progress.step.held_out:.3f}")
    result = denoiser.denoise(stack)
    for sentence in result.report["notes"]:
        print(f"note: {sentence}")

    output = Path(f"{path.stem} denoised.tif")
    stbn.write(output, result.stack, overwrite=True)
    print(f"{output}: {stbn.read(output)}")

    denoiser.save("cells.stbn", overwrite=True)
    again = stbn.Denoiser.load("cells.stbn")  # for movies recorded with the same settings
    first_frames = tuple(slice(3) if axis == "T" else slice(None) for axis in stack.axes)
    shorter = stack.like(stack.array[first_frames])
    print(f"3 frames with the saved model: {again.denoise(shorter).denoised.shape}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0, *sys.argv[2:3])
