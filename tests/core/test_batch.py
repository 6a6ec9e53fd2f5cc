"""Claims of a batch: nothing stops the rest, nothing is done twice, nothing is lost to a crash."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile

from napari_stbn import (
    Denoiser,
    RunSettings,
    Stack,
    _batch_pool,
    _denoiser_use,
    _inference_plan,
    batch,
    read,
    simulate,
    write,
)
from napari_stbn._batch_blocks import MARGIN_FRAMES, Block, BlockStore, Pace, cut, plan_blocks
from napari_stbn._batch_inputs import find_movies
from napari_stbn._batch_jobs import run_movie
from napari_stbn._batch_manifest import FILE_NAME, Manifest, fingerprint
from napari_stbn._batch_sample import sample
from napari_stbn.batch import BatchOptions, batch_steps, denoise_many
from napari_stbn.cli import main
from napari_stbn.devices import free_memory, limit_memory, resolve_device
from napari_stbn.network import STBNConfig
from napari_stbn.training import TrainingConfig

NOISY = simulate((4, 24, 20), kind="nuclei", seed=0).noisy
TRAINING = {"clip_size": 12, "clip_frames": 2, "batch": 1}
QUICK = RunSettings(preset="preview", device="cpu", max_steps=2, training=TRAINING)


def options(**changes: Any) -> BatchOptions:
    return BatchOptions(**{"settings": QUICK, "workers": 0, **changes})


@pytest.fixture
def movies(tmp_path: Path) -> Path:
    """A folder of two good movies and two bad ones."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, data in (("a", NOISY), ("b", NOISY + 3)):
        write(folder / f"{name}.tif", Stack(data, "TYX", pixel_size=0.25, frame_interval=2.0))
    (folder / "cut.tif").write_bytes((folder / "a.tif").read_bytes()[:300])
    np.save(folder / "still.npy", np.zeros((1, 20, 20)))
    (folder / "notes.txt").write_text("not a movie")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def statuses(outcomes: list[batch.MovieOutcome]) -> dict[str, str]:
    return {outcome.input.name: outcome.status for outcome in outcomes}


# ---------------------------------------------------------------- in this process


@pytest.mark.parametrize(("ending", "said"), [("tif", "TIFF cannot hold float16"), ("npy", "")])
def test_what_the_format_cannot_hold_is_refused_before_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, said: str
) -> None:
    np.save(tmp_path / "a.npy", NOISY.astype(np.float16))
    fits: list[Any] = []
    fit = Denoiser.fit_steps

    def noted(self: Denoiser, *arguments: Any, **choices: Any) -> Any:
        fits.append(arguments)
        return fit(self, *arguments, **choices)

    monkeypatch.setattr(Denoiser, "fit_steps", noted)
    (outcome,) = denoise_many(
        [tmp_path / "a.npy"],
        tmp_path / "out",
        options(keep_dtype=True, ending=f".{ending}"),
    )
    assert said in (outcome.error or "")
    assert (outcome.status, len(fits)) == (("failed", 0) if said else ("done", 1))


def test_bad_movies_stop_no_other_and_finished_ones_are_skipped(
    movies: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = denoise_many(movies, out, options())
    expected = {"a.tif": "done", "b.tif": "done", "cut.tif": "failed", "still.npy": "failed"}
    assert statuses(first) == expected
    assert names(out) == ["a.tif", "b.tif", FILE_NAME]
    errors = {outcome.input.name: outcome.error for outcome in first if outcome.error}
    assert "truncated" in errors["cut.tif"]
    assert "has 1 frame" in errors["still.npy"]
    stack = read(out / "a.tif")
    assert (stack.axes, stack.shape) == ("TYX", NOISY.shape)
    assert stack.dtype == np.float32
    assert stack.frame_interval == pytest.approx(2.0)

    before = (out / "a.tif").stat().st_mtime_ns
    again = denoise_many([movies / "b.tif", movies / "a.tif"], out, options())
    assert statuses(again) == {"a.tif": "skipped", "b.tif": "skipped"}
    assert (out / "a.tif").stat().st_mtime_ns == before

    write(movies / "a.tif", Stack(NOISY + 9, "TYX"), overwrite=True)  # another movie, same name
    (changed,) = denoise_many(movies / "a.tif", out, options())
    assert changed.status == "failed"
    assert "exists" in changed.error
    (forced,) = denoise_many(movies / "a.tif", out, options(overwrite=True))
    assert forced.status == "done"


def test_other_parameters_are_other_results(movies: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    denoise_many(movies / "a.tif", out, options())
    other = RunSettings(preset="preview", device="cpu", max_steps=3, training=TRAINING)
    (outcome,) = denoise_many(movies / "a.tif", out, options(settings=other))
    assert (outcome.status, "exists" in outcome.error) == ("failed", True)
    (outcome,) = denoise_many(
        movies / "a.tif", out, options(settings=other, ending=".ome.zarr", uncertainty=True)
    )
    assert (outcome.status, outcome.steps) == ("done", 3)
    assert names(out) == ["a.ome.zarr", "a.tif", "a_uncertainty.ome.zarr", FILE_NAME]


def test_the_manifest_says_what_was_done(movies: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    denoise_many(movies, out, options(keep_dtype=True))
    assert read(out / "a.tif").dtype == NOISY.dtype
    entry = Manifest(out / FILE_NAME).last()["a.tif"]
    assert entry["status"] == "done"
    assert entry["input"] == str(movies / "a.tif")
    assert entry["bytes"] == (movies / "a.tif").stat().st_size
    assert entry["steps"] == 2
    assert entry["parameters"]["settings"]["training"] == TRAINING
    assert entry["parameters"]["keep_dtype"] is True


@pytest.mark.parametrize("blocks", [None, 2])
def test_a_movie_larger_than_memory_is_written_as_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int | None
) -> None:
    """The numbers are those of the whole in memory, though no array of its size is made.

    Nor of the size of a block, and with motion there is no seam between blocks.
    """
    stack = Stack(simulate((104, 24, 20), kind="nuclei", seed=0).noisy, "TYX")
    network = STBNConfig(width=4, alignment_blocks=1, fusion_blocks=1, expansion_blocks=1)
    same: dict[str, Any] = {"device": "cpu", "network": network, "precision": "float32"}
    training = TrainingConfig(max_steps=2, clip_size=16, clip_frames=6, batch=1)
    first = Denoiser("preview", start="fresh", **same).fit(stack, training=training)
    start = first.save(tmp_path / "first.stbn")
    fitted = Denoiser("preview", start=start, **same).fit(stack, training=training)
    whole = fitted.denoise(stack)
    assert whole.report["refined_flow"]
    path = write(tmp_path / "a.tif", stack)
    model = fitted.save(tmp_path / "m.stbn")

    def refuse(_stack: Stack) -> None:
        raise AssertionError("an array of the size of the movie was made")

    monkeypatch.setattr(_inference_plan, "_SCRATCH", 0)  # so small a network takes none
    monkeypatch.setattr(_denoiser_use, "ArrayOutput", refuse)
    # In memory the run would take 2.5 MB.
    little = RunSettings(preset="preview", device="cpu", memory_limit=2e-3)
    chosen = options(settings=little, model=model, uncertainty=True, blocks=blocks)
    (outcome,) = denoise_many(path, tmp_path / "out", chosen)
    assert (outcome.status, outcome.error) == ("done", "")
    assert Manifest(tmp_path / "out" / FILE_NAME).last()["a.tif"]["blocks"] == (blocks or 0)
    assert names(tmp_path / "out") == ["a.tif", "a_uncertainty.tif", FILE_NAME]
    assert whole.uncertainty is not None
    noise = float(np.median(whole.uncertainty))
    for name, truth in (("a", whole.denoised), ("a_uncertainty", whole.uncertainty)):
        back = read(tmp_path / "out" / f"{name}.tif").array[...]
        np.testing.assert_allclose(back, truth, atol=1e-3 * noise, rtol=0)


@pytest.mark.parametrize("torn", [b'{"format": 1, "outp', b"\x00\xff\xfe", b"[1, 2]\n{}\nnull\n"])
def test_a_torn_manifest_is_read_and_gone_on_with(
    movies: Path, tmp_path: Path, torn: bytes
) -> None:
    out = tmp_path / "out"
    denoise_many(movies / "a.tif", out, options())
    path = out / FILE_NAME
    path.write_bytes(path.read_bytes() + torn)
    outcomes = denoise_many([movies / "a.tif", movies / "b.tif"], out, options())
    assert statuses(outcomes) == {"a.tif": "skipped", "b.tif": "done"}
    assert Manifest(path).last()["b.tif"]["status"] == "done"


def test_a_manifest_of_the_future_is_refused(movies: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FILE_NAME).write_text(json.dumps({"format": 99, "output": "a.tif"}))
    with pytest.raises(ValueError, match="format 99"):
        denoise_many(movies, tmp_path / "out", options())


def test_an_output_that_was_begun_is_done_again_a_foreign_one_is_kept(
    movies: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write(out / "a.tif", Stack(NOISY, "TYX"))
    before = (out / "a.tif").read_bytes()
    (outcome,) = denoise_many(movies / "a.tif", out, options())
    assert (outcome.status, "exists" in outcome.error) == ("failed", True)
    assert (out / "a.tif").read_bytes() == before
    # As a run leaves it that was killed after the result and before its line.
    Manifest(out / FILE_NAME).append({"output": "a.tif", "status": "started"})
    (outcome,) = denoise_many(movies / "a.tif", out, options())
    assert outcome.status == "done"
    assert read(out / "a.tif").dtype == np.float32


def test_stopping_early_keeps_what_is_finished(movies: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    steps = batch_steps([movies / "a.tif", movies / "b.tif"], out, options())
    assert next(steps).status == "done"
    steps.close()
    rest = denoise_many([movies / "a.tif", movies / "b.tif"], out, options())
    assert statuses(rest) == {"a.tif": "skipped", "b.tif": "done"}


def test_two_batches_in_one_folder_are_refused(movies: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="folders are not locked on Windows")
    out = tmp_path / "out"
    steps = batch_steps([movies / "a.tif", movies / "b.tif"], out, options())
    next(steps)
    with pytest.raises(FileExistsError, match="another batch writes"):
        denoise_many(movies, out, options())
    steps.close()
    assert denoise_many(movies / "b.tif", out, options())[0].status == "done"


def test_one_shared_model(movies: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(movies / "larger.tif", Stack(simulate((6, 32, 30), seed=2).noisy, "TYX"))
    first = denoise_many(movies, out, options(shared_model=True))
    assert list(statuses(first).values()).count("done") == 3
    fitted = (out / "shared.stbn").stat().st_mtime_ns
    write(movies / "new.tif", Stack(NOISY + 5, "TYX"))
    again = denoise_many(movies, out, options(shared_model=True))
    assert statuses(again)["new.tif"] == "done"
    assert list(statuses(again).values()).count("skipped") == 3
    assert (out / "shared.stbn").stat().st_mtime_ns == fitted
    # The same model by hand gives the same results.
    other = denoise_many(movies / "a.tif", tmp_path / "o", options(model=out / "shared.stbn"))
    assert other[0].status == "done"
    np.testing.assert_array_equal(read(tmp_path / "o/a.tif").movie(), read(out / "a.tif").movie())
    longer = RunSettings(preset="preview", device="cpu", max_steps=3, training=TRAINING)
    with pytest.raises(FileExistsError, match="other settings"):
        denoise_many(movies, out, options(settings=longer, shared_model=True))


def test_a_sample_holds_a_crop_of_each_movie(tmp_path: Path) -> None:
    paths = []
    for number, shape in enumerate([(6, 2, 20, 24), (9, 2, 30, 24), (5, 2, 19, 40)]):
        data = np.full(shape, number, np.uint16)
        paths.append(write(tmp_path / f"{number}.tif", Stack(data, "TCYX")))
    np.save(tmp_path / "one.npy", np.zeros((6, 20, 24)))
    stack = sample([*paths, tmp_path / "one.npy", tmp_path / "none.tif"], None)
    assert stack.axes == "TZCYX"
    assert stack.shape == (6, 2, 2, 20, 24)  # the third is smaller than most
    assert stack.movie(1, 1).max() == 1
    with pytest.raises(ValueError, match="no movie could be read"):
        sample([tmp_path / "none.tif"], None)


def test_without_dask_the_movies_are_done_here(
    movies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_batch_pool, "find_spec", lambda _name: None)
    assert denoise_many(movies / "a.tif", tmp_path / "out", options(workers=None))
    assert "one after the other in this process" in caplog.text
    for asked in ({"workers": 2}, {"workers": None, "scheduler": "tcp://127.0.0.1:1"}):
        with pytest.raises(ValueError, match="pip install"):
            denoise_many(movies / "a.tif", tmp_path / "other", options(**asked))


# ---------------------------------------------------------------- inputs


def test_inputs_are_files_folders_and_patterns(movies: Path, tmp_path: Path) -> None:
    for number in (0, 1):
        folder = tmp_path / f"pos{number}"
        folder.mkdir()
        write(folder / "img.tif", Stack(NOISY, "TYX"))
    np.save(tmp_path / "pos0" / "img.npy", NOISY)
    write(tmp_path / "pos1" / "z.ome.zarr", Stack(NOISY, "TYX"))
    found = find_movies(
        [movies, movies / "a.tif", f"{tmp_path}/pos*/*.*", tmp_path / "pos1"],
        tmp_path / "o",
        ".tif",
    )
    assert sorted(movie.target.name for movie in found) == [
        *("a.tif", "b.tif", "cut.tif", "img.tif", "img_npy.tif", "img_tif.tif"),
        *("still.tif", "z.tif"),
    ]


def test_the_same_names_get_their_folders(tmp_path: Path) -> None:
    for folder in ("p0", "p1", "p1/deep"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "img.tif", Stack(NOISY, "TYX"))
    found = find_movies(f"{tmp_path}/p*/**/*.tif", tmp_path / "o", ".npy")
    targets = [movie.target.name for movie in found]
    assert len(set(targets)) == 3
    assert {"p0_img.npy", "p1_img.npy", "deep_img.npy"} == set(targets)


def test_inputs_that_are_none_are_said(movies: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for inputs, sentence in (
        ([], "there is no movie"),
        ([tmp_path / "empty"], "holds no movie"),
        ([f"{tmp_path}/x*.tif"], "no movie matches"),
    ):
        with pytest.raises(ValueError, match=sentence):
            denoise_many(inputs, tmp_path / "out", options())
    with pytest.raises(ValueError, match="take the place of an input"):
        denoise_many(movies, movies, options(overwrite=True))
    (outcome,) = denoise_many(tmp_path / "gone.tif", tmp_path / "out", options())
    assert (outcome.status, "does not exist" in outcome.error) == ("failed", True)


def test_results_of_a_batch_are_no_movies_unless_named(
    movies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Known by the manifest beside them: a movie that only looks like a result is denoised."""
    out = movies / "out"
    chosen = options(uncertainty=True, ending=".ome.zarr")
    denoise_many(movies / "a.tif", out, chosen)
    write(out / "b_uncertainty.tif", Stack(NOISY, "TYX"))
    pattern = f"{movies}/**/*[abrt]*.*"
    assert {"a.ome.zarr", "a_uncertainty.ome.zarr", "b_uncertainty.tif"} <= set(names(out))
    found = find_movies(pattern, tmp_path / "o", ".tif")
    expected = ["a.tif", "b.tif", "b_uncertainty.tif", "cut.tif", "still.npy"]
    assert sorted(movie.source.name for movie in found) == expected
    assert "2 results of an earlier batch left out" in caplog.text
    (again,) = denoise_many(f"{movies}/**/a*.*", out, chosen)
    assert again.status == "skipped"
    (named,) = find_movies(out / "a.ome.zarr", tmp_path / "o", ".tif")
    assert named.source == out / "a.ome.zarr"
    with pytest.raises(ValueError, match="but results of a batch; name these"):
        find_movies(f"{out}/a*.zarr", tmp_path / "o", ".tif")


def test_a_shell_names_results_of_this_folder_and_they_are_left_out(
    movies: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As it does when `batch in/*.tif -o in --ending .ome.tif` is run for the second time."""
    chosen = options(ending=".ome.tif")
    denoise_many([movies / "a.tif"], movies, chosen)
    outcomes = denoise_many(sorted(movies.glob("[ab].*tif")), movies, chosen)
    assert statuses(outcomes) == {"a.tif": "skipped", "b.tif": "done"}
    assert "1 earlier result of this batch left out" in caplog.text
    with pytest.raises(ValueError, match="are results of a batch in"):
        find_movies(movies / "a.ome.tif", movies, ".npy")


def test_a_movie_is_one_by_any_way_to_its_folder(movies: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(movies)
    ways = [movies / "a.tif", movies / ".." / "in" / "a.tif", tmp_path / "link" / "a.tif"]
    (found,) = find_movies(ways, tmp_path / "o", ".tif")
    assert (found.source, found.target.name) == (movies / "a.tif", "a.tif")


@pytest.mark.parametrize("line", ['{"format": 99, "output": "a.tif"}', '{"format": "tiff"}', "[]"])
def test_a_manifest_of_another_program_beside_movies_is_nobodys_business(
    movies: Path, tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    (movies / FILE_NAME).write_text(f"{line}\n" * 3)
    assert len(find_movies(f"{movies}/[b].tif", tmp_path / "o", ".tif")) == 1
    assert not caplog.text


def test_the_manifest_tells_what_a_batch_wrote(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / FILE_NAME)
    for output, *statuses_of in (
        ("done.tif", "started", "done"),
        ("killed.tif", "started"),
        ("failed.tif", "started", "failed"),
        ("done then failed.tif", "started", "done", "started", "failed"),
    ):
        for status in statuses_of:
            manifest.append({"output": output, "status": status, "also": [f"std {output}"]})
    written = {"done.tif", "killed.tif", "done then failed.tif"}
    assert manifest.results() == written | {f"std {name}" for name in written}


def test_a_result_is_kept_that_is_called_like_an_uncertainty(movies: Path, tmp_path: Path) -> None:
    """Of the movie whose run was killed it would have been the second file."""
    out = tmp_path / "out"
    movie = (movies / "b.tif").rename(movies / "a_uncertainty.tif")
    assert denoise_many(movie, out, options())[0].status == "done"
    before = (out / "a_uncertainty.tif").read_bytes()
    Manifest(out / FILE_NAME).append({"output": "a.tif", "status": "started"})
    (outcome,) = denoise_many(movies / "a.tif", out, options(uncertainty=True))
    assert (outcome.status, "exists" in outcome.error) == ("failed", True)
    assert (out / "a_uncertainty.tif").read_bytes() == before


def test_a_movie_in_the_place_of_a_failed_result_is_kept(movies: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert denoise_many(movies / "cut.tif", out, options())[0].status == "failed"
    dear = write(out / "cut.tif", Stack(NOISY, "TYX")).read_bytes()
    write(movies / "cut.tif", Stack(NOISY, "TYX"), overwrite=True)
    (outcome,) = denoise_many(movies / "cut.tif", out, options())
    assert (outcome.status, "exists" in outcome.error) == ("failed", True)
    assert (out / "cut.tif").read_bytes() == dear


def test_a_movie_may_be_called_like_the_uncertainty_of_another(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.tif", "A_uncertainty.tif", "b/a.tif", "a_1.tif")]
    for sure in (True, False):
        found = find_movies(paths, tmp_path / "o", ".tif", uncertainty=sure)
        written = [movie.target.name for movie in found]
        written += [movie.uncertainty.name for movie in found] if sure else []
        assert len({name.casefold() for name in written}) == len(written)
    assert "A_uncertainty.tif" in written
    assert find_movies(paths[1], tmp_path, ".npy", uncertainty=True)  # alone it has its own name


def test_hidden_files_and_folders_named_like_movies_are_none(movies: Path, tmp_path: Path) -> None:
    for name in ("._a.tif", ".DS_Store", ".hidden.tif"):
        (movies / name).write_bytes(b"\0\5\26\7")
    (movies / "folder.tif").mkdir()
    for inputs in (movies, f"{movies}/*", f"{movies}/**/*.tif"):
        found = {movie.source.name for movie in find_movies(inputs, tmp_path / "o", ".tif")}
        assert {"a.tif", "b.tif", "cut.tif"} <= found <= {"a.tif", "b.tif", "cut.tif", "still.npy"}


@pytest.mark.parametrize("inputs", ["{}/closed", "{}/*/*.tif", "{}/**/*.tif"])
def test_a_folder_that_cannot_be_read_fails_and_stops_no_other(
    movies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: str
) -> None:
    (movies / "closed").mkdir()
    (movies / "open").mkdir()
    write(movies / "open" / "c.tif", Stack(NOISY, "TYX"))
    allowed, listed = os.access, Path.iterdir

    def listing(self: Path) -> Any:
        if self.name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", listing)  # root may read everything
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path).name != "closed" and allowed(path, mode)
    )
    found = find_movies([inputs.format(movies), movies / "b.tif"], tmp_path / "o", ".tif")
    expected = ["b.tif", "closed"] if inputs == "{}/closed" else ["b.tif", "c.tif", "closed"]
    if "**" in inputs:
        expected = ["a.tif", "b.tif", "c.tif", "closed", "cut.tif"]
    assert sorted(movie.source.name for movie in found) == expected
    (outcome,) = denoise_many(movies / "closed", tmp_path / "o", options())
    assert outcome.status == "failed"
    assert "closed cannot be looked into; ask its owner" in outcome.error


def _set_of_files(folder: Path, positions: int) -> list[Path]:
    """An OME-TIFF set as microscopes write it: a file for each frame of each position."""
    names = [[f"p{p}_t{t}.ome.tif" for t in range(len(NOISY))] for p in range(positions)]
    images = "".join(
        f'<Image ID="Image:{p}" Name="p{p}"><Pixels ID="Pixels:{p}" DimensionOrder="XYCZT" '
        f'Type="uint16" SizeX="20" SizeY="24" SizeC="1" SizeZ="1" SizeT="{len(NOISY)}">'
        f'<Channel ID="Channel:{p}:0" SamplesPerPixel="1"/>'
        + "".join(
            f'<TiffData FirstT="{t}" IFD="0" PlaneCount="1"><UUID FileName="{name}">'
            f"urn:uuid:00000000-0000-0000-0000-{p:06d}{t:06d}</UUID></TiffData>"
            for t, name in enumerate(names[p])
        )
        + "</Pixels></Image>"
        for p in range(positions)
    )
    for p, row in enumerate(names):
        for t, name in enumerate(row):
            xml = (
                '<?xml version="1.0" encoding="UTF-8"?><OME '
                'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
                f'UUID="urn:uuid:00000000-0000-0000-0000-{p:06d}{t:06d}">{images}</OME>'
            )
            tifffile.imwrite(folder / name, NOISY[t] + p, description=xml, metadata=None)
    return [folder / name for row in names for name in row]


def test_a_movie_in_many_files_is_denoised_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = _set_of_files(tmp_path, 2)
    found = find_movies(f"{tmp_path}/*.tif", tmp_path / "o", ".tif")
    assert [movie.source.name for movie in found] == ["p0_t0.ome.tif", "p1_t0.ome.tif"]
    assert "p0_t0.ome.tif and 3 files beside it are one movie" in caplog.text
    (found_one,) = find_movies(paths[1:4], tmp_path / "o", ".tif")
    assert found_one.source == paths[1]
    with pytest.raises(ValueError, match="take the place of an input"):
        find_movies(paths, tmp_path, ".ome.tif")
    (movie,) = find_movies(paths[1], tmp_path / "o", ".tif")
    before = fingerprint(movie.source, movie.files)
    os.utime(paths[3], ns=(1, before["modified"] + 1))
    assert fingerprint(movie.source, movie.files) != before


def test_what_was_guessed_is_told_and_images_can_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "positions.tif"
    with tifffile.TiffWriter(path) as tif:
        for position in (NOISY, NOISY[:, :16]):
            tif.write(position, metadata={"axes": "TYX"}, photometric="minisblack")
    (outcome,) = denoise_many(path, tmp_path / "out", options())
    assert any("The file holds 2 images" in note for note in outcome.notes)
    (again,) = denoise_many(path, tmp_path / "out", options())
    assert (again.status, again.notes) == ("skipped", outcome.notes)
    (outcome,) = denoise_many(path, tmp_path / "second", options(scene=1))
    assert read(tmp_path / "second" / "positions.tif").shape == (4, 16, 20)
    assert not any("holds 2 images" in note for note in outcome.notes)
    (outcome,) = denoise_many(path, tmp_path / "third", options(scene=2))
    assert "no scene 2" in outcome.error
    quick = ["--preset", "preview", "--device", "cpu", "--max-steps", "2", "--workers", "0"]
    assert main(["batch", str(path), "-o", str(tmp_path / "cli"), *quick]) == 0
    said = capsys.readouterr().out.splitlines()
    notes = [line for line in said if line.startswith("note on positions.tif: axes: ")]
    assert len(notes) == 2  # in the log, and in the summary
    assert said[-1] == "1 movie: 1 done, 0 skipped, 0 failed"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "m.stbn", "shared_model": True}, "exclude each other"),
        ({"scheduler": "tcp://x:1"}, "has its own workers"),
        ({"ending": ".png"}, "ending must be"),
        ({"blocks": 0}, "blocks must be"),
        ({"scene": -1}, "scene counts from 0"),
        ({"uncertainty": True, "settings": RunSettings(noise=None)}, "no uncertainty"),
    ],
)
def test_options_that_do_not_go_together(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        options(**changes)


def test_a_folder_changes_when_a_file_in_it_does(tmp_path: Path) -> None:
    path = write(tmp_path / "z.zarr", Stack(NOISY, "TYX"))
    before = fingerprint(path)
    assert fingerprint(path) == before
    chunk = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    os.utime(chunk, ns=(1, before["modified"] + 1))
    assert fingerprint(path) != before


# ---------------------------------------------------------------- blocks


def test_blocks_hold_each_pixel_once_and_their_margins() -> None:
    shape = (200, 70, 90)
    blocks = plan_blocks(shape, 4, side=50)
    seen = np.zeros(shape, int)
    for block in blocks:
        seen[block.index("TYX")] += 1
        numbers = np.arange(np.prod(shape)).reshape(shape)
        outer = numbers[block.index("TYX", outer=True)]
        np.testing.assert_array_equal(outer[block.local("TYX")], numbers[block.index("TYX")])
    assert (seen == 1).all()
    assert len(blocks) == 4 * 2 * 2
    assert blocks[0].outer[0] == (0, 50 + MARGIN_FRAMES)
    assert len(plan_blocks((60, 20, 20), 8)) == 1, "a short movie is not cut"
    whole = ((0, 10), (0, 20), (0, 20))
    assert plan_blocks((10, 20, 20), 1) == [Block(whole, whole)]


@pytest.mark.parametrize("axes", ["TYX", "XCTZY", "TYXS"])
def test_blocks_are_read_and_put_together_piece_by_piece(axes: str, tmp_path: Path) -> None:
    sizes = {"T": 110, "Y": 45, "X": 38, "C": 2, "Z": 1, "S": 3}
    shape = tuple(sizes[axis] for axis in axes)
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    read_values: list[int] = []

    class Stored:
        """An array that tells how much of it is read."""

        shape, dtype = data.shape, data.dtype

        def __getitem__(self, index: Any, /) -> Any:
            read_values.append(data[index].size)
            return data[index]

    stack, pace = Stack(Stored(), axes), Pace.of(8)
    blocks = plan_blocks((110, 45, 38), 2, pace, side=30)
    assert len(blocks) == 2 * 2 * 2
    assert all(start % pace.step == 0 for block in blocks for start, _ in block.outer[:1])
    store = BlockStore(tmp_path / "store")
    store.create(stack, blocks, ["denoised", "uncertainty"], pace)
    for block in blocks:
        part, put = cut(stack, block), store.put(block, stack)
        assert part.shape != stack.shape
        for channel, plane in stack.indices():
            for start in range(0, part.n_frames, 5):
                frames = part.movie(channel, plane, frames=slice(start, start + 5))
                put(channel, plane, start, frames, frames + 1)
    assert max(read_values) <= 5 * 45 * 38
    np.testing.assert_array_equal(store.joined("denoised")[...], data)
    np.testing.assert_array_equal(store.joined("uncertainty")[...], data + 1)


@pytest.mark.parametrize("clip_frames", [2, 5, 16, 64, None])
def test_cuts_keep_to_the_pace_of_the_model(clip_frames: int | None) -> None:
    """The clips around a block's frames, and those that their motion is found on, lie in it."""
    pace = Pace.of(clip_frames)
    blocks = plan_blocks((1000, 16, 16), 4, pace)
    assert len(blocks) == 4
    for block in blocks:
        (first, end), (start, stop) = block.core[0], block.outer[0]
        assert first % pace.step == start % pace.step == 0
        reach = 0 if clip_frames is None else clip_frames - pace.step
        for place, edge, at_end in ((first, start, 0), (end, stop, 1000)):
            assert edge == at_end or abs(place - edge) >= max(MARGIN_FRAMES, reach)


# ---------------------------------------------------------------- workers


@pytest.fixture
def workers() -> None:
    pytest.importorskip("distributed", reason="needs the extra `cluster`")


def child_workers() -> list[psutil.Process]:
    """Worker processes of a local cluster, children of this one; not the resource tracker."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # gone since, or about to be
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.mark.usefixtures("workers")
def test_a_worker_that_is_killed_loses_nothing(movies: Path, tmp_path: Path) -> None:
    """Two processes; one dies by SIGKILL in the middle of a fit, and all movies get done."""
    long = RunSettings(preset="preview", device="cpu", max_steps=30, training=TRAINING)
    for number in range(2):
        write(movies / f"more{number}.tif", Stack(NOISY + number, "TYX"))
    out = tmp_path / "out"
    killed: list[int] = []

    def kill_one() -> None:
        """As soon as the first movie is begun and both workers are at it."""
        manifest = Manifest(out / FILE_NAME)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not killed:
            busy = [p for p in child_workers() if p.cpu_times().user > 2]
            if len(busy) == 2 and len(manifest.read()) >= 2:
                os.kill(busy[0].pid, signal.SIGKILL)
                killed.append(busy[0].pid)
            time.sleep(0.05)

    thread = threading.Thread(target=kill_one)
    thread.start()
    outcomes = denoise_many(movies, out, options(settings=long, workers=2))
    thread.join()
    assert killed
    assert statuses(outcomes) == {
        **dict.fromkeys(("a.tif", "b.tif", "more0.tif", "more1.tif"), "done"),
        **dict.fromkeys(("cut.tif", "still.npy"), "failed"),
    }
    for name in ("a.tif", "b.tif", "more0.tif", "more1.tif"):
        assert np.isfinite(read(out / name).movie()).all()
    assert not child_workers(), "no worker is left behind"
    again = denoise_many(movies, out, options(settings=long, workers=2))
    assert list(statuses(again).values()).count("skipped") == 4


@pytest.mark.usefixtures("workers")
def test_a_stop_waits_for_no_job() -> None:
    """dask itself would wait five seconds for a worker that is busy."""
    began = 0.0
    with (
        contextlib.suppress(KeyboardInterrupt),
        _batch_pool.open_pool(None, 1, device="cpu", jobs=1, need=0) as pool,
    ):
        pool.submit("long", time.sleep, 60)
        time.sleep(0.5)
        began = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - began < 4
    assert not child_workers()


@pytest.mark.usefixtures("workers")
def test_workers_give_what_this_process_gives(movies: Path, tmp_path: Path) -> None:
    paths = [movies / "a.tif", movies / "b.tif"]
    here, there = tmp_path / "here", tmp_path / "there"
    denoise_many(paths, here, options())
    outcomes = denoise_many(paths, there, options(workers=2))
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    for path in paths:
        np.testing.assert_allclose(
            read(here / path.name).movie(), read(there / path.name).movie(), rtol=1e-5
        )


@pytest.mark.usefixtures("workers")
def test_a_running_cluster_does_the_work_and_stays(movies: Path, tmp_path: Path) -> None:
    """Its workers get the jobs by its address alone; what runs there goes on running."""
    from distributed import Client, LocalCluster

    ports = {"dashboard_address": None, "scheduler_kwargs": {"dashboard": False}}
    with LocalCluster(n_workers=1, threads_per_worker=1, **ports) as cluster:
        address = cluster.scheduler_address
        out = tmp_path / "out"
        outcomes = denoise_many(movies, out, options(workers=None, scheduler=address))
        assert list(statuses(outcomes).values()).count("done") == 2
        assert list(statuses(outcomes).values()).count("failed") == 2
        workers = {entry.get("worker") for entry in Manifest(out / FILE_NAME).last().values()}
        assert workers - {None} == set(cluster.scheduler_info["workers"])
        with Client(cluster, set_as_default=False) as client:
            assert client.submit(int, "7").result(timeout=30) == 7
        arguments = ["batch", str(movies / "a.tif"), "-o", str(out), "--scheduler", address]
        assert main([*arguments, "--max-steps", "3", "--preset", "preview", "--force"]) == 0
    assert not child_workers()


@pytest.mark.usefixtures("workers")
def test_a_scheduler_that_is_not_there_is_said(movies: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no dask scheduler answers at"):
        denoise_many(movies, tmp_path / "out", options(workers=None, scheduler="nonsense://x"))


@pytest.mark.usefixtures("workers")
def test_a_scheduler_that_dies_fails_its_movies_and_hangs_nothing() -> None:
    class Closed:
        def submit(self, *_arguments: Any, **_options: Any) -> Any:
            raise RuntimeError("client is closed")

    pool = _batch_pool._Workers(Closed())
    pool.submit("movie", run_movie, None)
    tag, done, error = pool.next()
    assert (tag, done) == ("movie", None)
    assert "connection to the scheduler was lost" in str(error)


@pytest.mark.parametrize(
    ("gpus", "jobs", "need", "expected"), [(3, 8, 0, 3), (3, 2, 0, 2), (0, 8, 10**15, 1)]
)
def test_as_many_workers_as_the_machine_takes(
    gpus: int, jobs: int, need: int, expected: int
) -> None:
    assert _batch_pool._count(None, "cpu", gpus, jobs, need) == expected


def test_workers_see_one_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _batch_pool._gpus("auto") == ["0", "1"]
    assert _batch_pool._gpus("cuda:1") == ["0,1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc")
    assert _batch_pool._gpus("auto") == ["5", "GPU-abc"]
    assert _batch_pool._gpus("cpu") == []


def test_a_worker_plans_with_its_share_of_the_memory() -> None:
    cpu = resolve_device("cpu")
    held = psutil.Process().memory_info().rss
    try:
        limit_memory(held + 10**8)
        assert 0 < free_memory(cpu) < 2 * 10**8
        limit_memory(1)
        assert free_memory(cpu) == 0
    finally:
        limit_memory(None)
    assert free_memory(cpu) > 2 * 10**8


# ---------------------------------------------------------------- command line


def test_the_command_line(movies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--preset", "preview", "--device", "cpu", "--max-steps", "2", "--clip-size", "12"]
    quick += ["--clip-frames", "2", "--workers", "0"]
    out = str(tmp_path / "out")
    assert main(["batch", f"{movies}/[ab].tif", "-o", out, *quick]) == 0
    said = capsys.readouterr().out
    assert "2 movies: 2 done, 0 skipped, 0 failed" in said
    assert main(["batch", str(movies), "-o", out, *quick]) == 1
    said = capsys.readouterr().out
    assert "4 movies: 0 done, 2 skipped, 2 failed" in said
    assert "has 1 frame" in said
    assert main(["batch", f"{tmp_path}/none*.tif", "-o", out, *quick]) == 2
    assert "no movie matches" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_finished(
    movies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    calls: list[Any] = []
    real = _batch_pool.Here.next

    def stop_at_the_second(self: _batch_pool.Here) -> Any:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(_batch_pool.Here, "next", stop_at_the_second)
    given = [str(movies / "a.tif"), str(movies / "b.tif"), "-o", str(tmp_path / "out")]
    quick = ["--preset", "preview", "--max-steps", "2", "--workers", "0", "--device", "cpu"]
    assert main(["batch", *given, *quick]) == 130
    assert "what is finished stays" in capsys.readouterr().err
    assert main(["batch", *given, *quick]) == 0
    assert "1 done, 1 skipped" in capsys.readouterr().out
