"""Where trials run: processes of this machine, or the workers of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

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
            # a process for each: seconds and memory are measured of processes
            cluster = scheduler or LocalCluster(
                n_workers=jobs, threads_per_worker=1, processes=True, dashboard_address=None
            )
            client = Client(cluster)
        except (OSError, TimeoutError, ValueError) as error:
            raise UserError(f"no Dask scheduler at {scheduler}: {error}") from None
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
