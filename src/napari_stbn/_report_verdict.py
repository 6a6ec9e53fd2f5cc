"""From numbers to sentences: what a report says about a run, and where it draws the lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._report_measures import Brightness, Motion
from ._report_residual import ResidualChecks
from .noise import NoiseFit, NoiseModel
from .training import TrainingStep

Level = Literal["good", "note", "warning"]

# Each pair: where a note begins, where a warning. They were set on simulated movies: short and long
# fits of good quality stay below the first, a fault that a person sees in the pictures is above the
# second.
CORRELATION = (0.07, 0.15)  # of neighbours; a blind prediction leaves up to about -0.05 by itself
STANDARD = (1.1, 1.25)  # standardised deviation, or 1 over it; 10 % are 20 % of noise variance
LOW_PASS = (1.5, 2.5)  # smoothed variance; smoothing takes in 50 pixels, so little structure counts
STRIPES = (1.25, 1.75)  # row and column means; those of rows of 100 px show a tenth of the noise
BRIGHTNESS = (0.005, 0.01)  # of the range: the goal of this project, and what ratios suffer from
CURVE = (1.25, 2.0)  # noise measured over noise assumed: 12 % and 41 % of its deviation
SHARED = 1.2  # noise of all scales over the finest, as in the estimate of the noise
STILL_GAINING = 0.004  # nats a pixel in the second half of a fit: about half a decibel
WORSE_AGAIN = 0.01  # nats a pixel above the best: beyond the scatter of a held-out loss
FAST = 8.0  # px a frame: far more than the reach of the network around the flow
_CHANCE = 4.0  # standard errors that are put down to chance


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict, with its weight."""

    level: Level
    sentence: str


def grade(value: float, limits: tuple[float, float], chance: float = 0.0) -> Level:
    """Where a value stands; one that could not be measured is worth a note."""
    if math.isnan(value):
        return "note"
    note, warning = (limit + chance for limit in limits)
    return "warning" if value > warning else "note" if value > note else "good"


def headline(findings: Sequence[Finding]) -> Finding:
    """All findings in one line."""
    warnings = sum(f.level == "warning" for f in findings)
    notes = sum(f.level == "note" for f in findings)
    if warnings:
        count = "one check" if warnings == 1 else f"{warnings} checks"
        return Finding("warning", f"Do not trust this result blindly: {count} failed.")
    if notes:
        count = "one point" if notes == 1 else f"{notes} points"
        return Finding("note", f"No check failed; {count} to look at.")
    return Finding("good", "All checks passed.")


def judge_residual(
    checks: ResidualChecks, noise: NoiseModel | None, fit: NoiseFit | None
) -> list[Finding]:
    """What noisy minus denoised says."""
    if not checks.pixels:
        return [Finding("warning", "No pixel of the frames looked at was measured.")]
    found = [_judge_correlation(checks, fit)]
    chance = _CHANCE * math.sqrt(100 / checks.pixels)  # smoothing leaves 1 in 50 independent
    level = grade(checks.low_pass, LOW_PASS, chance)
    if level != "good":
        found.append(
            Finding(
                level,
                f"The smoothed residual varies {checks.low_pass:.1f} times as much as that of noise"
                ": coarse structure was taken out of the movie. Look for it in the residual "
                "pictures; fit longer, or with a larger preset.",
            )
        )
    for value, name in ((checks.rows, "rows"), (checks.columns, "columns")):
        level = grade(value, STRIPES)
        stripes = value**2 > 2 * max(checks.low_pass, 1.0)  # not only a part of coarse structure
        if level != "good" and stripes:
            found.append(
                Finding(
                    level,
                    f"Whole {name} stand out in the residual ({value:.2f} times what noise gives): "
                    f"the camera or scanner gives {name} of their own, and some of these stripes "
                    "may stay in the movie.",
                )
            )
    if all(finding.level == "good" for finding in found):
        found = [Finding("good", "The residual is white: what was removed looks like noise only.")]
    if noise is not None:
        found.append(_judge_size(checks))
    return found


def _judge_correlation(checks: ResidualChecks, fit: NoiseFit | None) -> Finding:
    """Whether neighbouring pixels and frames of the residual are alike."""
    lags = [
        (value, axis, lag)
        for axis in "xyt"
        for lag, value in enumerate(getattr(checks, f"along_{axis}"), 1)
        if math.isfinite(value)
    ]
    if not lags:
        return Finding("note", "Nothing was removed, or too little to say whether it is noise.")
    value, axis, lag = max(lags, key=lambda entry: abs(entry[0]))
    level = grade(abs(value), CORRELATION, _CHANCE / math.sqrt(checks.pixels))
    unit = "frame" if axis == "t" else "pixel"
    apart = f"neighbouring {unit}s" if lag == 1 else f"{unit}s {lag} apart"
    where = f"({value:.2f} along {axis})".replace("-", "−")
    if fit is not None and fit.correlation > SHARED:
        shares = f"the variance of a pixel is {fit.correlation:.1f} times that of the finest detail"
        return Finding(
            "warning",
            f"Noise of neighbouring pixels is correlated ({shares}; residual {where[1:-1]}): some "
            "of it stays in the movie. Binning, interpolation or compression before saving do "
            "this; denoise the raw data if you have them.",
        )
    if level == "good":
        return Finding("good", "Neighbouring residuals are independent.")
    if value < 0:
        return Finding(
            level,
            f"Residuals of {apart} are opposite {where}: the result follows noise of its "
            "neighbours, and some noise stays in the movie. A longer fit may help.",
        )
    if axis == "t":
        return Finding(
            level,
            f"Residuals of {apart} are alike {where}: fixed pattern of the camera, or structure "
            "that was taken out of the movie. Look at the residual pictures.",
        )
    return Finding(
        level,
        f"Noise of {apart} is correlated {where}: some of it stays in the movie. If the residual "
        "pictures show shapes of the specimen, structure was taken out instead.",
    )


def _judge_size(checks: ResidualChecks) -> Finding:
    """Whether as much was removed as there is noise."""
    size = max(checks.std, 1 / checks.std) if checks.std > 0 else math.inf
    level = grade(size, STANDARD, _CHANCE / math.sqrt(checks.pixels))
    value = f"standardised residual {checks.std:.2f}, 1 expected"
    if level == "good":
        return Finding(level, f"As much was removed as there is noise ({value}).")
    if checks.std > 1:
        return Finding(
            level,
            f"More was removed than there is noise ({value}): structure was lost, or the noise "
            "model assumes too little noise. Compare the noise curve below; fit longer.",
        )
    return Finding(
        level,
        f"Less was removed than there is noise ({value}): noise stays in the movie, or the noise "
        "model assumes too much. Compare the noise curve below.",
    )


def judge_brightness(brightness: Brightness) -> Finding:
    """Whether frames keep their mean."""
    known = np.isfinite(brightness.deviation)
    if not known.any():
        return Finding("note", "Brightness could not be compared: no frame was measured.")
    chance = _CHANCE * brightness.error / brightness.span
    excess = np.where(known, np.abs(brightness.deviation) - chance, -np.inf)
    worst = int(np.argmax(excess))
    level = grade(float(excess[worst]), BRIGHTNESS)
    overall = float(np.mean(brightness.deviation[known]))
    overall_chance = float(np.mean(chance[known])) / math.sqrt(known.sum())
    overall_level = grade(abs(overall), BRIGHTNESS, overall_chance)
    if overall_level == "warning" or (overall_level == "note" and level != "warning"):
        return Finding(
            overall_level,
            f"Brightness changed by {_percent(overall)} of the range over the whole movie: measure "
            "intensities in the noisy movie, or fit longer.",
        )
    if level == "good":
        return Finding(level, f"Brightness is kept in every frame{_looked_at(brightness)}.")
    return Finding(
        level,
        f"Brightness changed by {_percent(brightness.deviation[worst])} of the range in frame "
        f"{brightness.frames[worst]}: measure intensities there in the noisy movie.",
    )


def _percent(part: float) -> str:
    """A signed part of 1, in percent."""
    return f"{100 * part:+.1f} %".replace("-", "−")


def _looked_at(brightness: Brightness) -> str:
    """Say where frames were left out."""
    skipped = int(brightness.frames[-1]) + 1 > len(brightness.frames)
    return f" of {len(brightness.frames)} that were compared" if skipped else ""


def noise_ratio(noise: NoiseModel, fit: NoiseFit) -> float:
    """Noise variance measured over that of the model, in the pixels of the curve."""
    used = (fit.bin_weights > 0) & np.isfinite(fit.bin_variances)
    if not used.any():
        return math.nan
    assumed = np.asarray(noise.variance(fit.bin_means[used]))
    ratio = fit.bin_variances[used] / assumed
    return float(np.average(ratio, weights=fit.bin_counts[used]))


def judge_noise(noise: NoiseModel | None, fit: NoiseFit | None) -> Finding:
    """Whether the noise model in use fits what the movie shows."""
    if noise is None:
        return Finding(
            "note",
            "There was no noise model: the result has no uncertainty, and nothing says how much "
            "noise there is to remove.",
        )
    ratio = math.nan if fit is None else noise_ratio(noise, fit)
    if not math.isfinite(ratio):
        return Finding("note", "The noise could not be measured again on this movie.")
    level = grade(max(ratio, 1 / ratio if ratio > 0 else math.inf), CURVE)
    if level == "good":
        return Finding(level, "The noise model agrees with the noise of the movie.")
    more, much = ("more", "little") if ratio > 1 else ("less", "much")
    return Finding(
        level,
        f"The movie has {more} noise than the model says ({ratio:.2f} times its variance): too "
        f"{much} noise is assumed, and the uncertainty is off with it. Let it be estimated, or "
        "calibrate the camera.",
    )


def held_out(
    history: Sequence[TrainingStep], report: Mapping[str, Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Steps (or numbers from 1, where the history is gone) and held-out losses."""
    measured = [(step.step, step.held_out) for step in history if step.held_out is not None]
    if not history:
        measured = list(enumerate(report.get("held_out_loss") or [], 1))
    table = np.array(measured, np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def judge_fit(history: Sequence[TrainingStep], report: Mapping[str, Any]) -> list[Finding]:
    """Whether the fit was long enough."""
    steps, losses = held_out(history, report)
    found = []
    if history and history[-1].fraction < 1:
        found.append(
            Finding(
                "warning",
                f"The fit was stopped at {history[-1].fraction:.0%}: the learning rate had not "
                "come down yet. A fit that ends by itself gives a better result.",
            )
        )
    if history and history[-1].skipped:
        found.append(
            Finding(
                "note",
                f"{history[-1].skipped} of {history[-1].step} steps had gradients that are not "
                "finite and changed nothing; if they are many, choose precision float32.",
            )
        )
    if not len(losses):
        why = "with a saved model" if not report.get("steps") else "before the first measurement"
        found.append(
            Finding(
                "note",
                f"There is no held-out loss to judge the fit by: the movie was denoised {why}. "
                "The residual below says whether the model suits this movie.",
            )
        )
        return found
    half = losses[(steps >= 0.4 * steps[-1]) & (steps <= 0.6 * steps[-1])]
    end = float(np.median(losses[-3:]))
    if len(losses) < 6 or not len(half):
        found.append(
            Finding(
                "note",
                "The held-out loss was measured too rarely to say whether it settled: a longer "
                "time budget may gain.",
            )
        )
    elif (gain := float(np.median(half)) - end) > STILL_GAINING:
        found.append(
            Finding(
                "note",
                "The fit ended before the held-out loss settled (it fell by "
                f"{gain:.3f} in the second half): a longer time budget may gain.",
            )
        )
    elif end > losses.min() + WORSE_AGAIN:
        found.append(
            Finding(
                "note",
                f"The held-out loss rose again by {end - losses.min():.3f} from its best: the "
                "network begins to learn the noise by heart. Choose a shorter fit.",
            )
        )
    elif not found:
        found.append(Finding("good", "The held-out loss had settled when the fit ended."))
    return found


def judge_motion(motion: Motion) -> list[Finding]:
    """Whether motion is of a size that can be followed."""
    if motion.whole[1] <= FAST:
        return []
    return [
        Finding(
            "note",
            f"Things move by up to {motion.whole[1]:.1f} px from frame to frame: what moves by "
            "more than its own size is often lost. Play the movie, and check fast objects.",
        )
    ]
