"""Where trials run: processes of this machine, or the workers of a cluster."""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from ..runtime.errors import UserError

Backend = Literal["loky", "dask", "ray"]
"""Where joblib runs trials: processes of this machine, or the workers of a cluster."""


@contextmanager
def workers(jobs: int, backend: Backend, scheduler: str | None) -> Iterator[None]:
    """Make joblib use a backend inside the block, with so many jobs at a time.

    Raises
    ------
    UserError
        When a backend is not installed or a cluster cannot be reached.
    """
    import joblib

    if backend == "loky":
        if scheduler is not None:
            raise UserError("scheduler is the address of a cluster: choose backend dask or ray")
        with joblib.parallel_config("loky", n_jobs=jobs):
            yield
        return
    try:
        if backend == "dask":
            import dask
            from distributed import Client, LocalCluster
        else:
            import ray
            from ray.util.joblib import register_ray
    except ImportError:
        raise UserError(
            f"backend {backend} needs more packages: pip install 'isnas[{backend}]'"
        ) from None
    if backend == "dask":
        try:
            # a trial that kills its worker is not given to the others; theirs is to say, where the cluster is theirs
            with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
                # a process for each: seconds and memory are measured of processes
                cluster = scheduler or LocalCluster(
                    n_workers=jobs, threads_per_worker=1, processes=True, dashboard_address=None
                )
            client = Client(cluster)
        except (OSError, TimeoutError, ValueError) as error:
            raise UserError(f"no Dask scheduler at {scheduler}: {error}") from None
        # that the scheduler is gone is said in a line, not by a traceback
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        try:
            with joblib.parallel_config("dask", n_jobs=jobs):
                yield
        finally:
            client.close()
            if scheduler is None:
                cluster.close()
        return
    try:
        address = {"address": scheduler} if scheduler else {"num_cpus": jobs}
        ray.init(**address, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"no Ray cluster at {scheduler}: {error}") from None
    try:
        register_ray()
        with joblib.parallel_config("ray", n_jobs=jobs):
            yield
    finally:
        ray.shutdown()


def _gone(what: str) -> str:
    return f"{what}: the trials that are done are kept, the same command does the others"


LOST = _gone("the Dask scheduler cannot be reached any more")


class WorkerDied(Exception):
    """The process or worker of a trial died before it had a result; the text says so."""


class Pool(Protocol):
    """Where trials run, each in a process of its own."""

    interval: float | None
    """Seconds after which `places` is to be asked again; None: when a trial is done."""

    def __enter__(self) -> Pool:
        """Return the pool."""
        ...

    def __exit__(self, *_: object) -> None:
        """Give up what still runs."""
        ...

    def places(self) -> int:
        """Return how many trials can run at a time.

        Raises
        ------
        UserError
            When a cluster is gone.
        """
        ...

    def submit(self, function: Callable[..., Any], *trial: Any) -> Future[Any]:
        """Let a trial begin."""
        ...

    def result(self, future: Future[Any]) -> Any:
        """Return what the function of a trial returned, or raise what it raised.

        Raises
        ------
        WorkerDied
        """
        ...


def active_pool(jobs: int) -> Pool | None:
    """Return where joblib would run so many trials at a time; None stands for this process.

    Raises
    ------
    UserError
        When it is neither processes of this machine nor a cluster.
    """
    from joblib import parallel

    backend, _ = parallel.get_active_backend()
    pools = {"loky": lambda: Processes(jobs), "dask": lambda: Dask(backend.client), "ray": Ray}
    for name, pool in pools.items():
        if isinstance(backend, parallel.BACKENDS.get(name, ())):
            return None if name == "loky" and jobs == 1 else pool()
    raise UserError(
        f"trials run under joblib's backends {', '.join(pools)}, not {type(backend).__name__}"
    )


class Processes:
    """Processes of this machine.

    Every process is a pool of its own. When one dies, a pool does not know which of its trials has killed it, and gives
    all of them up; here there is one.

    Parameters
    ----------
    jobs : int
        Processes at a time.
    """

    interval = None

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.free: list[Any] = []
        self.running: dict[Future[Any], Any] = {}

    def __enter__(self) -> Processes:
        """Return the pool."""
        from multiprocessing import resource_tracker

        from joblib.externals.loky.backend import resource_tracker as loky_resource_tracker

        # begun with the first process, they would end its block of Ctrl-C
        resource_tracker.ensure_running()
        loky_resource_tracker.ensure_running()
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        for process in [*self.free, *self.running.values()]:
            process.shutdown(kill_workers=True)

    def places(self) -> int:
        """Return the number of processes."""
        return self.jobs

    def submit(self, function: Callable[..., Any], *trial: Any) -> Future[Any]:
        """Let a trial begin in a process that is free, or in a new one."""
        from joblib.externals.loky import ProcessPoolExecutor

        # numerical libraries do not know that there are others
        threads = str(max((os.cpu_count() or 1) // self.jobs, 1))
        limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        process = (
            self.free.pop()
            if self.free
            else ProcessPoolExecutor(max_workers=1, env=dict.fromkeys(limits, threads))
        )
        with _uninterrupted():
            future = process.submit(function, *trial)
        self.running[future] = process
        return future

    def result(self, future: Future[Any]) -> Any:
        """Return the result of a trial; its process is free again, or has died."""
        from joblib.externals.loky.process_executor import BrokenProcessPool

        process = self.running.pop(future)
        try:
            result = future.result()
        except BrokenProcessPool as error:
            process.shutdown(kill_workers=True)
            codes = re.search(r"exit codes? of the workers? (?:is|are) \{(.*?)\}", str(error))
            how = f" ({codes[1]})" if codes else ""
            raise WorkerDied(f"its process died{how}, perhaps for want of memory") from None
        self.free.append(process)
        return result


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Keep Ctrl-C, which a terminal sends to all, from processes that begin inside the block: this process ends them.

    One that is still importing would show where. They inherit the signal as blocked and never take it. This process
    takes it when the block ends.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Dask:
    """The workers of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
    patience : float
        Seconds that the cluster may be without a worker: those that died are started again, or others come.
    """

    interval = 1.0

    def __init__(self, client: Any, patience: float = 60.0) -> None:
        self.client = client
        self.patience = patience
        self.executor = client.get_executor(pure=False)
        self.alive = time.monotonic()

    def __enter__(self) -> Dask:
        """Return the pool."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take back what has not begun."""
        self.executor.shutdown(wait=False)

    def places(self) -> int:
        """Return the threads of all workers that live now; see `Pool.places`."""
        if self.client.status != "running":
            raise UserError(LOST)
        try:
            workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        except OSError:
            raise UserError(LOST) from None
        places = sum(worker["nthreads"] for worker in workers)
        if places:
            self.alive = time.monotonic()
        elif time.monotonic() - self.alive > self.patience:
            raise UserError(_gone(f"the Dask cluster has had no worker for {self.patience:g} s"))
        return places

    def submit(self, function: Callable[..., Any], *trial: Any) -> Future[Any]:
        """Let a trial begin on a worker."""
        return self.executor.submit(function, *trial)

    def result(self, future: Future[Any]) -> Any:
        """Return the result of a trial."""
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker as error:
            raise WorkerDied(
                f"its Dask worker ({error.last_worker.address}) died, perhaps for want of memory"
            ) from None
        except CancelledError:  # by the client, which has lost its scheduler
            raise UserError(LOST) from None


class Ray:
    """The workers of the Ray cluster that this process is connected to."""

    interval = 1.0

    def __enter__(self) -> Ray:
        """Return the pool."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave what runs to the end of the connection."""

    def places(self) -> int:
        """Return the CPUs of the cluster; see `Pool.places`."""
        import ray

        try:
            # none are left for a moment when a node has died
            return max(int(ray.cluster_resources().get("CPU", 0)), 1)
        except ray.exceptions.RayError:
            raise UserError(_gone("the Ray cluster cannot be reached any more")) from None

    def submit(self, function: Callable[..., Any], *trial: Any) -> Future[Any]:
        """Let a trial begin in a worker, and in no other when it dies."""
        import ray

        return ray.remote(function).options(max_retries=0).remote(*trial).future()

    def result(self, future: Future[Any]) -> Any:
        """Return the result of a trial, or raise the exception itself that it raised."""
        from ray import exceptions

        try:
            return future.result()
        except exceptions.RayTaskError as error:
            raise error.cause from None
        except (
            exceptions.NodeDiedError,
            exceptions.ObjectLostError,
            exceptions.OutOfMemoryError,
            exceptions.WorkerCrashedError,
        ) as error:
            raise WorkerDied(
                f"its Ray worker died ({type(error).__name__}), perhaps for want of memory"
            ) from None
        except exceptions.RayError as error:
            raise UserError(_gone(f"the Ray cluster failed ({type(error).__name__})")) from None
