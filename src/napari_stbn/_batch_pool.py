"""Where the jobs of a batch run: in this process, or on workers of dask.distributed."""

from __future__ import annotations

import logging
import os
import queue
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, Protocol

import psutil

from .devices import free_memory, resolve_device

__all__ = ["Answer", "Here", "Pool", "open_pool"]

_logger = logging.getLogger(__name__)
_LOST = "the connection to the scheduler was lost; run the same command again to go on"
_LOOK_EVERY = 20.0  # s without an answer, after which lost workers are replaced
_DEATHS = 2  # times that a job may take its worker down before it is given up
_CORES_A_WORKER = 4  # threads that the fit of one movie still makes use of
# The jobs hold no data of dask's: there is nothing to spill, and a worker that waits for its memory
# to fall would wait for ever.
_MEMORY = {
    **{f"distributed.worker.memory.{word}": False for word in ("target", "spill", "pause")},
    "distributed.worker.memory.terminate": 0.95,
}
_RESERVE = 1_000_000_000  # bytes that a worker holds beside its movie

Answer = tuple[Any, Any, Exception | None]  # the job's tag, its result, or its error


class Pool(Protocol):
    """Runs jobs; asked for as many as it has workers, it gives back one after the other."""

    @property
    def size(self) -> int:
        """Jobs that can run at once."""
        ...

    def submit(self, tag: Any, function: Callable[..., Any], *arguments: Any) -> None:
        """Begin a job; `next` gives the tag back with its result."""
        ...

    def next(self) -> Answer:
        """Wait for the next job that is done."""
        ...


class Here:
    """One job after the other in this process."""

    size = 1

    def __init__(self) -> None:
        self._waiting: deque[tuple[Any, Callable[..., Any], tuple[Any, ...]]] = deque()

    def submit(self, tag: Any, function: Callable[..., Any], *arguments: Any) -> None:
        """Keep a job until it is asked for."""
        self._waiting.append((tag, function, arguments))

    def next(self) -> Answer:
        """Run the oldest job."""
        tag, function, arguments = self._waiting.popleft()
        try:
            return tag, function(*arguments), None
        except Exception as error:  # noqa: BLE001  # one bad movie must not stop the others
            return tag, None, error


class _Workers:
    """Jobs on the workers of a dask cluster; those of a dead worker begin anew elsewhere."""

    def __init__(self, client: Any, mend: Callable[[], object] = lambda: None) -> None:
        self._client, self._mend = client, mend
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._tags: dict[Any, Any] = {}
        self._lost: deque[Answer] = deque()  # what could not even be sent

    @property
    def size(self) -> int:
        """Workers there are by now: clusters grow and shrink."""
        try:
            return max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))
        except (OSError, RuntimeError):  # the scheduler is gone: what is sent will say so
            return 1

    def submit(self, tag: Any, function: Callable[..., Any], *arguments: Any) -> None:
        """Send a job to the cluster."""
        try:
            future = self._client.submit(function, *arguments, pure=False)
        except Exception as error:  # noqa: BLE001  # a client without scheduler raises what it likes
            _logger.info("not sent: %s", error)
            self._lost.append((tag, None, ConnectionError(_LOST)))
            return
        self._tags[future.key] = (tag, future)
        future.add_done_callback(self._done.put)

    def next(self) -> Answer:
        """Wait for the next job; a lost connection comes back as an error."""
        if self._lost:
            return self._lost.popleft()
        while True:
            try:
                future = self._done.get(timeout=_LOOK_EVERY)
                break
            except queue.Empty:
                self._mend()
        tag, _ = self._tags.pop(future.key)
        if future.status == "finished":
            return tag, future.result(), None
        if future.status == "error":
            return tag, None, _plain(future.exception())
        return tag, None, ConnectionError(_LOST)


def _plain(error: BaseException) -> Exception:
    """An error of a worker, in words where it is dask's own."""
    if type(error).__name__ == "KilledWorker":
        return RuntimeError(
            f"{_DEATHS + 1} workers died with this movie (out of memory? see the system's log); "
            "crop it, or use fewer workers"
        )
    return error if isinstance(error, Exception) else RuntimeError(repr(error))


@contextmanager
def open_pool(
    scheduler: str | None, workers: int | None, *, device: str, jobs: int, need: int
) -> Generator[Pool, None, None]:
    """Connect to a cluster, or make one that fits this machine.

    Parameters
    ----------
    scheduler : str or None
        Address of a running dask scheduler, such as ``tcp://host:8786``.
    workers : int or None
        Processes on this machine; 0 runs in this process; chosen when None: one for each GPU, on
        the CPU one for every four cores as far as the memory goes.
    device : str
        As in `napari_stbn.Denoiser`.
    jobs : int
        Movies there are; no more workers are made.
    need : int [bytes]
        Memory that the largest movie needs.

    Yields
    ------
    Pool

    Raises
    ------
    ValueError
        If a scheduler is given, but dask.distributed is not installed, or `workers` is negative.
    OSError
        If the scheduler does not answer.
    """
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers}")
    if find_spec("distributed") is None:
        if scheduler is not None or workers:
            raise ValueError(
                "workers need dask.distributed: pip install 'napari-stbn[cluster]', or leave out "
                "--scheduler and --workers"
            )
        _logger.warning(
            "dask.distributed is not installed (pip install 'napari-stbn[cluster]'): the movies "
            "are denoised one after the other in this process"
        )
        yield Here()
        return
    if scheduler is not None:
        with _connect(scheduler) as client:
            yield _Workers(client)
        return
    gpus = _gpus(device)
    count = _count(workers, device, len(gpus), jobs, need)
    if count == 0:
        yield Here()
        return
    with _local(count, gpus) as (client, mend):
        yield _Workers(client, mend)


@contextmanager
def _connect(scheduler: str) -> Generator[Any, None, None]:
    """A client of a running scheduler."""
    from distributed import Client

    try:
        client = Client(scheduler, timeout=20, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConnectionError(
            f"no dask scheduler answers at {scheduler}; is its address right and is it running?"
        ) from error
    with client:
        _logger.info("connected to %s", scheduler)
        yield client


@contextmanager
def _local(count: int, gpus: list[str]) -> Generator[tuple[Any, Callable[[], object]], None, None]:
    """A client of workers on this machine, each with its GPU, threads and share of memory.

    And what replaces workers that did not come back.
    """
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster

    cores = _cores()
    options = {
        "nthreads": max(1, cores // count),
        "memory_limit": int(0.9 * psutil.virtual_memory().available / count),
        "config": _MEMORY,
        "silence_logs": logging.CRITICAL,
        "dashboard": False,
    }
    specification = {
        number: {
            "cls": Nanny,
            "options": {
                **options,
                "env": {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {},
            },
        }
        for number in range(count)
    }
    where = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": ":0"}
    _logger.info("%d workers with %d threads each", count, options["nthreads"])
    with (
        _silent(logging.getLogger("distributed")),
        dask.config.set(
            {
                "distributed.scheduler.allowed-failures": _DEATHS,
                "distributed.deploy.lost-worker-timeout": "60s",  # busy machines start slowly
            }
        ),
    ):
        try:
            cluster = SpecCluster(
                workers=specification, scheduler={"cls": Scheduler, "options": where}
            )
        except (RuntimeError, OSError) as error:
            raise ConnectionError(
                f"the workers could not be started ({error}); try --workers 0, which needs none"
            ) from error
        with cluster, Client(cluster, set_as_default=False) as client:
            try:
                # It begins those anew that are missing: dask gives up one that comes back slowly.
                yield client, lambda: cluster.scale(count)
            except (KeyboardInterrupt, GeneratorExit):
                _end_workers(cluster)
                raise


def _end_workers(cluster: Any) -> None:
    """End the workers of a batch that was stopped: dask would wait five seconds for their jobs."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        with suppress(psutil.Error):
            if nanny.pid is not None:
                psutil.Process(nanny.pid).kill()


@contextmanager
def _silent(logger: logging.Logger) -> Generator[None, None, None]:
    """Keep a library from telling at length what the outcomes tell in a sentence."""
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _gpus(device: str) -> list[str]:
    """What CUDA_VISIBLE_DEVICES is to be for each worker; empty where the CPU does the work."""
    import torch

    place = resolve_device(device)
    if place.type != "cuda":
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    visible = [str(i) for i in range(count)] if named is None else named.split(",")[:count]
    return [",".join(visible)] if ":" in device else visible


def _count(workers: int | None, device: str, gpus: int, jobs: int, need: int) -> int:
    """How many processes to make."""
    if workers is not None:
        return min(workers, jobs)
    if gpus:
        return min(gpus, jobs)
    if resolve_device(device).type == "mps":
        return 1  # one GPU, whose memory is that of the machine
    free = int(0.9 * free_memory(resolve_device("cpu")))
    fitting = max(1, free // (need + _RESERVE))
    return max(1, min(_cores() // _CORES_A_WORKER or 1, fitting, jobs))


def _cores() -> int:
    """Cores that this process may use."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else psutil.cpu_count() or 1
