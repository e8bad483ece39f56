"""The deploy of a model as one transaction: either the new version answers, proved, or everything is as before.

::

    launch   find the server, or start it
    export   write the model under a hidden name, check it (`export`, `savedmodel`)
    publish  have the server hold the number, then rename the folder to it (`publish`)
    detect   the server sees the folder; load, warm up: a worker of its own, beside the old version's
    prove    it answers as the model in the notebook does (`prove`), asked by its number
    available  the hold ends: unversioned requests move to it, the old version drains

What a step does, and how it is undone, is in `serving_workbench.deployment`; here it is seen to that there is a server,
and that one which was started for nothing ends again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from serving_workbench.deploy_settings import DeploySettings
from serving_workbench.deployment import Deployment, noting
from serving_workbench.differences import DEFAULT_TOLERANCE, tolerance_pair
from serving_workbench.errors import WorkbenchError
from serving_workbench.export import check_model
from serving_workbench.handle import ServedModel
from serving_workbench.instance_name import chosen_instance
from serving_workbench.interrupts import uninterrupted
from serving_workbench.notes import check_note, write_notes
from serving_workbench.progress import Progress
from serving_workbench.publish import check_model_name
from serving_workbench.records import deploy_lock
from serving_workbench.server import Server, stop_when_idle
from serving_workbench.warmup_requests import check_warmup

__all__ = ["serve"]

#: Seconds for a server that somebody ends at this moment.
_STOPPED_SECONDS = 30.0


def serve(
    model: object,
    name: str,
    *,
    root: str | Path | None = None,
    sample: object = None,
    version: int | None = None,
    signatures: Mapping[str, Any] | None = None,
    tolerance: tuple[float, float] | float | None = DEFAULT_TOLERANCE,
    instance: str | None = None,
    progress: bool = True,
    timeout: float = 120.0,
    keep: bool = False,
    warmup: object = None,
    note: str | None = None,
    metrics: Mapping[str, float] | None = None,
    label: str | Sequence[str] | None = None,
    batching: object = None,
    beside: bool = False,
) -> ServedModel:
    """Serve a model: export it as the next version, load it beside the old one, prove it, switch over.

    Parameters
    ----------
    model : keras.Model, tf.Module, tf.function, dict of str to tf.function, str or Path
        What to serve; a path is a SavedModel's folder, or a base folder whose highest version is taken.
    name : str
        Model name: in URLs, in gRPC requests, and the folder below `root`.
    root : str or Path, optional
        Folder of all models. By default where this model is served from already, else the server's root, which is
        ``./models`` of the process that started it.
    sample : array_like, dict or DataFrame, optional
        A valid input of the default signature: sent as the proof, and written as warm-up, so that the version is warm
        before it answers. By default values are drawn from the signatures (see `serving_workbench.sampling`).
    version : int, optional
        Version number; by default one more than the highest ever taken.
    signatures : mapping, optional
        With a tf.Module: the functions to offer by signature name.
    tolerance : tuple of float, float or None
        ``(rtol, atol)`` of the proof, or rtol alone; None checks dtypes and shapes only.
    instance : str, optional
        Name of the server, started when it does not run: by default what the environment names
        (``SERVING_WORKBENCH_INSTANCE``), else ``default``.
    progress : bool
        Show a bar.
    timeout : float
        Seconds for the server to start (at most 60 of them), and again for the version to answer.
    keep : bool
        A server started by this call runs on after its owner has ended (see `serving_workbench.ownership`).
    warmup : str, Path, array_like, dict or DataFrame, optional
        Requests that are replayed at each load, in place of those that the model brings: ``"previous"`` for the file
        of the version that answers now (see `ServedModel.record_warmup`; where there is none, as without `warmup`), the
        path of such a file, or one valid input of the default signature.
    note : str, optional
        What is worth knowing of this version. It travels with its files, with who made it, when and from which
        notebook: see `ServedModel.history`.
    metrics : mapping of str to float, optional
        How good the version is: ``{"accuracy": 0.97}``; kept beside the note.
    label : str or sequence of str, optional
        Labels that point at the version when it is proved, such as ``"canary"``.
    batching : str, Path, mapping or bool, optional
        How the model's requests are put together from now on: see `serving_workbench.config`. By default as before.
    beside : bool
        The version is loaded and proved, and the one that answers goes on answering: the new one is reached by its
        number and its labels, and gets what a split, a mirror or a ramp gives it. A first version answers all the same.

    Returns
    -------
    ServedModel

    Raises
    ------
    WorkbenchError
        `LaunchError`, `ExportError`, `PublishError`, `DeployError`, `ProofError`, `ControlError`...: `.step` says
        where, `.hint` what to try. What was served before is still served.
    """
    check_model_name(name)
    check_model(model)
    limits = tolerance_pair(tolerance)
    check_warmup(warmup)
    numbers = check_note(note, metrics)
    settings = DeploySettings(label, batching)
    instance = chosen_instance(instance)
    with Progress(f"serve {name}", enabled=progress) as steps, deploy_lock(instance, _STOPPED_SECONDS) as lock:
        started = False
        try:
            steps.step("launch")
            started = Server.find(instance) is None
            folder = None if root is None else Path(root).expanduser().absolute()
            server = Server.launch(instance, root=folder, keep=keep, timeout=min(timeout, 60.0))
            deployment = Deployment(server, name, folder, steps, timeout, settings, beside=beside)
            noted = partial(write_notes, model=model, note=note, metrics=numbers)
            return deployment.run(model, version, signatures, sample, limits, warmup, noted)
        except BaseException as error:
            if isinstance(error, WorkbenchError):
                error.step = error.step or steps.current
            if started:
                with uninterrupted(), noting(error, "The server that was started for it could not be stopped"):
                    stop_when_idle(instance, lock)
            raise
