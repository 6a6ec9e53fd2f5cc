"""The authors' released code, imported as it is, and a step of their training scripts.

A checkout of github.com/ZKCCZ/STBN (MIT). What a current machine lacks is stood in for and named:
weights of PWC-Net, a function that cupy no longer has, matplotlib.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_stbn.flow.pwcnet import correlation
from napari_stbn.network import stbn_from_released
from napari_stbn.noise import GaussianNoise
from napari_stbn.preparation import PreparedMovie
from napari_stbn.prior import Units
from napari_stbn.stack import IntensityScaling

Code = dict[str, ModuleType]
Shape = tuple[int, int, int]  # clips, frames, side
SIGMA = 30 / 255  # of the noise, as in the authors' scripts; frames are from 0 to 1


def authors_code(folder: Path, device: torch.device, notes: list[str]) -> Code:
    """Import the authors' modules; stand in for what is missing, and note it."""
    if not (folder / "models" / "bdc_flow.py").is_file():
        raise FileNotFoundError(f"{folder} is no checkout of the authors' code; see --authors")
    os.environ.setdefault("CUPY_CACHE_DIR", tempfile.mkdtemp())
    sys.path.insert(0, str(folder.resolve()))
    cupy: Any
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        cupy = ModuleType("cupy")
        cupy.memoize, cupy.ndarray = lambda **_: lambda function: function, type("ndarray", (), {})
        cupy.cuda = ModuleType("cupy.cuda")
        sys.modules["cupy"] = cupy
    if not hasattr(cupy.cuda, "compile_with_cache"):  # gone; RawModule does the same
        cupy.cuda.compile_with_cache = lambda source: cupy.RawModule(code=source)
    if importlib.util.find_spec("matplotlib") is None:  # the posterior imports it for nothing
        sys.modules.update({n: ModuleType(n) for n in ("matplotlib", "matplotlib.pyplot")})
    pwc = importlib.import_module("pytorch_pwc.pwc")
    pwc.torch.hub.load_state_dict_from_url = lambda **_: {}
    pwc.PWCNet.load_state_dict = lambda *_, **__: None
    notes.append("Both PWC-Nets have random weights (none are shipped), which changes no time.")
    names: tuple[str, ...] = ("models.bdc_flow", "models.bdc_2_unify", "utils.loss_funtions")
    names += ("utils.post_processing", "utils.fastdvdnet_utils")
    code = {name.partition(".")[2]: importlib.import_module(name) for name in names}
    kernel = pwc.correlation
    code["bdc_flow"].__dict__["tqdm"] = iter  # no bar among the rows
    try:
        _check_correlation(kernel, device)
        how = "runs in cupy, as theirs"
    except Exception:  # noqa: BLE001  # whatever it is, ours does instead
        print(f"FAILED: the authors' correlation\n{traceback.format_exc()}", flush=True)
        how = "is our plain torch one, since cupy's failed: slower than theirs"
        kernel.FunctionCorrelation = lambda tenFirst, tenSecond: correlation(tenFirst, tenSecond, 4)
        _check_correlation(kernel, device)
    notes.append(f"The correlation of the authors' PWC-Net {how}.")
    return code


def _check_correlation(kernel: Any, device: torch.device) -> None:
    """Compare value and gradients with ours; raise where they differ."""
    a, b = (torch.randn(2, 40, 9, 13, device=device, requires_grad=True) for _ in range(2))
    volumes = (kernel.FunctionCorrelation(a, b), correlation(a, b, 4))
    slope = torch.randn_like(volumes[1])
    pairs = [torch.autograd.grad(v, (a, b), slope) for v in volumes]
    for x, y in zip((volumes[0], *pairs[0]), (volumes[1], *pairs[1]), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)


class TheirFit:
    """Steps of the authors' training scripts, with the flow that their model finds, or a given one.

    ``bdc_flow`` trains its flow network too (sRGB_train_bsn_flow.py), ``bdc_2_unify`` does not
    (sRGB_train_bsn.py, with a map of the noise beside the frame).
    """

    def __init__(self, code: Code, kind: str, shape: Shape, device: torch.device):
        self.code = code
        self.model = nn.DataParallel(getattr(code[kind], kind)(3, 5)).to(device).train()
        inner: Any = self.model.module
        self.optimizer = torch.optim.Adam(inner.trainable_parameters(), lr=3e-4)
        self.flows = kind == "bdc_flow"
        if self.flows:
            self.optimizer.add_param_group({"params": inner.pwcnet.parameters(), "lr": 1e-5})
        batch, frames, side = shape
        seq = torch.randint(256, (batch, frames, 3, side, side), dtype=torch.uint8)
        self.data, self.device = seq, device

    def __call__(self) -> None:
        """One step."""
        seq = self.data.to(self.device)
        seq = self.code["fastdvdnet_utils"].normalize_augment(seq, aug=False)
        level = torch.FloatTensor([SIGMA]).to(self.device)
        noise_map = level.expand_as(seq)
        noisy = seq + torch.normal(mean=torch.zeros_like(seq), std=noise_map)
        out, _, *flow_loss = self.model(noisy, noise_map)
        loss = self.code["loss_funtions"].loss_function_batch
        total = loss(out, noisy, mode="loglike", sigma=level.squeeze()) + sum(flow_loss)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1)
        self.optimizer.step()
        self.optimizer.zero_grad()


def made_movie(frames: int, side: int, channels: int) -> PreparedMovie:
    """Noise on a smooth picture, a smooth flow of a pixel or two: values do not change the time."""
    chance = torch.Generator().manual_seed(0)

    def smooth(*shape: int) -> Tensor:
        coarse = torch.randn(*shape, side // 16, side // 16, generator=chance)
        return F.interpolate(coarse, (side, side), mode="bilinear")

    clean = (0.5 + 0.15 * smooth(frames, channels)).clamp(0, 1)
    noisy = clean + SIGMA * torch.randn(clean.shape, generator=chance)
    unit = Units(GaussianNoise(SIGMA), IntensityScaling(0.5 / SIGMA, 1.5))
    valid = torch.ones(frames, 1, side, side, dtype=torch.bool)
    flows = (smooth(frames - 1, 2), smooth(frames - 1, 2))
    return PreparedMovie(noisy, unit.to_network(noisy), valid, *flows, (unit,) * channels)


def given_flow(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Flow to the next and the previous frame, in the order of the authors' functions."""
    batch, frames, side = shape
    movie = made_movie(frames, side, 3)
    both = (movie.flow_to_next, movie.flow_to_previous)
    following, previous = (f[None].expand(batch, -1, -1, -1, -1).to(device) for f in both)
    return following.contiguous(), previous.contiguous()


@torch.no_grad()
def same_function(code: Code, shape: Shape, device: torch.device) -> str:
    """How far our network with the authors' random weights is from theirs, flow given."""
    theirs = code["bdc_flow"].bdc_flow(3, 5).to(device).train()
    flows = given_flow((1, *shape[1:]), device)
    frames = torch.rand(1, shape[1], 3, shape[2], shape[2], device=device)
    given: dict[str, Any] = dict.fromkeys(
        ("get_flow_2frames", "get_flow_2frames_train"), lambda *_: flows
    )
    torch.backends.cudnn.allow_tf32 = False
    try:
        with patch.multiple(code["bdc_flow"], **given):
            expected = theirs(frames)[0]
        ours = stbn_from_released(theirs.state_dict()).to(device)
        error = ours(frames, flows[1], flows[0]) - expected
    finally:
        torch.backends.cudnn.allow_tf32 = True  # torch's default
    all_of_it, flow = count(theirs), count(theirs.pwcnet)
    return (
        f"Authors' bdc_flow: {all_of_it - flow:,} parameters, and {flow:,} of its PWC-Net. With "
        f"its weights and a given flow ours differs by {float(error.norm() / expected.norm()):.0e} "
        "of the output (root mean square, float32)."
    )


def count(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())
