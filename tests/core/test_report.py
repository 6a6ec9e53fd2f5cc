"""Claims of the report: its numbers are right, its verdict follows them, its page stands alone."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from napari_stbn import Denoiser, GaussianNoise, PoissonGaussianNoise, Stack, write
from napari_stbn.cli import main
from napari_stbn.report import residual_checks, write_report
from napari_stbn.result import DenoiseResult
from napari_stbn.samples import simulate
from napari_stbn.training import TrainingStep

Array = NDArray[Any]
NOISE = PoissonGaussianNoise(gain=2.0, offset=100.0, read_noise=1.5)
PNG = "data:image/png;base64,"


def scene(shape: tuple[int, int, int] = (24, 64, 72)) -> Array:
    """Bright stripes that stand still, in counts."""
    y, x = np.mgrid[: shape[1], : shape[2]]
    return np.broadcast_to(140 + 40 * np.sin(x / 5) * np.cos(y / 7), shape)


def made(
    noisy: Array,
    denoised: Array,
    uncertainty: Array | None,
    *,
    axes: str = "TYX",
    noise: PoissonGaussianNoise | GaussianNoise | None = NOISE,
    name: str = "cells",
    **report: Any,
) -> tuple[DenoiseResult, Stack]:
    """A result as `Denoiser.denoise` would hand it out, and its input."""
    stack = Stack(noisy, axes, pixel_size=0.5, frame_interval=2.0, name=name)
    channels, planes = stack.n_channels, stack.n_planes
    flow = np.zeros((stack.n_frames - 1, 2, *stack.frame_shape), np.float32)
    flow[:, 0] = 3.0
    flow[:, 1] = 4.0
    if channels * planes > 1:
        flow = np.broadcast_to(flow, (channels, planes, *flow.shape))
    denoised = denoised.astype(np.float32)
    result = DenoiseResult(
        denoised=denoised,
        uncertainty=None if uncertainty is None else uncertainty.astype(np.float32),
        flow_to_previous=-flow,
        flow_to_next=flow,
        noise=dict.fromkeys(range(channels), noise),
        stack=stack.like(denoised),
        report={"notes": [], "steps": 100, "held_out_loss": [], **report},
    )
    return result, stack


def right(
    shape: tuple[int, int, int] = (24, 64, 72), share: float = 0.2, seed: int = 0
) -> tuple[DenoiseResult, Stack]:
    """A right posterior: the prior is off by as much as it says, `share` of the noise variance."""
    rng = np.random.default_rng(seed)
    clean = scene(shape)
    spread = share * NOISE.variance(clean)
    prior = clean + rng.normal(size=shape) * np.sqrt(spread)
    noisy = NOISE.simulate(clean, rng)
    mean, std = NOISE.posterior(noisy, prior, spread)
    return made(noisy, mean, std)


def steps(losses: list[float], *, end: float = 1.0, skipped: int = 0) -> list[TrainingStep]:
    """A history with a held-out loss in every tenth step."""
    count = 10 * len(losses)
    return [
        TrainingStep(
            step=n,
            loss=1 + 1 / n,
            held_out=losses[n // 10 - 1] if n % 10 == 0 else None,
            elapsed=0.1 * n,
            remaining=0.0,
            fraction=end * n / count,
            learning_rate=1e-3,
            skipped=skipped,
        )
        for n in range(1, count + 1)
    ]


SETTLED = steps([2, 1.4, 1.2, 1.1, 1.05, 1.001, 1.001, 1.001, 1.0, 1.0, 1.0, 1.0])


class Page(HTMLParser):
    """What is in a page; fails where an element is not closed as it should be."""

    VOID = ("meta", "img", "br", "circle", "line", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.verdict: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "li":
            self.verdict.append((str(dict(attrs)["class"]), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "li" in self.open:
            level, said = self.verdict[-1]
            self.verdict[-1] = level, said + data

    def levels(self, word: str) -> list[str]:
        """Levels of the sentences of the verdict that hold a word."""
        return [level for level, said in self.verdict if word in said]

    def pictures(self) -> list[Array]:
        """Images, decoded, each as large as the page says."""
        images = []
        for tag, attributes in self.tags:
            if tag != "img":
                continue
            source = str(attributes["src"])
            assert source.startswith(PNG)
            assert attributes["alt"]
            data = base64.b64decode(source.removeprefix(PNG), validate=True)
            assert data.startswith(b"\x89PNG")
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            assert image is not None
            assert image.shape == (int(attributes["height"] or 0), int(attributes["width"] or 0))
            images.append(image)
        return images


def page(folder: Path, result: DenoiseResult, noisy: Stack, history: Any = SETTLED) -> Page:
    path = write_report(folder / "r.html", result, noisy, history, overwrite=True)
    return Page(path.read_text(encoding="utf-8"))


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("share", [0.01, 0.1, 0.2])
def test_a_right_posterior_leaves_white_noise_of_unit_size(share: float) -> None:
    """However far the result follows the measurement: V - u^2 is the residual's variance."""
    result, noisy = right(share=share)
    checks = residual_checks(result, noisy)
    assert checks.pixels == 24 * 64 * 72
    assert checks.std == pytest.approx(1, abs=0.02)
    assert checks.mean == pytest.approx(0, abs=0.03)
    assert checks.over_noise == pytest.approx(1 / np.sqrt(1 + share), rel=0.03)
    assert checks.over_noise_expected == pytest.approx(checks.over_noise, rel=0.02)
    assert (*checks.along_x, *checks.along_y, *checks.along_t) == pytest.approx([0] * 9, abs=0.02)
    assert (checks.rows, checks.columns) == pytest.approx((1, 1), abs=0.08)
    assert checks.low_pass == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("share", [1.0, 3.0])
def test_the_size_is_right_where_the_result_follows_the_measurement(share: float) -> None:
    """The noise variance is then known from pixels that carry the noise themselves."""
    checks = residual_checks(*right(share=share))
    assert checks.std == pytest.approx(1, abs=0.05)


def test_correlations_are_those_of_a_moving_average() -> None:
    """Noise averaged over n pixels has correlation 1 - lag / n."""
    rng = np.random.default_rng(1)
    clean = np.full((24, 64, 72), 50.0)
    white = rng.normal(size=(24, 65, 74))
    noise = white[:, :, :-2] + white[:, :, 1:-1] + white[:, :, 2:]
    noise = (noise[:, :-1] + noise[:, 1:]) / np.sqrt(6)
    result, noisy = made(clean + 3 * noise, clean, 0 * clean, noise=GaussianNoise(3.0))
    checks = residual_checks(result, noisy)
    assert checks.along_x == pytest.approx((2 / 3, 1 / 3, 0), abs=0.03)
    assert checks.along_y == pytest.approx((1 / 2, 0, 0), abs=0.03)
    assert checks.along_t == pytest.approx((0, 0, 0), abs=0.03)
    assert checks.std == pytest.approx(1, abs=0.02)


def test_stripes_are_measured_along_their_axis() -> None:
    """A value of its own for every row, of the noise's size over s, adds W / s^2 to row means."""
    rng = np.random.default_rng(2)
    clean = np.full((24, 64, 72), 50.0)
    noise = rng.normal(size=clean.shape) + 0.3 * rng.normal(size=(24, 64, 1))
    result, noisy = made(clean + 3 * noise, clean, 0 * clean, noise=GaussianNoise(3.0))
    checks = residual_checks(result, noisy)
    assert checks.rows == pytest.approx(np.sqrt((1 + 72 * 0.09) / 1.09), rel=0.05)
    assert checks.columns == pytest.approx(1, abs=0.1)


def test_an_uncertainty_that_hides_noise_is_found() -> None:
    result, noisy = right(share=0.5)
    checks = residual_checks(replace(result, denoised=np.asarray(noisy.array, np.float32)), noisy)
    assert checks.std < 0.01
    assert result.uncertainty is not None
    blurred = replace(result, denoised=np.full_like(result.denoised, 140.0))
    assert residual_checks(blurred, noisy).std > 2


def test_pixels_without_data_take_no_part() -> None:
    result, noisy = right()
    damaged = np.array(noisy.array, np.float64)
    damaged[:, 40, 40] = 60000.0  # stuck pixel
    damaged[3] = 0.0  # dropped frame
    damaged[5, :8, :8] = np.nan
    unsure = np.array(result.uncertainty)
    unsure[8, 1, 1] = np.nan
    checks = residual_checks(replace(result, uncertainty=unsure), noisy.like(damaged))
    assert checks.pixels == 24 * 64 * 72 - 64 * 72 - 64 - 23 - 1
    assert checks.std == pytest.approx(1, abs=0.02)


def test_large_movies_are_looked_at_in_part() -> None:
    clean = np.full((50, 600, 520), 50.0, np.float32)
    result, noisy = made(clean + 3 * (np.indices(clean.shape).sum(0) % 2 - 0.5), clean, 0 * clean)
    assert residual_checks(result, noisy).pixels == 32 * 512 * 512


def test_another_stack_is_refused(tmp_path: Path) -> None:
    result, noisy = right()
    with pytest.raises(ValueError, match="must be the stack that was denoised"):
        residual_checks(result, noisy.like(np.zeros((24, 64, 70))))
    with pytest.raises(ValueError, match="must be the stack that was denoised"):
        write_report(tmp_path / "r.html", result, Stack(noisy.array, "TXY"))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- verdict


def test_a_good_run_passes_all_checks(tmp_path: Path) -> None:
    seen = page(tmp_path, *right())
    assert {level for level, _ in seen.verdict} == {"good"}, seen.verdict
    assert "All checks passed." in seen.text
    assert seen.levels("The residual is white")
    assert all(said.startswith("Good ") for _, said in seen.verdict), "colour is not enough"


def test_correlated_noise_is_a_warning(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    result, noisy = right()
    white = rng.normal(size=(24, 64, 73))
    noise = (white[..., 1:] + 0.4 * white[..., :-1]) / np.sqrt(1.16)
    sigma = np.sqrt(NOISE.variance(scene()))
    result, noisy = made(scene() + noise * sigma, scene(), 0 * sigma)
    seen = page(tmp_path, result, noisy)
    assert seen.levels("Noise of neighbouring pixels is correlated") == ["warning"]
    assert not seen.levels("The residual is white")
    assert re.search(r"0\.3\d along x", seen.text)
    assert "Do not trust this result blindly" in seen.text


def test_lost_structure_is_a_warning(tmp_path: Path) -> None:
    result, noisy = right()
    flat = result.denoised.mean(axis=(1, 2), keepdims=True)
    lost = replace(result, denoised=result.denoised + 0.15 * (flat - result.denoised))
    seen = page(tmp_path, lost, noisy)
    assert seen.levels("coarse structure was taken out") == ["warning"]


@pytest.mark.parametrize(("gain", "level"), [(0.0, "good"), (-0.007, "note"), (0.02, "warning")])
def test_a_frame_of_other_brightness_is_named(tmp_path: Path, gain: float, level: str) -> None:
    shape = (24, 128, 128)
    result, noisy = right(shape)
    low, high = np.percentile(result.denoised[[0, 12, 23]], [0.1, 99.9])
    denoised = result.denoised.copy()
    chance = 4 * float(np.sqrt(NOISE.variance(scene()).mean() / 128**2)) / (high - low)
    denoised[7] += (gain + np.sign(gain) * chance) * (high - low)
    seen = page(tmp_path, replace(result, denoised=denoised), noisy)
    assert seen.levels("Brightness") == [level]
    named = [said for _, said in seen.verdict if "in frame 7" in said]
    assert bool(named) == (level != "good")


def test_a_bias_of_the_whole_movie_is_found_below_that_of_a_frame(tmp_path: Path) -> None:
    result, noisy = right()
    span = float(np.ptp(np.percentile(result.denoised, [0.1, 99.9])))
    seen = page(tmp_path, replace(result, denoised=result.denoised - 0.014 * span), noisy)
    assert seen.levels("over the whole movie") == ["warning"]


@pytest.mark.parametrize(
    ("history", "words", "level"),
    [
        (SETTLED, "had settled", "good"),
        (steps([2 - 0.05 * n for n in range(12)]), "before the held-out loss settled", "note"),
        (steps([1 + 0.02 * abs(n - 5) for n in range(12)]), "rose again", "note"),
        (steps([1.0] * 12, end=0.4), "stopped at 40%", "warning"),
        (steps([1.0] * 12, skipped=3), "3 of 120 steps", "note"),
        (steps([1.0, 1.0]), "too rarely", "note"),
        ([], "denoised before the first measurement", "note"),
    ],
)
def test_the_fit_is_judged_by_its_curve(
    tmp_path: Path, history: list[TrainingStep], words: str, level: str
) -> None:
    assert page(tmp_path, *right(), history).levels(words) == [level]


def test_without_a_history_the_losses_of_the_result_are_drawn(tmp_path: Path) -> None:
    result, noisy = right()
    losses = [step.held_out for step in SETTLED if step.held_out is not None]
    seen = page(tmp_path, replace(result, report={"held_out_loss": losses, "steps": 9}), noisy, ())
    assert seen.levels("had settled") == ["good"]
    assert "number of the measurement" in seen.text


def test_a_wrong_noise_model_is_found(tmp_path: Path) -> None:
    result, noisy = right((32, 128, 128))
    wrong = replace(result, noise={0: PoissonGaussianNoise(0.5, 100.0, 1.5)})
    seen = page(tmp_path, wrong, noisy)
    assert seen.levels("more noise than the model says") == ["warning"]
    assert seen.levels("More was removed than there is noise") == ["warning"]


def test_fast_motion_and_notes_are_told(tmp_path: Path) -> None:
    result, noisy = right()
    fast = replace(result, flow_to_next=4 * result.flow_to_next)
    seen = page(tmp_path, replace(fast, report={"notes": ["1 frames are blank: 3."]}), noisy)
    assert seen.levels("move by up to 20.0 px") == ["note"]
    assert seen.levels("1 frames are blank: 3.") == ["note"]
    seen = page(tmp_path, result, noisy)
    assert "Median 5.00 px per frame, 95th percentile 5.00 px (1.25 and 1.25 µm/s)" in seen.text


# ---------------------------------------------------------------- the page


def test_the_page_stands_alone(tmp_path: Path) -> None:
    seen = page(tmp_path, *right())
    assert [image.shape for image in seen.pictures()] == [(64, 72)] * 12
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in seen.tags}
    for tag, attributes in seen.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has a script in {name}"
            assert name not in ("href", "srcset", "action", "style")
            assert "://" not in str(value)
            assert name != "src" or str(value).startswith(PNG)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"url\(|@import|https?:", text)
    assert sum(tag == "svg" and "viewbox" in a for tag, a in seen.tags) == 4


def test_pictures_show_noisy_and_denoised_in_one_range(tmp_path: Path) -> None:
    result, noisy = right()
    twin = replace(result, denoised=np.asarray(noisy.array, np.float32))
    first = page(tmp_path, twin, noisy).pictures()
    np.testing.assert_array_equal(first[0], first[1])
    assert abs(float(page(tmp_path, result, noisy).pictures()[3].mean()) - 127) < 3


def test_what_a_user_wrote_stays_text(tmp_path: Path) -> None:
    result, noisy = right()
    bad = "<script>alert('x')</script><img src=http://e.org/a.png onerror=\"y\">&"
    named = Stack(noisy.array, "TYX", name=bad)
    told = replace(result, report={"notes": [bad], "device": bad, bad: bad, "steps": 1})
    seen = page(tmp_path, told, named)
    assert "script" not in {tag for tag, _ in seen.tags}
    assert len(seen.pictures()) == 12
    assert seen.text.count(bad) >= 4


def test_large_frames_are_cropped_where_there_is_structure(tmp_path: Path) -> None:
    clean = np.full((4, 900, 1000), 100.0, np.float32)
    clean[:, 600:800, 700:900] = 400
    rng = np.random.default_rng(4)
    noisy = clean + rng.normal(size=clean.shape).astype(np.float32) * 30
    result, stack = made(noisy, clean, np.full_like(clean, 2), noise=GaussianNoise(30.0))
    seen = page(tmp_path, result, stack)
    images = seen.pictures()
    assert {image.shape for image in images} == {(384, 384)}
    assert np.count_nonzero(images[1] == 255) == 200 * 200
    assert (tmp_path / "r.html").stat().st_size < 3_000_000


def test_many_channels_stay_small_and_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    clean = np.full((9, 3, 2, 300, 280), 100.0, np.float32)
    noisy = clean + rng.normal(size=clean.shape).astype(np.float32) * 5
    result, stack = made(noisy, clean, 0 * clean + 1, axes="CTZYX", noise=GaussianNoise(5.0))
    seen = page(tmp_path, result, stack, ())
    assert seen.levels("Channel 7: the residual is white")
    assert "1 more channels are not shown" in seen.text
    assert "plane 1" in seen.text
    assert (tmp_path / "r.html").stat().st_size < 3_000_000


def test_colours_and_joint_channels(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    clean = np.full((5, 20, 24, 3), 100.0)
    noisy = clean + rng.normal(size=clean.shape) * 5
    noisy[..., 1] += 0.5 * rng.normal(size=(5, 20, 1)) * 5
    result, stack = made(noisy, clean, 0 * clean + 1, axes="TYXS", noise=GaussianNoise(5.0))
    joint = replace(result, flow_to_next=result.flow_to_next[0, 0])
    seen = page(tmp_path, joint, stack)
    assert len(seen.pictures()) == 36
    assert seen.levels("Green: ") != seen.levels("Red: ")


def test_without_a_noise_model_the_page_says_so(tmp_path: Path) -> None:
    result, noisy = right()
    plain = replace(result, uncertainty=None, noise={0: None})
    checks = residual_checks(plain, noisy)
    assert np.isnan([checks.std, checks.over_noise, checks.over_noise_expected]).all()
    assert checks.along_x[0] == pytest.approx(0, abs=0.03)
    seen = page(tmp_path, plain, noisy)
    assert len(seen.pictures()) == 9
    assert seen.levels("There was no noise model") == ["note"]
    assert "there is no uncertainty" in seen.text
    assert "there is no expected size" in seen.text


@pytest.mark.parametrize("what", ["nan frame", "nan uncertainty", "blank middle", "two frames"])
def test_damaged_movies_still_have_a_page(tmp_path: Path, what: str) -> None:
    result, noisy = right((2, 16, 16) if what == "two frames" else (9, 32, 32))
    array = np.array(noisy.array)
    if what == "nan frame":
        array[-1] = np.nan
    if what == "nan uncertainty":
        result = replace(result, uncertainty=np.full_like(result.denoised, np.nan))
    if what == "blank middle":
        array[4] = 0
    seen = page(tmp_path, result, noisy.like(array))
    assert seen.pictures()
    assert seen.verdict


def test_a_result_that_changed_nothing_is_not_called_white(tmp_path: Path) -> None:
    result, noisy = right()
    same = replace(
        result,
        denoised=np.asarray(noisy.array, np.float32),
        stack=noisy.like(np.asarray(noisy.array, np.float32)),
    )
    seen = page(tmp_path, same, noisy.like(same.denoised))
    assert not seen.levels("The residual is white")
    assert seen.levels("Less was removed than there is noise") == ["warning"]


# ---------------------------------------------------------------- the file


def test_an_existing_file_is_kept_unless_told(tmp_path: Path) -> None:
    result, noisy = right((3, 16, 16))
    path = tmp_path / "r.html"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="exists; choose another name"):
        write_report(path, result, noisy)
    assert path.read_text() == "mine"
    assert write_report(path, result, noisy, overwrite=True) == path
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_file_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, noisy = right((3, 16, 16))
    path = tmp_path / "r.html"
    path.write_text("earlier")

    def full(self: Path, text: str, **_: Any) -> int:
        with self.open("w") as file:
            file.write(text[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="its drive, or your share of it, is full"):
        write_report(path, result, noisy, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    assert path.read_text() == "earlier"


def test_bad_names_are_refused(tmp_path: Path) -> None:
    result, noisy = right((3, 16, 16))
    with pytest.raises(ValueError, match=r"must end in \.html"):
        write_report(tmp_path / "r.pdf", result, noisy)
    with pytest.raises(FileNotFoundError, match="does not exist; make it first"):
        write_report(tmp_path / "no" / "r.html", result, noisy)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(FileExistsError, match="is a folder"):
        write_report(tmp_path / "folder.html", result, noisy, overwrite=True)


# ---------------------------------------------------------------- a real run, and the command line


def test_a_real_run_has_a_page_and_is_left_as_it_was(tmp_path: Path) -> None:
    movie = simulate((6, 32, 36), seed=0)
    stack = Stack(movie.noisy, "TYX")
    denoiser = Denoiser("preview", device="cpu").fit(stack, max_steps=3)
    result = denoiser.denoise(stack)
    before = [stack.movie().copy(), result.denoised.copy(), json.dumps(result.report)]
    seen = page(tmp_path, result, stack, denoiser.history)
    assert len(seen.pictures()) == 12
    np.testing.assert_array_equal(before[0], stack.movie())
    np.testing.assert_array_equal(before[1], result.denoised)
    assert before[2] == json.dumps(result.report)


def test_the_ending_of_the_report_chooses_its_kind(tmp_path: Path) -> None:
    movie = simulate((4, 24, 20), kind="nuclei", seed=0).noisy
    file = write(tmp_path / "movie.tif", Stack(movie, "TYX"))
    quick = ["--preset", "preview", "--device", "cpu", "--max-steps", "3"]
    quick += ["--clip-size", "12", "--clip-frames", "2"]
    report = tmp_path / "report.HTML"
    command = ["denoise", str(file), "-o", str(tmp_path / "out.tif"), "--report", str(report)]
    assert main([*command, *quick]) == 0
    seen = Page(report.read_text(encoding="utf-8"))
    assert "Denoising report: movie" in seen.text
    assert "step" in seen.text, "the history is in it"
    assert main([*command, *quick]) == 2
    command[-1] = str(tmp_path / "report.json")
    assert main([*command, *quick, "--force"]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["steps"] == 3
