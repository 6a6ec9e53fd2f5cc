"""What a report says about one channel: pictures, noise, residual, brightness, motion."""

from __future__ import annotations

import math
from html import escape

import numpy as np
from scipy import ndimage

from ._report_measures import (
    Brightness,
    Motion,
    measure_brightness,
    measure_motion,
    measure_noise,
)
from ._report_page import measures, number, paragraph, picture
from ._report_plots import Series, plot
from ._report_residual import ResidualChecks, check_residual, standardise
from ._report_sampling import (
    Array,
    as_fitted,
    as_one_movie,
    dead_pixels,
    measured,
    read_frames,
)
from ._report_verdict import (
    Finding,
    judge_brightness,
    judge_motion,
    judge_noise,
    judge_residual,
)
from .noise import GaussianNoise, MeasuredNoise, NoiseFit, PoissonGaussianNoise
from .preparation import KnownNoise
from .result import DenoiseResult
from .stack import Stack

_SIDE = 384  # px; a larger frame is cropped: to shrink it would hide its noise
_PIXELS = 1_900_000  # of all pictures together: noise hardly packs, and the page stays below 3 MB
_PANELS = 12  # frames times pictures of each, for one channel
_NO_SIZE = (
    "Without a noise model there is no expected size: the residual is standardised by its own "
    "deviation, and only its whiteness can be judged."
)
_GOOD = {
    "std": "near 1. Larger: structure was taken out, or the noise is underestimated. Smaller: "
    "noise was left in, or it is overestimated",
    "noise": "as expected. It is below 1 by design: the result follows the measurement where it is "
    "uncertain",
    "lags": "near 0 each; −0.05 is normal, because a pixel is predicted from its neighbours",
    "low_pass": "near 1 or below. Larger: coarse structure was taken out. Smaller: some coarse "
    "noise stays in the movie",
}
_COLOURS = ("red", "green", "blue", "alpha")


def channel_section(
    result: DenoiseResult, noisy: Stack, channel: int, *, channels: int
) -> tuple[str, list[Finding]]:
    """Everything about one channel, as HTML, and what to say about it in the verdict.

    Parameters
    ----------
    result, noisy
        As of `napari_stbn.report.write_report`.
    channel : int
    channels : int
        How many channels share the page.
    """
    noise, correlation = result.noise.get(channel), result.correlation.get(channel)
    if noise is not None and correlation is not None:
        noise = correlation.white_noise(noise)
    following = as_one_movie(result, noisy)
    lines = result.report.get("line_shift") is not None
    fit = measure_noise(following[1], channel, correlation, lines=lines)
    checks = check_residual(*following, [channel])
    pictures, span = _pictures(result, noisy, channel, channels)
    brightness = measure_brightness(result, noisy, channel, span)
    motion = measure_motion(result, noisy, channel)
    findings = [
        *judge_residual(checks, noise, fit),
        judge_noise(noise, fit),
        judge_brightness(brightness),
        *judge_motion(motion),
    ]
    parts = [
        pictures,
        *_noise(noise, fit),
        *_residual(checks),
        *_brightness(brightness, noisy),
        *_motion(motion, noisy),
    ]
    name = _name(noisy, channel)
    if noisy.n_channels == 1:
        parts.insert(0, "<h2>Checks</h2>")
    else:
        parts.insert(0, f"<h2>{escape(name.capitalize())}</h2>")
        findings = [
            Finding(f.level, f"{name.capitalize()}: {f.sentence[0].lower()}{f.sentence[1:]}")
            for f in findings
        ]
    return "\n".join(parts), findings


def _name(noisy: Stack, channel: int) -> str:
    """What to call a channel."""
    colour, sample = divmod(channel, noisy.size("S"))
    if "S" not in noisy.axes:
        return f"channel {channel}"
    word = _COLOURS[sample] if sample < len(_COLOURS) else f"colour sample {sample}"
    return f"channel {colour}, {word}" if "C" in noisy.axes else word


def _pictures(
    result: DenoiseResult, noisy: Stack, channel: int, channels: int
) -> tuple[str, float]:
    """First, middle and last frame of the middle plane, and the range of the denoised ones."""
    plane = noisy.n_planes // 2
    dead = dead_pixels(noisy, channel, plane)
    times = sorted({0, noisy.n_frames // 2, noisy.n_frames - 1})
    frames = [read_frames(result, noisy, channel, plane, slice(t, t + 1)) for t in times]
    middle = frames[len(frames) // 2][1][0]
    side = min(_SIDE, math.isqrt(_PIXELS // (channels * _PANELS)))
    rows, columns = _busiest(middle, side)
    where = (0, rows, columns)
    low, high = _range([d for _, d, _ in frames], (0.1, 99.9))
    unsure = [u for _, _, u in frames if u is not None]
    most = _range(unsure, (0.0, 99.9))[1] if unsure else 0.0
    text = ["<h3>Pictures</h3>"]
    if middle.shape != middle[where[1:]].shape:
        text.append(
            paragraph(
                f"Rows {rows.start} to {rows.stop - 1}, columns {columns.start} to "
                f"{columns.stop - 1} of frames of {middle.shape[0]} × {middle.shape[1]} pixels: "
                "the part with most structure, pixel by pixel."
            )
        )
    contrast = f"{low:.5g} to {high:.5g} counts"
    for t, (y, denoised, uncertainty) in zip(times, frames, strict=True):
        z = standardise(*as_fitted(result, channel, measured(y, dead), denoised, uncertainty))
        panels = [
            picture(y[where], low, high, "Noisy", contrast),
            picture(denoised[where], low, high, "Denoised", f"{contrast}, as the noisy one"),
            picture(z[where], -3, 3, "Residual", "standardised, −3 to 3; gray where no data"),
        ]
        if uncertainty is not None:
            shown = picture(uncertainty[where], 0, most, "Uncertainty", f"0 to {most:.4g} counts")
            panels.insert(2, shown)
        when = f", {t * noisy.frame_interval:g} s" if noisy.frame_interval else ""
        depth = f", plane {plane}" if "Z" in noisy.axes else ""
        text.append(f'<h4>Frame {t}{when}{depth}</h4><div class="panels">{"".join(panels)}</div>')
    text.append(
        paragraph(
            "Good: the residual (noisy minus denoised) looks like even noise everywhere. Shapes of "
            "the specimen in it were taken out of the movie; stripes or blobs are noise that is "
            "not independent from pixel to pixel.",
            "hint",
        )
    )
    return "\n".join(text), max(high - low, 1e-12)


def _busiest(frame: Array, side: int) -> tuple[slice, slice]:
    """Where a part of at most side x side pixels has the most structure."""
    height, width = (min(length, side) for length in frame.shape)
    values = np.nan_to_num(frame.astype(np.float64) - np.nanmean(frame))
    power = ndimage.uniform_filter(values**2, (height, width), mode="constant")
    top, left = (frame.shape[0] - height, frame.shape[1] - width)
    inner = power[height // 2 : height // 2 + top + 1, width // 2 : width // 2 + left + 1]
    y, x = (int(n) for n in np.unravel_index(int(np.argmax(inner)), inner.shape))
    return slice(y, y + height), slice(x, x + width)


def _range(arrays: list[Array], percent: tuple[float, float]) -> tuple[float, float]:
    """Percentiles of finite values."""
    values = np.concatenate([a[np.isfinite(a)] for a in arrays])
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, percent)
    return float(low), float(high)


def _noise(noise: KnownNoise, fit: NoiseFit | None) -> list[str]:
    """Photon-transfer plot and the numbers of the model."""
    text = ["<h3>Noise</h3>"]
    if isinstance(noise, PoissonGaussianNoise):
        text.append(
            paragraph(
                f"Model in use: gain {noise.gain:.4g} counts per photoelectron, offset "
                f"{noise.offset:.5g} counts, read noise {noise.read_noise:.3g} photoelectrons rms."
            )
        )
    elif isinstance(noise, GaussianNoise):
        text.append(
            paragraph(f"Model in use: the same noise everywhere, {noise.sigma:.4g} counts rms.")
        )
    elif isinstance(noise, MeasuredNoise):
        text.append(
            paragraph(
                "Model in use: the variance as it was measured, level by level; intensities seem "
                "to have been transformed (a logarithm, a gamma)."
            )
        )
    else:
        text.append(paragraph("No noise model was in use, so there is no uncertainty."))
    if fit is None:
        text.append(paragraph("The noise could not be measured on this part of the movie."))
        return text
    used = fit.bin_weights > 0
    means, variances = fit.bin_means, fit.bin_variances
    radius = 1.5 + 2.5 * (fit.bin_counts / max(float(fit.bin_counts.max()), 1e-300)) ** 0.25
    series = [
        Series("measured", means[used], variances[used], "points", 0, radius[used]),
        Series("left out", means[~used], variances[~used], "rings", 2, radius[~used]),
    ]
    if noise is not None:
        x = np.linspace(float(fit.bin_means.min()), float(fit.bin_means.max()), 50)
        series.append(Series("model in use", x, np.asarray(noise.variance(x)), "line", 1))
    text.append(
        plot(
            [s for s in series if len(s.x)],
            title="Variance of the noise against mean intensity",
            x_label="mean [counts]",
            y_label="variance [counts²]",
        )
    )
    hint = (
        "Good: the large points lie on the line; small ones rest on few pixels. Points above the "
        "line: the model assumes too little noise. A bend down at the bright end: saturation."
    )
    text.append(paragraph(f"{hint} Measured on the middle of the movie.", "hint"))
    if fit.note:
        text.append(paragraph(f"The measurement says: {fit.note}"))
    return text


def _residual(checks: ResidualChecks) -> list[str]:
    """Numbers about noisy minus denoised."""
    rows = [("Standardised residual, deviation", number(checks.std), _GOOD["std"])]
    rows.append(("Standardised residual, mean", number(checks.mean, 3), "near 0"))
    noise = f"{number(checks.over_noise)} ({number(checks.over_noise_expected)} expected)"
    rows.append(("Residual over noise", noise, _GOOD["noise"]))
    for axis, unit in (("x", "pixels"), ("y", "pixels"), ("t", "frames")):
        values = ", ".join(number(v) for v in getattr(checks, f"along_{axis}"))
        rows.append((f"Correlation along {axis}, 1, 2, 3 {unit} on", values, _GOOD["lags"]))
    rows += [
        ("Means of rows, over white noise", number(checks.rows), "near 1. Larger: stripes"),
        ("Means of columns, over white noise", number(checks.columns), "near 1. Larger: stripes"),
        ("Smoothed residual, over white noise", number(checks.low_pass), _GOOD["low_pass"]),
    ]
    missing = [] if math.isfinite(checks.std) else [paragraph(_NO_SIZE)]
    return [
        "<h3>Residual</h3>",
        *missing,
        measures(rows),
        paragraph(
            f"Noisy minus denoised over its expected deviation, √(V − u²) for noise variance V and "
            f"uncertainty u, in {checks.pixels:,} pixels. Errors that are small beside the noise "
            "hardly show here; the pictures show more.",
            "hint",
        ),
    ]


def _brightness(brightness: Brightness, noisy: Stack) -> list[str]:
    """Mean of each frame before and after."""
    deviation = brightness.deviation
    largest = float(np.nanmax(np.abs(deviation))) if np.isfinite(deviation).any() else math.nan
    chance = 400 * float(np.nanmedian(brightness.error)) / brightness.span if largest >= 0 else 0.0
    part = len(brightness.frames) < noisy.n_frames
    looked = f" {len(brightness.frames)} of {noisy.n_frames} frames." if part else ""
    frames = brightness.frames.astype(np.float64)
    return [
        "<h3>Brightness</h3>",
        plot(
            [
                Series("noisy", frames, brightness.noisy, "line", 2),
                Series("denoised", frames, brightness.denoised, "dashed", 1),
            ],
            title="Mean of each frame, noisy and denoised",
            x_label="frame",
            y_label="mean [counts]",
        ),
        paragraph(
            f"Largest deviation {number(100 * largest)} % of the range from dark to bright "
            f"({brightness.span:.4g} counts), of which {number(chance)} % may be chance.{looked} "
            "Good: the curves lie on each other, within 0.5 % beyond chance.",
            "hint",
        ),
    ]


def _motion(motion: Motion, noisy: Stack) -> list[str]:
    """How far things move from frame to frame."""
    frames = motion.frames.astype(np.float64)
    speed = ""
    if motion.speed is not None:
        low, high = motion.speed
        speed = f" ({low:.3g} and {high:.3g} {noisy.unit}/s)"
    return [
        "<h3>Motion</h3>",
        plot(
            [
                Series("95th percentile", frames, motion.high, "dashed", 1),
                Series("median", frames, motion.median, "line", 0),
            ],
            title="Length of the flow in each frame",
            x_label="frame",
            y_label="motion [px per frame]",
        ),
        paragraph(
            f"Median {motion.whole[0]:.2f} px per frame, 95th percentile {motion.whole[1]:.2f} px"
            f"{speed}. Good: what you see when you play the movie. Single high frames are jumps of "
            "the stage, or errors; flow in empty background is a guess and does no harm.",
            "hint",
        ),
    ]
