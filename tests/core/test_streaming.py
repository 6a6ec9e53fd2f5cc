"""A stack larger than memory: the fit looks at parts of it, the result is that of the whole."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import zarr

from napari_stbn import (
    PoissonGaussianNoise,
    Stack,
    _denoiser_use,
    _inference_plan,
    _segments,
    read,
    simulate,
)
from napari_stbn._flow_scratch import FlowScratch
from napari_stbn._generators import last
from napari_stbn._lazy import LazyPart, MovieView
from napari_stbn._lazy_movie import LazyMovie
from napari_stbn._sampling import Sample
from napari_stbn._segments import plan_segments
from napari_stbn.denoiser import Denoiser
from napari_stbn.flow.field import ALIGNMENTS, Alignment, align_index
from napari_stbn.network import STBN, STBNConfig
from napari_stbn.result import DenoiseResult
from napari_stbn.training import TrainingConfig

TINY = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
FEW = TrainingConfig(max_steps=6, clip_frames=3, clip_size=16, batch=1)
LITTLE = 3.5e-3  # GB: a few frames, and enough for the network
Array = npt.NDArray[Any]


def spoilt() -> Array:
    """A movie with everything that a camera or a file may do to it."""
    movie = simulate((24, 40, 44), seed=1).noisy.astype(np.float32)
    movie[7] = 0  # dropped
    movie[12, 3, 4] = np.nan
    movie[:, 20, 21] = 500  # stuck
    movie[15] = np.nan
    return movie


@pytest.fixture(autouse=True)
def _small_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan for what so small a network takes, not for the scratch of those that people use."""
    monkeypatch.setattr(_inference_plan, "_SCRATCH", 0)


def of_one_thing() -> Array:
    """Colours that differ in strength and noise, of which the last hardly has anything."""
    made = simulate((16, 32, 28), photons=200, seed=7)
    camera = PoissonGaussianNoise(made.gain, made.offset, made.read_noise)
    clean = np.stack(
        [made.offset + part * (made.clean - made.offset) for part in (0.9, 0.5, 0)], -1
    )
    noisy = camera.simulate(clean, np.random.default_rng(0))
    noisy[..., 2] = 7.0
    noisy[5, 3, 4] = np.nan
    return noisy


STACKS: dict[str, Stack] = {
    "spoilt": Stack(spoilt(), "TYX", name="spoilt"),
    "channels and planes": Stack(
        np.stack([[simulate((14, 32, 28), seed=z + 2 * c).noisy for z in (0, 1)] for c in (0, 1)]),
        "CZTYX",
    ),
    "colours": Stack(
        np.stack([simulate((16, 32, 28), seed=c).noisy for c in range(3)], -1), "TYXS"
    ),
    "colours of one thing": Stack(of_one_thing(), "TYXS"),
    "columns before time": Stack(simulate((20, 32, 28), seed=4).noisy.transpose(2, 0, 1), "XTY"),
}


def tiny(memory: float | None = None, **options: Any) -> Denoiser:
    chosen = {"network": TINY, "precision": "float32", "start": "fresh", **options}
    return Denoiser(device="cpu", memory_limit=memory, **chosen)


def twin(fitted: Denoiser, path: Path, memory: float) -> Denoiser:
    """The same model, told to make do with less memory."""
    loaded = Denoiser.load(fitted.save(path / "model.stbn", overwrite=True), device="cpu")
    loaded.memory_limit = memory
    return loaded


@functools.cache
def fitted_and_denoised(which: str) -> tuple[Denoiser, DenoiseResult]:
    """A model of a stack, and what it makes of it in memory."""
    fitted = tiny().fit(STACKS[which], training=FEW)
    return fitted, fitted.denoise(STACKS[which])


@pytest.mark.parametrize(
    ("which", "ending"),
    [
        *(("spoilt", ending) for ending in (".ome.zarr", ".tif", ".ome.tif", ".npy")),
        *(("channels and planes", ending) for ending in (".ome.zarr", ".tif")),
        *(("colours", ending) for ending in (".ome.zarr", ".tif")),
        *(("colours of one thing", ending) for ending in (".ome.zarr", ".npy")),
        *(("columns before time", ending) for ending in (".ome.tif", ".npy")),
    ],
)
def test_a_streamed_result_is_that_of_the_whole(tmp_path: Path, which: str, ending: str) -> None:
    stack = STACKS[which]
    fitted, whole = fitted_and_denoised(which)
    streaming = twin(fitted, tmp_path, LITTLE)
    assert not fitted.streams(stack)
    path, spread = tmp_path / f"out{ending}", tmp_path / f"std{ending}"
    result = streaming.denoise_to(stack, path, uncertainty=spread)
    axes = stack.axes if ending == ".npy" else None
    for file, truth in ((path, whole.denoised), (spread, whole.uncertainty)):
        back = read(file, axes=axes)
        order = [back.axes.index(a if a in back.axes else "C") for a in stack.axes]
        assert truth is not None
        noise = float(np.nanmedian(np.asarray(whole.uncertainty)))
        np.testing.assert_allclose(
            np.asarray(back.array).transpose(order), truth, atol=1e-3 * noise, rtol=0
        )
    assert result.report["notes"] == whole.report["notes"]
    assert result.report["streamed"]
    assert result.path == path
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [path.name, spread.name, "model.stbn"]
    )


@pytest.mark.parametrize("colours", [False, True])
def test_motion_is_refined_in_a_stream_too(tmp_path: Path, colours: bool) -> None:
    """Flow in whole pixels on disk aligns as the flow itself does."""
    stack = Stack(simulate((20, 48, 48), seed=2).noisy, "TYX")
    if colours:
        stack = Stack(np.stack([np.asarray(stack.array) / part for part in (1, 2)], -1), "TYXS")
    first = tiny().fit(stack, training=FEW).save(tmp_path / "first.stbn")
    fitted = tiny(start=first).fit(stack, training=FEW)
    whole = fitted.denoise(stack)
    assert whole.report["refined_flow"]
    streaming = twin(fitted, tmp_path, 5e-3)
    streaming.denoise_to(stack, tmp_path / "out.npy")
    noise = float(np.median(np.asarray(whole.uncertainty)))
    difference = np.load(tmp_path / "out.npy") - whole.denoised
    assert np.sqrt(np.mean(difference**2)) < 1e-3 * noise


def test_what_a_fit_made_ready_is_taken_to_write_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defects are not looked for and motion is not found a second time where there is memory."""
    fitted = tiny().fit(STACKS["channels and planes"], training=FEW)
    whole = fitted.denoise(STACKS["channels and planes"])

    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise AssertionError("the movie was prepared once more")

    monkeypatch.setattr(_denoiser_use, "prepare_steps", refuse)
    monkeypatch.setattr(_denoiser_use, "denoise_stream", refuse)
    result = fitted.denoise_to(STACKS["channels and planes"], tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), whole.denoised)
    assert result.report["notes"] == whole.report["notes"]
    fitted.memory_limit = 1e-3  # it would not fit: read piece by piece
    with pytest.raises(AssertionError, match="once more"):
        fitted.denoise_to(STACKS["channels and planes"], tmp_path / "again.npy")


def test_a_stream_takes_the_flow_of_the_student(tmp_path: Path) -> None:
    stack = Stack(simulate((20, 64, 64), seed=2).noisy, "TYX")
    fitted = tiny().fit(stack, training=replace(FEW, refine="distill"))
    whole = fitted.denoise(stack)
    assert whole.report["flow_student"]
    streaming = twin(fitted, tmp_path, 8e-3)
    result = streaming.denoise_to(stack, tmp_path / "out.npy")
    assert result.report["flow_student"]
    noise = float(np.median(np.asarray(whole.uncertainty)))
    difference = np.load(tmp_path / "out.npy") - whole.denoised
    assert np.sqrt(np.mean(difference**2)) < 1e-3 * noise


def test_noise_that_pixels_share_is_filtered_in_a_stream_too(tmp_path: Path) -> None:
    """Measured in the whole and in parts alike, made independent on demand, brought back."""
    clean = simulate((48, 48, 48), seed=3).clean
    white = np.random.default_rng(0).normal(0, 8, clean.shape)
    noisy = (clean + (white + np.roll(white, 1, 2)) / np.sqrt(2)).astype(np.float32)
    np.save(tmp_path / "in.npy", noisy)
    stack = read(tmp_path / "in.npy", axes="TYX")
    fitted = tiny(correlation="auto", flow="none").fit(stack, training=FEW)
    whole = fitted.denoise(stack)
    assert whole.correlation[0] is not None
    assert whole.uncertainty is not None
    streaming = twin(fitted, tmp_path, 5e-3)
    assert streaming.streams(stack)
    path, spread = tmp_path / "out.npy", tmp_path / "std.npy"
    result = streaming.denoise_to(stack, path, uncertainty=spread)
    assert result.report["correlation"] == whole.report["correlation"]
    noise = float(np.median(whole.uncertainty))
    np.testing.assert_allclose(np.load(path), whole.denoised, atol=1e-3 * noise, rtol=0)
    np.testing.assert_allclose(np.load(spread), whole.uncertainty, atol=1e-3 * noise, rtol=0)


class Counting:
    """A long stored movie that repeats itself, and tells which of its chunks were read."""

    shape, chunks, dtype = (4096, 256, 256), (4, 64, 64), np.dtype(np.uint16)

    def __init__(self, array: Array) -> None:
        self.array = array
        self.read: set[tuple[int, ...]] = set()

    def __getitem__(self, index: Any, /) -> Array:
        spans = [range(n)[i] for n, i in zip(self.shape, index, strict=True)]
        touched = [sorted({p // c for p in s}) for s, c in zip(spans, self.chunks, strict=True)]
        self.read |= {tuple(t) for t in np.stack(np.meshgrid(*touched), -1).reshape(-1, 3)}
        frames = [self.array[t % len(self.array)][index[1:]] for t in spans[0]]
        return np.stack(frames)


def test_a_fit_reads_only_the_chunks_that_it_samples() -> None:
    counting = Counting(np.tile(simulate((8, 64, 64), seed=0).noisy, (1, 4, 4)))
    stack = Stack(counting, "TYX")
    denoiser = tiny(0.17, seed=3)
    assert denoiser.streams(stack)
    denoiser.fit(stack, training=FEW)
    all_chunks = 1024 * 4 * 4
    assert 0 < len(counting.read) < all_chunks / 10
    assert any("the fit learnt from" in note for note in denoiser._prepared.notes)  # type: ignore[union-attr]


def test_a_seed_chooses_the_parts() -> None:
    stack = Stack(np.tile(simulate((16, 64, 64), seed=0).noisy, (4, 3, 3)), "TYX")

    def weights(seed: int) -> torch.Tensor:
        fitted = tiny(0.08, seed=seed).fit(stack, training=FEW)
        assert fitted.model is not None
        return torch.cat([p.flatten() for p in fitted.model.parameters()])

    torch.testing.assert_close(weights(1), weights(1), rtol=0, atol=0)
    assert not torch.equal(weights(1), weights(2))


def test_parts_are_as_many_as_fit() -> None:
    stack = Stack(np.broadcast_to(np.uint16(0), (1000, 1024, 1024)), "TYX")
    for memory in (10**7, 10**8, 10**9, 10**10):
        sample = Sample.of(stack, False, memory, TrainingConfig(), 0)
        assert sample.count * np.prod(sample.shape) * 40 <= max(memory / 3, 16 * 64 * 64 * 40)
    assert sample.count >= 8
    assert sample.count * np.prod(sample.shape) <= 2**24


def test_a_fit_to_blank_parts_only_is_said() -> None:
    movie = np.zeros((48, 128, 128), np.uint16)
    movie[:2, 60:62] = np.random.default_rng(0).integers(0, 9, (2, 2, 128))
    with pytest.raises(ValueError, match=r"one value in every frame|no noise to estimate"):
        tiny(3.5e-2).fit(Stack(movie, "TYX"), training=FEW)


def test_frames_are_read_as_they_are_prepared() -> None:
    stack = STACKS["spoilt"]
    fitted = tiny()
    steps = fitted.fit_steps(stack, training=FEW)
    while next(steps).step is None:
        pass
    prepared = fitted._prepared
    assert prepared is not None
    whole = prepared.movies[0, 0]
    for cache in (1, 40 * 44 * 5 * 3, 10**8):
        lazy = LazyMovie([MovieView(stack)], whole.units, cache)
        assert list(lazy.scan())[-1] == 1.0
        for t in [*range(24), *reversed(range(24))]:
            torch.testing.assert_close(lazy.inputs[t], whole.inputs[t])
            torch.testing.assert_close(lazy.valid[t], whole.valid[t])
        torch.testing.assert_close(lazy.intensities[5:19], whole.intensities[5:19])
        part = lazy.part(4, 20)
        torch.testing.assert_close(part.inputs[3], whole.inputs[7])
        torch.testing.assert_close(part.intensities[0:4], whole.intensities[4:8])
        assert not part.flow_to_next[2].any()
    steps.close()


def test_a_look_at_a_frame_while_fitting_to_parts() -> None:
    stack = Stack(np.tile(simulate((16, 64, 64), seed=0).noisy, (4, 2, 2)), "TYX")
    denoiser = tiny(0.04)
    for progress in denoiser.fit_steps(stack, training=FEW):
        if progress.step is not None:
            look = last(denoiser.preview_steps(0, rows=slice(8, 40), columns=slice(0, 24)))
            assert look is not None
            assert look.shape == (32, 24)


def test_a_movie_is_cut_where_its_states_would_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_segments, "OVERLAP", 12)
    stack = Stack(np.tile(simulate((20, 32, 32), seed=5).noisy, (5, 1, 1)), "TYX")
    fitted = tiny().fit(stack, training=FEW)
    assert fitted.model is not None
    fitted.model.clip_frames = None  # as a released checkpoint, which runs through the whole movie
    with torch.no_grad():
        for parameter in fitted.model.parameters():
            parameter.mul_(0.7)  # its memory fades: in six steps that is not yet learnt
    whole = fitted.denoise(stack)
    streaming = twin(fitted, tmp_path, 2.05e-3)
    segments = plan_segments(fitted.model, (100, 32, 32), 1_000_000)
    assert segments.count > 1
    assert [start for start, _ in segments.spans(100)][1:] == [
        stop for _, stop in segments.spans(100)
    ][:-1]
    streaming.denoise_to(stack, tmp_path / "out.npy")
    noise = float(np.median(np.asarray(whole.uncertainty)))
    difference = np.load(tmp_path / "out.npy") - whole.denoised
    assert np.abs(difference).max() < 1e-3 * noise
    with pytest.raises(MemoryError, match="denoising frames of 32 x 32 needs"):
        plan_segments(STBN(TINY), (100, 32, 32), 10**5)


def test_a_result_that_does_not_fit_is_said_with_the_way_out() -> None:
    stack = Stack(np.tile(simulate((16, 32, 32), seed=0).noisy, (20, 1, 1)), "TYX")
    denoiser = tiny(3e-3).fit(stack, training=FEW)
    with pytest.raises(MemoryError, match=r"write it to a file as it is made: Denoiser.denoise_to"):
        denoiser.denoise(stack)


def test_a_large_stack_whose_result_fits_is_denoised_in_memory() -> None:
    stack = Stack(simulate((40, 32, 32), seed=0).noisy, "TYX")
    denoiser = tiny(1.98e-3).fit(stack, training=FEW)
    assert denoiser.streams(stack)
    result = denoiser.denoise(stack)
    assert result.denoised.shape == stack.shape
    assert result.flow_to_next.shape == (0, 2, 32, 32)
    assert np.isfinite(result.denoised).all()


def test_memory_may_become_free_between_fit_and_result() -> None:
    stack = Stack(simulate((40, 32, 32), seed=0).noisy, "TYX")
    denoiser = tiny(1.98e-3).fit(stack, training=FEW)
    in_pieces = denoiser.denoise(stack)
    denoiser.fit(stack, training=FEW)
    denoiser.memory_limit = None
    whole = denoiser.denoise(stack)
    np.testing.assert_allclose(whole.denoised, in_pieces.denoised, rtol=1e-4)
    assert len(whole.flow_to_next) == 39


def test_closing_early_leaves_nothing(tmp_path: Path) -> None:
    stack = STACKS["columns before time"]
    denoiser = tiny().fit(stack, training=FEW)
    (tmp_path / "earlier.tif").touch()
    steps = denoiser.denoise_to_steps(stack, tmp_path / "out.zarr")
    for progress in steps:
        if progress.phase == "denoise" and progress.fraction > 0.5:
            break
    assert len(list(tmp_path.iterdir())) > 1
    steps.close()
    assert [p.name for p in tmp_path.iterdir()] == ["earlier.tif"]


def test_numbers_are_rounded_to_the_type_that_is_asked_for(tmp_path: Path) -> None:
    stack = STACKS["columns before time"]
    denoiser = tiny().fit(stack, training=FEW)
    whole = denoiser.denoise(stack).denoised
    denoiser.denoise_to(stack, tmp_path / "out.npy", dtype=np.uint16)
    back = np.load(tmp_path / "out.npy")
    assert back.dtype == np.uint16
    np.testing.assert_allclose(back, np.rint(whole), atol=1)


def test_large_frames_get_a_pyramid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_stbn._ome_zarr_writing._SMALLEST_LEVEL", 16)
    stack = Stack(simulate((10, 43, 40), seed=4).noisy, "TYX", pixel_size=0.1)
    denoiser = tiny().fit(stack, training=FEW)
    denoiser.denoise_to(stack, tmp_path / "out.zarr")
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    levels = [np.asarray(group[str(n)]) for n in range(3)]
    assert [level.shape for level in levels] == [(10, 43, 40), (10, 21, 20), (10, 10, 10)]
    mean = levels[0][:, :42].reshape(10, 21, 2, 20, 2).mean((2, 4))
    np.testing.assert_allclose(levels[1], mean, rtol=1e-5)
    described: Any = group.attrs["ome"]
    placed = described["multiscales"][0]["datasets"][1]["coordinateTransformations"]
    assert placed[0]["scale"] == pytest.approx([1, 0.2, 0.2])
    assert placed[1]["translation"] == pytest.approx([0, 0.05, 0.05])
    assert read(tmp_path / "out.zarr").shape == stack.shape


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_flow_on_disk_leads_to_the_same_place(tmp_path: Path, alignment: Alignment) -> None:
    rng = np.random.default_rng(0)
    flows = rng.normal(0, 3, (5, 2, 2, 9, 7)).astype(np.float32)
    flows[2, 0, 0, 0, 0] = np.nan
    flows[2, 0, 1, 3, 3] = -np.inf
    with FlowScratch(tmp_path, (9, 7), alignment) as scratch:
        for to_previous, to_next in flows:
            scratch.append(to_previous, to_next)
        assert len(scratch) == 5
        for pair, direction in ((4, 1), (0, 0), (2, 1), (2, 0)):
            kept = scratch.read(pair, direction)[None]
            found = align_index(kept, alignment)
            wanted = align_index(torch.from_numpy(flows[pair, direction])[None], alignment)
            torch.testing.assert_close(found.weights, wanted.weights, atol=0, rtol=0)
            there = wanted.weights > 0
            torch.testing.assert_close(found.rows[there], wanted.rows[there])
        assert not scratch.read(2, 0)[0, 0, 0].isfinite()  # leads out of a frame of any size
        assert not list(tmp_path.iterdir())  # the file has no name
    assert not list(tmp_path.iterdir())


def test_part_of_a_part() -> None:
    whole = np.arange(24).reshape(4, 6)
    part = LazyPart(whole, (range(1, 4), range(0, 6, 2)))
    np.testing.assert_array_equal(part[1:, 1], whole[2:4, 2])
    np.testing.assert_array_equal(np.asarray(part), whole[1:4, ::2])
