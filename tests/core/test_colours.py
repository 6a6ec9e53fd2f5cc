"""Claims on colours: taken apart into components, denoised along one motion, put together again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage, signal

from napari_stbn import Denoiser, GaussianNoise, Stack, STBNConfig, simulate
from napari_stbn._colour_basis import ColourBasis, measure_bases
from napari_stbn._colour_stack import ColourOutput, ColourStack
from napari_stbn._generators import last
from napari_stbn._unbiased import UnbiasedInverse
from napari_stbn.export import export_bioimageio
from napari_stbn.noise import MeasuredNoise, PoissonGaussianNoise
from napari_stbn.preparation import PreparedStack, measure_channels
from napari_stbn.training import TrainingConfig

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
FEW = TrainingConfig(max_steps=3, clip_frames=2, clip_size=16, patience=0)
SHARES = (1.0, 0.7, 0.4)
Array = NDArray[Any]


def tiny(**options: Any) -> Denoiser:
    return Denoiser("preview", device="cpu", network=TINY, precision="float32", **options)


def coloured(
    sigma: float = 6.0,
    shape: tuple[int, int, int] = (6, 40, 40),
    shares: tuple[float, ...] = SHARES,
) -> tuple[Array, Array]:
    """One scene in three strengths, and the same with noise of each sample's own."""
    scene = simulate(shape, photons=300, seed=3).clean
    clean = np.stack([20 + share * (scene - scene.min()) for share in shares], -1)
    noise = np.random.default_rng(1).normal(0, sigma, clean.shape)
    return clean, (clean + noise).astype(np.float32)


def psnr(estimate: Array, clean: Array) -> float:
    return float(20 * np.log10(np.ptp(clean) / np.sqrt(np.mean((estimate - clean) ** 2))))


# ---------------------------------------------------------------- the basis


def test_a_basis_gathers_what_colours_share() -> None:
    _, noisy = coloured()
    (basis,) = last(measure_bases(Stack(noisy, "TYXS")))
    shares = np.array(SHARES) / np.linalg.norm(SHARES)
    np.testing.assert_allclose(basis.matrix[0], shares, atol=0.02)
    np.testing.assert_allclose(basis.matrix @ basis.matrix.T, np.eye(3), atol=1e-9)
    assert basis.kept == (0, 1, 2), "the others hold noise, which is to be taken out"
    assert ColourBasis.from_dict(basis.to_dict()) == basis


def test_colours_of_different_things_stay_apart() -> None:
    noisy = np.stack([simulate((6, 40, 40), seed=seed).noisy for seed in range(3)], -1)
    (basis,) = last(measure_bases(Stack(noisy, "TYXS")))
    np.testing.assert_array_equal(basis.matrix, np.eye(3))
    assert basis.apart
    stack = ColourStack(Stack(noisy, "TYXS"), [basis])
    assert [stack.witness(c) for c in range(3)] == [None] * 3, "each has noise of its own"
    result = tiny().fit(noisy, axes="TYXS", training=FEW).denoise(noisy, axes="TYXS")
    assert result.flow_to_next.shape == (3, 1, 5, 2, 40, 40), "each moves as it does"
    with_empty = np.concatenate([0 * noisy[..., :1], noisy[..., 1:]], -1)
    result = tiny().fit(with_empty, axes="TYXS", training=FEW).denoise(with_empty, axes="TYXS")
    np.testing.assert_array_equal(result.flow_to_next[0], result.flow_to_next[1])
    assert (result.flow_to_next[1] != result.flow_to_next[2]).any()


def test_light_is_bright_in_every_basis() -> None:
    """Weights were learnt on light that is bright; an inverted movie would be denoised worse."""
    _, noisy = coloured(shares=(0.2, 0.9, 0.5))
    for movie in (noisy, -noisy):
        (basis,) = last(measure_bases(Stack(movie, "TYXS")))
        assert basis.matrix[0].sum() > 0


def test_components_that_hold_nothing_are_left_alone() -> None:
    _, noisy = coloured()
    grey = np.repeat(noisy[..., :1], 3, -1)
    (basis,) = last(measure_bases(Stack(grey, "TYXS")))
    assert basis.kept == (0,)
    green = np.stack([0 * noisy[..., 0], noisy[..., 0], 0 * noisy[..., 0]], -1)
    (basis,) = last(measure_bases(Stack(green, "TYXS")))
    np.testing.assert_array_equal(basis.matrix, np.eye(3))
    assert basis.kept == (1,)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": [[1, 0], [1, 0]]}, "orthonormal"),
        ({"kept": []}, "are kept"),
        ({"kept": [2]}, "are kept"),
        ({"levels": [1.0]}, "levels of 2"),
        ({"laws": [{"kind": "gaussian", "sigma": 1.0}, None]}, "needs no law"),
    ],
)
def test_a_wrong_basis_is_refused(changed: dict[str, Any], message: str) -> None:
    values = {"rows": [[1, 0], [0, 1]], "kept": [0, 1], "levels": [0.0, 0.0]}
    values |= {"laws": [None, None], "limits": [[0, 1], [0, 1]]} | changed
    with pytest.raises(ValueError, match=message):
        ColourBasis.from_dict(values)


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("axes", ["TYXS", "STYX", "CTZYXS"])
@pytest.mark.parametrize("folder", [False, True])
def test_components_give_the_samples_back(tmp_path: Path, axes: str, folder: bool) -> None:
    _, noisy = coloured()
    full = np.stack([np.stack([noisy, noisy + 1], 1), np.stack([noisy[..., ::-1]] * 2, 1)])
    full = full[tuple(slice(None) if a in axes else 0 for a in "CTZYXS")]
    order = [a for a in "CTZYXS" if a in axes]
    data = full.transpose([order.index(a) for a in axes])
    stack = Stack(data, axes)
    seen = ColourStack(stack, last(measure_bases(stack)))
    got: dict[tuple[int, int], Array] = {}

    def take(channel: int, plane: int, start: int, mean: Array, std: Array | None) -> None:
        whole = got.setdefault((channel, plane), np.full((6, 40, 40), np.nan, np.float32))
        whole[start : start + len(mean)] = mean
        assert std is not None
        np.testing.assert_allclose(std, 2.0, rtol=1e-5)  # a rotation keeps equal errors

    output = ColourOutput(take, seen, tmp_path if folder else None)
    for channel, plane in seen.indices():
        for start in (0, 4):
            part = seen.movie(channel, plane, frames=slice(start, start + 4))
            output(channel, plane, start, part, np.full_like(part, 2.0))
    np.testing.assert_allclose(stack.assemble(got), data, atol=1e-3)


# ---------------------------------------------------------------- denoising


def test_colours_are_denoised_in_their_components_by_default() -> None:
    clean, noisy = coloured()
    before = noisy.copy()
    denoiser = Denoiser("preview", device="cpu", seed=0).fit(noisy, axes="TYXS", max_steps=1)
    assert denoiser.model is not None
    assert denoiser.model.config.channels == 1, "so that the weights that were learnt serve"
    result = denoiser.denoise(noisy, axes="TYXS")
    assert result.report["start"] == "pretrained"
    assert result.denoised.shape == noisy.shape
    assert result.uncertainty is not None
    assert result.uncertainty.shape == noisy.shape
    assert result.flow_to_next.shape == (5, 2, 40, 40), "one motion for all colours"
    np.testing.assert_array_equal(noisy, before)
    apart = Denoiser("preview", device="cpu", seed=0, channels="separate")
    by_samples = apart.fit(noisy, axes="TYXS", max_steps=1).denoise(noisy, axes="TYXS").denoised
    assert psnr(result.denoised, clean) > psnr(by_samples, clean) + 1.0
    inside = np.abs(result.denoised - clean) < result.uncertainty
    assert 0.5 < inside.mean() < 0.9
    for sample in range(3):
        bias = float((result.denoised - clean)[..., sample].mean())
        assert abs(bias) < 0.005 * float(np.ptp(clean))
        noise = result.noise[sample]
        assert noise is not None
        assert float(np.sqrt(noise.variance(np.float64(60.0)))) == pytest.approx(6.0, rel=0.15)


def test_shot_noise_of_samples_follows_from_that_of_components() -> None:
    scene = simulate((12, 96, 96), photons=300, seed=3).clean
    light = (scene - scene.min()) / np.ptp(scene) * 200
    camera = PoissonGaussianNoise(gain=2.0, offset=50.0, read_noise=1.5)
    rng = np.random.default_rng(0)
    noisy = np.stack([camera.simulate(50 + 2 * light, rng) for _ in range(3)], -1)
    result = tiny(flow="none").fit(noisy, axes="TYXS", training=FEW).denoise(noisy, axes="TYXS")
    levels = np.array([100.0, 250.0])
    for sample in range(3):
        noise = result.noise[sample]
        assert noise is not None
        np.testing.assert_allclose(noise.variance(levels), camera.variance(levels), rtol=0.15)


def test_grey_in_three_colours_stays_grey() -> None:
    clean, noisy = coloured()
    grey = np.repeat(noisy[..., :1], 3, -1)
    result = tiny().fit(grey, axes="TYXS", training=FEW).denoise(grey, axes="TYXS")
    np.testing.assert_allclose(np.ptp(result.denoised, axis=-1), 0, atol=1e-3)
    alone = tiny().fit(noisy[..., 0], axes="TYX", training=FEW).denoise(noisy[..., 0], axes="TYX")
    assert psnr(result.denoised[..., 0], clean[..., 0]) == pytest.approx(
        psnr(alone.denoised, clean[..., 0]), abs=1.0
    )
    assert result.uncertainty is not None
    assert alone.uncertainty is not None
    assert np.median(result.uncertainty) == pytest.approx(np.median(alone.uncertainty), rel=0.3)


def test_a_sample_that_holds_one_value_keeps_it() -> None:
    _, noisy = coloured()
    noisy[..., 0] = 9.0
    result = tiny().fit(noisy, axes="TYXS", training=FEW).denoise(noisy, axes="TYXS")
    np.testing.assert_allclose(result.denoised[..., 0], 9.0, atol=1e-2)


def test_what_was_not_measured_is_predicted() -> None:
    _, noisy = coloured()
    noisy[2, 5, 6, 1] = np.nan
    noisy[4] = 3.0  # dropped
    result = tiny().fit(noisy, axes="TYXS", training=FEW).denoise(noisy, axes="TYXS")
    assert np.isfinite(result.denoised).all()
    np.testing.assert_allclose(result.denoised[4], 3.0, atol=1e-4)
    assert any("frame" in note for note in result.report["notes"])


def test_blank_frames_come_back_as_they_were_recorded(tmp_path: Path) -> None:
    scene = simulate((12, 48, 48), kind="membranes", photons=100, seed=3)
    light = (scene.clean - scene.offset) / scene.gain
    clean = np.stack([100 + 2 * share * light for share in SHARES], -1)
    camera = PoissonGaussianNoise(gain=2.0, offset=100.0, read_noise=1.6)
    noisy = camera.simulate(clean, np.random.default_rng(0)).astype(np.float32)
    noisy[[3, 9]] = 0  # far below the offset, where noise that grows is not made even
    stack, blank = Stack(noisy, "TYXS"), np.isin(np.arange(12), [3, 9])
    denoiser = tiny(flow="none", turns=1).fit(stack, training=FEW)
    assert any(law is not None for law in denoiser.colours[0].laws)
    result = denoiser.denoise(stack)
    assert (result.denoised[blank] == 0).all()
    assert np.isfinite(result.denoised).all()
    assert result.uncertainty is not None
    np.testing.assert_array_equal(np.isnan(result.uncertainty).all((1, 2, 3)), blank)
    denoiser.release()
    denoiser.denoise_to(stack, tmp_path / "out.npy")
    assert (np.load(tmp_path / "out.npy")[blank] == 0).all()


def test_a_saved_model_knows_its_colours(tmp_path: Path) -> None:
    _, noisy = coloured()
    denoiser = tiny().fit(noisy, axes="TYXS", training=FEW)
    whole = denoiser.denoise(noisy, axes="TYXS").denoised
    loaded = Denoiser.load(denoiser.save(tmp_path / "colours.stbn"), device="cpu")
    np.testing.assert_array_equal(loaded.denoise(noisy, axes="TYXS").denoised, whole)
    with pytest.raises(ValueError, match="3 colour samples, this stack has no axis S"):
        loaded.denoise(noisy[..., 0], axes="TYX")
    with pytest.raises(ValueError, match="of 3 colours, this stack has 1 of 2"):
        loaded.denoise(noisy[..., :2], axes="TYXS")
    pytest.importorskip("bioimageio.spec")
    with pytest.raises(ValueError, match="brightness and differences"):
        export_bioimageio(loaded, tmp_path / "model.zip")


@pytest.mark.parametrize("refine", ["reestimate", "distill"])
def test_motion_that_a_fit_refines_is_that_of_all_colours(refine: Any) -> None:
    _, noisy = coloured()
    training = TrainingConfig(max_steps=8, clip_frames=2, clip_size=16, patience=0, refine=refine)
    denoiser = tiny().fit(noisy, axes="TYXS", training=training)
    result = denoiser.denoise(noisy, axes="TYXS")
    assert result.flow_to_next.shape == (5, 2, 40, 40)
    prepared = denoiser._prepared
    assert prepared is not None
    first, *others = prepared.movies.values()
    for other in others:
        np.testing.assert_array_equal(other.flow_to_next.numpy(), first.flow_to_next.numpy())


def test_a_fit_that_cannot_begin_leaves_the_model_as_it_was(monkeypatch: Any) -> None:
    _, noisy = coloured()
    denoiser = tiny().fit(noisy, axes="TYXS", training=FEW)
    before = denoiser.denoise(noisy, axes="TYXS").denoised
    with monkeypatch.context() as patch:
        patch.setattr("napari_stbn.estimates.free_memory", lambda _: 1000)
        with pytest.raises(MemoryError):
            denoiser.fit(noisy[..., ::-1] + 1, axes="TYXS", training=FEW)
    np.testing.assert_array_equal(denoiser.denoise(noisy, axes="TYXS").denoised, before)


@pytest.mark.parametrize("noisy_samples", [False, True])
def test_texture_in_the_brightness_is_not_taken_for_shared_noise(noisy_samples: bool) -> None:
    """Noise that a camera's pixels share is in the colour differences as well."""
    clean, _ = coloured(shape=(8, 96, 96))
    rng = np.random.default_rng(2)
    white = rng.normal(0, 6, clean.shape)
    if noisy_samples:
        noisy = clean + 3 * ndimage.gaussian_filter(white, (0, 0.7, 0.7, 0))
    else:  # unpredictable, and the same for all colours
        texture = rng.normal(0, 20, clean.shape[:3])
        for axis in (1, 2):  # of details as fine as those of shared noise
            texture = np.asarray(signal.lfilter([1], [1, -0.5], texture, axis=axis))
        noisy = clean + white + texture[..., None] * np.array(SHARES)
    stack = ColourStack(Stack(noisy, "TYXS"), last(measure_bases(Stack(noisy, "TYXS"))))
    assert not stack.bases[0].apart
    prepared = PreparedStack(stack, {}, {}, {})
    for _ in measure_channels(prepared, "estimate", "auto"):
        pass
    assert (prepared.correlation[0] is not None) == noisy_samples
    said = [note for note in prepared.notes if note.startswith("Noise of")]
    assert not any("share noise" in note for note in said), "the note on the filter says it"
    alone = PreparedStack(Stack(stack.movie(0), "TYX"), {}, {}, {})
    for _ in measure_channels(alone, "estimate", "auto"):
        pass
    assert alone.correlation[0] is not None, "alone it cannot be told"


def test_a_look_during_the_fit_is_of_the_sample() -> None:
    _, noisy = coloured()
    denoiser = tiny()
    looks: list[Array | None] = []
    for progress in denoiser.fit_steps(noisy, axes="TYXS", training=FEW):
        if progress.step is not None and progress.step.step == 3:
            rows = slice(4, 24)
            looks = [last(denoiser.preview_steps(2, channel=c, rows=rows)) for c in range(3)]
    result = denoiser.denoise(noisy, axes="TYXS").denoised[2, 4:24]
    for sample, look in enumerate(looks):
        assert look is not None
        assert look.shape == (20, 40)
        assert look.mean() == pytest.approx(result[..., sample].mean(), rel=0.05)


@pytest.mark.parametrize(
    ("options", "channels", "apart"),
    [
        ({}, 1, True),
        ({"noise": GaussianNoise(6.0)}, 1, True),
        ({"noise": None}, 1, True),
        ({"noise": PoissonGaussianNoise(1.0, 0.0, 6.0)}, 1, True),
        ({"channels": "separate"}, 1, False),
        ({"channels": "joint"}, 3, False),
    ],
)
def test_which_stacks_are_taken_apart(options: dict[str, Any], channels: int, apart: bool) -> None:
    _, noisy = coloured()
    denoiser = tiny(**options).fit(noisy, axes="TYXS", training=FEW)
    assert denoiser.model is not None
    assert denoiser.model.config.channels == channels
    assert bool(denoiser.colours) == apart
    result = denoiser.denoise(noisy, axes="TYXS")
    assert set(result.noise) == {0, 1, 2}
    assert np.isfinite(result.denoised).all()
    grey = denoiser.fit(noisy[..., 0], axes="TYX", training=FEW)
    assert not grey.colours, "of the last fit"


def test_a_fit_goes_on_from_a_model_of_channels_together(tmp_path: Path) -> None:
    _, noisy = coloured()
    path = tiny(channels="joint").fit(noisy, axes="TYXS", training=FEW).save(tmp_path / "rgb.stbn")
    denoiser = tiny(start=path).fit(noisy, axes="TYXS", training=FEW)
    assert denoiser.model is not None
    assert denoiser.model.config.channels == 3


# ---------------------------------------------------------------- noise that grows


@pytest.mark.parametrize(
    "noise",
    [
        PoissonGaussianNoise(gain=2.0, offset=100.0, read_noise=1.0),
        PoissonGaussianNoise(gain=0.5, offset=-3.0, read_noise=0.0),
        MeasuredNoise((0.0, 20.0, 100.0), (9.0, 4.0, 2.0)),
    ],
)
def test_the_mean_of_stabilised_values_gives_the_clean_one_back(noise: Any) -> None:
    rng = np.random.default_rng(0)
    inverse = UnbiasedInverse(noise, (0.0, 200.0))
    for level in (10.0, 60.0) if isinstance(noise, MeasuredNoise) else (101.0, 103.0, 110.0, 180.0):
        seen = noise.stabilize(noise.simulate(np.full(200_000, level), rng))
        mean, std = (np.array([f(seen)], np.float32) for f in (np.mean, np.std))
        error = float(np.sqrt(noise.variance(np.float64(level))))
        clean, _ = inverse(mean, None)
        assert clean[0] == pytest.approx(level, abs=0.01 * error)
        _, spread = inverse(mean, std)
        assert spread is not None
        assert spread[0] == pytest.approx(error, rel=0.25)


def test_values_beyond_those_that_were_seen_are_not_cut_off() -> None:
    """A flash between the frames that the basis was measured on, or a brighter movie."""
    noise = PoissonGaussianNoise(gain=2.0, offset=100.0, read_noise=1.0)
    inverse = UnbiasedInverse(noise, (100.0, 150.0))
    far = np.array([60.0, 400.0, 4000.0])
    clean, _ = inverse(noise.stabilize(far).astype(np.float32), None)
    np.testing.assert_allclose(clean, far, atol=1.0)
    seen = np.linspace(50, 500, 2001)
    back, _ = inverse(noise.stabilize(seen).astype(np.float32), None)
    assert (np.diff(back) > 0).all()


def test_noise_that_grows_is_made_even_and_no_bias_is_left() -> None:
    """Differences of colours do not know how bright a pixel is, and so how noisy."""
    scene = simulate((12, 64, 64), kind="membranes", photons=100, seed=3)
    light = (scene.clean - scene.offset) / scene.gain
    camera = PoissonGaussianNoise(gain=2.0, offset=100.0, read_noise=1.6)
    clean = np.stack([100 + 2 * share * light for share in SHARES], -1)
    noisy = camera.simulate(clean, np.random.default_rng(0)).astype(np.float32)
    found = {}
    ways: tuple[Literal["auto", "separate"], ...] = ("auto", "separate")
    for channels in ways:
        denoiser = Denoiser("preview", device="cpu", flow="none", channels=channels)
        denoiser.fit(noisy, axes="TYXS", max_steps=1)
        found[channels] = denoiser.denoise(noisy, axes="TYXS")
    result = found["auto"]
    assert psnr(result.denoised, clean) > psnr(found["separate"].denoised, clean) + 0.5
    assert abs(float((result.denoised - clean).mean())) < 0.002 * float(np.ptp(clean))
    assert 0.6 < np.mean(np.abs(result.denoised - clean) < np.asarray(result.uncertainty)) < 0.88
