"""How wrong estimated motion is by light, and what that costs the denoising.

``python benchmarks/flow.py error`` prints the end-point error on movies with exact flow, on pairs
with measured flow where there are any, and the time; ``denoise`` prints PSNR for several sources of
motion with all else fixed. See README.md here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from _common import Format, machine, machine_line, markdown_table, use_threads, write_results
from _flow_data import Scene, exact_scenes, measured_scenes
from napari_stbn.flow import Flow, confidence, estimate_flow
from napari_stbn.flow.consistency import smooth_unsure

Row = dict[str, Any]
Image = NDArray[np.float32]
Method = Callable[[Scene], Flow]
LEFT = (
    "**Error that alignment leaves** (nearest neighbour, clean frames, squared, over all pixels), "
    "as a part of what no motion leaves; still movies left out"
)
LEVELS = (0.0, 100.0, 30.0, 10.0, 3.0)  # photons at the 99.9th percentile; 0 is without noise


def main() -> None:
    """Measure, print and write."""
    options = _options()
    use_threads(options.threads)
    if options.what == "denoise":
        from _flow_denoising import denoising_tables

        rows, text = denoising_tables(options)
    else:
        rows, text = _error_tables(options)
    here = machine(options.threads)
    text.append(machine_line(here))
    report = "\n\n".join(text)
    print(f"\n{report}")
    if options.output is not None:
        write_results(options.output, {"machine": here, "rows": rows}, report)


def _options() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["error", "denoise"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="movies of each kind")
    parser.add_argument("--size", type=int, default=160, help="side of a frame [px]")
    parser.add_argument("--slow", action="store_true", help="error: ilk and tvl1 too")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(__file__).parents[1] / ".." / "shared" / "data" / "flow",
        help="error: folder of pairs with measured flow",
    )
    parser.add_argument(
        "--movies",
        nargs="+",
        default=["slow", "fast", "nonrigid", "static", "jerky", "jolts"],
        help="denoise",
    )
    parser.add_argument("--photons", type=float, nargs="+", default=[5.0, 20.0, 100.0])
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[0, 120], help="denoise: of the fit"
    )
    parser.add_argument("--sources", nargs="+", default=None, help="denoise: of the motion")
    parser.add_argument("--frames", type=int, default=16, help="denoise: of a movie")
    parser.add_argument(
        "--start", choices=["pretrained", "fresh"], default="pretrained", help="denoise: of a fit"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write OUTPUT.json and OUTPUT.md too")
    parser.add_argument("--quick", action="store_true", help="tiny: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.size, options.frames, options.steps = 64, 4, [0, 2]
        options.photons, options.movies = options.photons[:1], options.movies[:2]
    return options


def methods(slow: bool) -> dict[str, Method]:
    """What is compared, by name."""

    def stock(scene: Scene) -> Flow:
        return scene.by_pair(_stock_dis)

    def filled(scene: Scene) -> Flow:
        flow = scene.estimated("dis")
        return smooth_unsure(flow, confidence(flow))

    def clean(scene: Scene) -> Flow:
        return estimate_flow(scene.clean, "dis")

    def clean_fine(scene: Scene) -> Flow:
        return estimate_flow(scene.clean, "dis_fine")

    chosen: dict[str, Method] = {
        "none": lambda scene: scene.estimated("none"),
        "translation": lambda scene: scene.estimated("translation"),
        "DIS, stock settings": stock,
        "dis": lambda scene: scene.estimated("dis"),
        "dis, smoothed where both ways differ": filled,
        "dis_multi": lambda scene: scene.estimated("dis_multi"),
        "blend": lambda scene: scene.estimated("blend"),
        "auto": lambda scene: scene.estimated("auto"),
        "dis_fine": lambda scene: scene.estimated("dis_fine"),
        "dis on clean frames": clean,
        "dis_fine on clean frames": clean_fine,
    }
    if slow:
        chosen["ilk"] = lambda scene: scene.estimated("ilk")
        chosen["tvl1"] = lambda scene: scene.estimated("tvl1")
    return chosen


def _stock_dis(frame: Image, other: Image) -> Image:
    """OpenCV's own preset of dense inverse search on frames scaled to 8 bits."""
    import cv2

    low, high = np.percentile([frame, other], [1, 99.8])
    a, b = (
        np.clip((x - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
        for x in (frame, other)
    )
    search: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.ascontiguousarray(np.moveaxis(search.calc(a, b, None), -1, 0))


def _error_tables(options: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """End-point error and what alignment leaves, by light; then seconds."""
    compared = methods(options.slow)
    levels = LEVELS[:2] if options.quick else LEVELS
    rows: list[Row] = []
    scenes = exact_scenes(options.seeds, levels, options.size)
    for scene in scenes:
        rows += _measure(scene, compared)
        print(f"  {scene.name}, {scene.photons:g}", flush=True)
    measured: list[Row] = []
    for scene in measured_scenes(options.data, levels):
        # A pair alone has no neighbours to average over.
        pair = {name: compared[name] for name in compared if name != "dis_multi"}
        measured += _measure(scene, pair)
        print(f"  {scene.name}, {scene.photons:g}", flush=True)
    text = [
        "**End-point error [px] over the foreground**, mean of all motions",
        _by_level(rows, "error", compared, levels),
        LEFT,
        _by_level([r for r in rows if r["motion"] != "static"], "left", compared, levels, ".1%"),
    ]
    for motion in dict.fromkeys(row["motion"] for row in rows):
        text.append(f"End-point error [px], {motion}")
        text.append(
            _by_level([r for r in rows if r["motion"] == motion], "error", compared, levels)
        )
    picked = [r for r in rows if r["method"] == "auto"]
    text += ["What `auto` takes", _picks(picked, levels)]
    for name in dict.fromkeys(row["motion"] for row in measured):
        text.append(f"End-point error [px], {name}")
        text.append(_by_level([r for r in measured if r["motion"] == name], "error",
                              compared, levels))  # fmt: skip
    if not measured:
        text.append(f"No pairs with measured flow in {options.data}.")
    text += ["CPU seconds a pair, both directions", _seconds(compared, options.quick)]
    return [*rows, *measured], text


def _measure(scene: Scene, compared: Mapping[str, Method]) -> Iterator[Row]:
    """One row for each method on one scene."""
    still = scene.left(None)
    for name, method in compared.items():
        flow = method(scene)
        yield {
            "method": name,
            "scene": scene.name,
            "motion": scene.motion,
            "photons": scene.photons,
            "error": scene.error(flow),
            "left": scene.left(flow) / still if still > 0 else float("nan"),
            "picked": scene.picked if name == "auto" else None,
        }


def _by_level(
    rows: list[Row],
    value: str,
    compared: Mapping[str, Method],
    levels: tuple[float, ...],
    style: str = ".3f",
) -> str:
    """Mean of a measure: a row for each method, a column for each level of light."""
    columns: dict[str, tuple[str, Format]] = {"method": ("method", "s")}
    columns |= {f"{p:g}": (f"{p:g} photons" if p else "clean", style) for p in levels}
    table = []
    for name in compared:
        row: Row = {"method": name}
        for p in levels:
            values = [r[value] for r in rows if r["method"] == name and r["photons"] == p]
            if values and np.isfinite(values).any():
                row[f"{p:g}"] = float(np.nanmean(values))
        table.append(row)
    return markdown_table(columns, table)


def _picks(rows: list[Row], levels: tuple[float, ...]) -> str:
    """How often each method was taken, by motion and light."""
    columns: dict[str, tuple[str, Format]] = {"motion": ("motion", "s")}
    columns |= {f"{p:g}": (f"{p:g} photons" if p else "clean", "s") for p in levels}
    table = []
    for motion in dict.fromkeys(row["motion"] for row in rows):
        row: Row = {"motion": motion}
        for p in levels:
            names = [r["picked"] for r in rows if r["motion"] == motion and r["photons"] == p]
            row[f"{p:g}"] = ", ".join(f"{n} {names.count(n)}" for n in sorted(set(names)))
        table.append(row)
    return markdown_table(columns, table)


def _seconds(compared: Mapping[str, Method], quick: bool) -> str:
    """Processor time for a pair of frames, in a movie of six."""
    sizes = (64,) if quick else (256, 512)
    columns: dict[str, tuple[str, Format]] = {"method": ("method", "s")}
    columns |= {str(size): (f"{size} x {size}", ".3f") for size in sizes}
    table: list[Row] = [{"method": name} for name in compared if "clean" not in name]
    for size in sizes:
        scene = next(exact_scenes([0], (20.0,), size, structures=("mixed",), motions=("layers",)))
        for row in table:
            scene.forget()
            compared[row["method"]](scene)  # imports and first use
            scene.forget()
            started = time.process_time()
            compared[row["method"]](scene)
            row[str(size)] = (time.process_time() - started) / (len(scene.noisy) - 1)
    return markdown_table(columns, table)


if __name__ == "__main__":
    main()
