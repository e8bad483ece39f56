"""What a request means, decided once for gRPC and REST alike: which version answers, whether the request fits it.

Everything runs on the loop and nothing blocks; answers come by callback.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from serving_server.batching.task import OnDone, Task
from serving_server.catalog import RELOAD_SECONDS, Catalog
from serving_server.errors import InvalidArgumentError, NotFoundError, ServingError
from serving_server.inputs import check_dtypes, check_inputs, check_method, select_outputs, signature_of
from serving_server.lifecycle.states import State, VersionView
from serving_server.metrics.requests import SignatureRequests
from serving_server.mirroring.mirror import Mirror
from serving_server.request_log import record
from serving_server.request_log.record import Record
from serving_server.servable import ServedVersion
from serving_server.signatures import INIT_SIGNATURES, Signature
from serving_server.stamps.asked import Asked
from serving_server.tensors import Array
from serving_server.traffic.router import Arm, Caller

__all__ = ["Inference", "Resolved", "VersionStatus"]

log = logging.getLogger(__name__)

#: How long before its client's deadline a reload that still waits is answered. Seconds.
_ANSWER_SECONDS: Final = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Resolved:
    """A request's target: one signature of one loaded version, and what all its requests have in common.

    Attributes
    ----------
    servable : ServedVersion
    signature : Signature
    outputs : tuple of str
        Aliases of all outputs.
    requests : SignatureRequests
        Where its requests count.
    mirror : Mirror or None
        What copies this request.
    arm : Arm or None
        Of the split that gave the request to this version.
    """

    servable: ServedVersion
    signature: Signature
    outputs: tuple[str, ...]
    requests: SignatureRequests
    mirror: Mirror | None = None
    arm: Arm | None = None

    @property
    def version(self) -> int:
        """Number of the version that answers."""
        return self.servable.version

    def refused(self, error: ServingError, received: float = 0.0, asked: Asked | None = None) -> None:
        """Stamp a request that does not get as far as to run, and count it for the arm that it was given to.

        Parameters
        ----------
        error : ServingError
        received, asked
            As of `Task`.
        """
        self.servable.statistics.stamps.refused(self.signature.name, error.code, self.version, received, asked)
        if self.arm is not None:
            self.arm.failed(error.code)


#: (version, state name, error code name, error message)
VersionStatus = tuple[int, str, str, str]


class Inference:
    """The server's answers, for transports to translate.

    Parameters
    ----------
    catalog : Catalog
    check_method_names : bool
        Refuse signatures that are made for something else than inference (``--enable_signature_method_name_check``).
    """

    def __init__(self, catalog: Catalog, *, check_method_names: bool = False) -> None:
        self._catalog = catalog
        self._check_method_names = check_method_names
        self._manager = catalog.manager
        self._request_logs = catalog.request_logs
        self._tapped_models = catalog.request_logs.by_model
        self._split_models = catalog.splits.routers
        self._mirrored_models = catalog.mirrors.by_model
        self._loop = asyncio.get_running_loop()
        #: The manager's, whose servables are what this server's loader makes.
        self._resolve = cast("Callable[[str, int | None], ServedVersion]", self._manager.resolve)

    def unready(self) -> dict[str, str]:
        """Return the models that do not answer requests which name no version, each with the reason."""
        found = {}
        for name in self._manager.model_names():
            if self._manager.serving_version(name) is None:
                try:
                    self._manager.resolve(name, None)
                except ServingError as error:
                    found[name] = error.message
        return found

    def models(self) -> list[tuple[str, list[VersionStatus], dict[str, int]]]:
        """Return every model: its name, its versions as `model_status` has them, and its labels.

        Versions that were unloaded are left out, as there are more of them with every deploy; those that failed stay.
        """
        found = []
        for name in sorted(self._manager.model_names()):
            views = self._manager.versions(name)
            statuses = [_status(view) for view in views if view.state is not State.END or view.error_message]
            found.append((name, statuses, self._catalog.labels.of(name)))
        return found

    def servable(
        self, model: str, version: int | None, label: str | None, caller: Caller | None = None
    ) -> ServedVersion:
        """Return the version that a ModelSpec names.

        Parameters
        ----------
        model, version, label
            Of the ModelSpec.
        caller : Caller, optional
            Who asks, where requests that name neither version nor label may be split over several versions. Those
            without a caller are not: metadata is of the version that answers when nothing is split.

        Raises
        ------
        ServingError
            With TensorFlow Serving's texts for unknown labels, and for unknown and unavailable versions.
        """
        return self.routed(model, version, label, caller)[0]

    def routed(
        self, model: str, version: int | None, label: str | None, caller: Caller | None
    ) -> tuple[ServedVersion, Arm | None]:
        """Return the version that a request goes to, and the arm of the split that gave it to that version, if one did.

        What becomes of the request counts for the arm: who takes it from here tells it. Raises as `servable`.
        """
        if not model:
            raise InvalidArgumentError("ModelSpec has no name specified.")
        arm = self._arm(model, version, label, caller) if self._split_models else None
        if arm is not None:
            return cast("ServedVersion", arm.servable), arm
        if label is not None:
            version = self._catalog.labels.resolve(model, label)
        return self._resolve(model, version), None

    def signature(
        self, model: str, version: int | None, label: str | None, signature_name: str, caller: Caller | None = None
    ) -> Resolved:
        """Return the target of a request; an empty signature name means ``serving_default``; `caller` as `servable`.

        Raises
        ------
        ServingError
            As `servable`; `SignatureNotFoundError` when the version has no such signature.
        """
        # Each request comes through here: no call that can be done without.
        arm = None
        if self._split_models and version is None and label is None and caller is not None:
            router = self._split_models.get(model)
            if router is not None:
                arm = router.pick(caller)
        if arm is not None:
            resolved = arm.resolved.get(signature_name) or self._of_arm(arm, signature_name)
        else:
            usual = model and label is None
            servable = self._resolve(model, version) if usual else self.servable(model, version, label)
            resolved = servable.resolved.get(signature_name) or self._of(servable, signature_name)
        if self._mirrored_models and version is None and label is None and caller is not None:
            mirror = self._mirrored_models.get(model)
            if mirror is not None:
                return mirror.marked(resolved)
        return resolved

    def _arm(self, model: str, version: int | None, label: str | None, caller: Caller | None) -> Arm | None:
        if version is not None or label is not None or caller is None:
            return None
        router = self._split_models.get(model)
        return None if router is None else router.pick(caller)

    def _of_arm(self, arm: Arm, signature_name: str) -> Resolved:
        try:
            found = self._of(cast("ServedVersion", arm.servable), signature_name)
        except ServingError as error:
            arm.failed(error.code)  # a signature that only the other version has is a failure of this one
            raise
        resolved = arm.resolved[signature_name] = dataclasses.replace(found, arm=arm)
        return resolved

    def _of(self, servable: ServedVersion, signature_name: str) -> Resolved:
        resolved: Resolved | None = servable.resolved.get(signature_name)
        if resolved is None:
            signature = signature_of(servable.signatures, signature_name)
            if self._check_method_names:
                check_method(signature)
            requests = servable.statistics.requests(signature.name)
            resolved = Resolved(servable, signature, tuple(signature.outputs), requests)
            servable.resolved[signature_name] = resolved
        return resolved

    def predict(
        self,
        resolved: Resolved,
        arrays: dict[str, Array],
        output_filter: Sequence[str],
        deadline: float | None,
        on_done: OnDone,
        api: str = "Predict",
        received: float = 0.0,
        asked: Asked | None = None,
    ) -> Callable[[], None]:
        """Run a signature.

        Parameters
        ----------
        resolved : Resolved
        arrays : dict of str to numpy.ndarray
            By input alias; not to be changed afterwards.
        output_filter : sequence of str
            Output aliases to compute; empty for all.
        deadline : float or None
            On the loop's clock.
        on_done : callable
            Called once, later, on the loop (see `serving_server.batching.task.OnDone`); not called after a cancel.
        api : str
            ``Predict``, ``Classify``, ``Regress`` or ``MultiInference``: what its run time counts for.
        received, asked
            As of `Task`.

        Returns
        -------
        callable
            Cancels the request.

        Raises
        ------
        ServingError
            When the request does not fit the signature or cannot be queued.
        """
        try:
            return self._submit(resolved, arrays, output_filter, deadline, on_done, api, received, asked)
        except ServingError as error:
            resolved.refused(error, received, asked)
            raise

    def _submit(
        self,
        resolved: Resolved,
        arrays: dict[str, Array],
        output_filter: Sequence[str],
        deadline: float | None,
        on_done: OnDone,
        api: str,
        received: float,
        asked: Asked | None,
    ) -> Callable[[], None]:
        signature = resolved.signature
        if arrays.keys() != signature.inputs.keys():
            check_inputs(signature, arrays.keys())
        outputs = select_outputs(signature, output_filter) if output_filter else resolved.outputs
        if not outputs or signature.name in INIT_SIGNATURES:
            msg = f'signature "{signature.name}" has no outputs to compute; it is bookkeeping of the SavedModel'
            raise InvalidArgumentError(msg)
        # Feed order is the signature's, so that equal requests share a batch whatever order a client wrote.
        if len(arrays) == 1 == len(signature.inputs):
            inputs = arrays
        else:
            inputs = {
                alias: arrays[alias] if alias in arrays else signature.defaults[alias] for alias in signature.inputs
            }
        check_dtypes(signature, inputs)
        if self._tapped_models:
            servable = resolved.servable

            def make(answer: dict[str, Array]) -> Record:
                return record.predict(servable.model, servable.version, signature, inputs, output_filter, answer)

            on_done = self._request_logs.tapped(servable.model, servable.version, make, on_done)
        if resolved.mirror is not None:
            on_done = resolved.mirror.watched(resolved, inputs, outputs, api, on_done)
        task = Task(signature, inputs, outputs, self._loop.time(), deadline, on_done, api, received, asked)
        if resolved.arm is not None:
            task.outcomes, task.point = resolved.arm.outcomes, resolved.arm.point
        return resolved.servable.submit(task)

    def model_status(self, model: str, version: int | None) -> list[VersionStatus]:
        """Return the state of one version, or of all ever seen, highest first.

        Raises
        ------
        NotFoundError
            With TensorFlow Serving's texts.
        """
        if not model:
            raise InvalidArgumentError("ModelSpec has no name specified.")
        known = model in self._manager.model_names()
        views = self._manager.versions(model) if known else []
        if version is not None:
            views = [view for view in views if view.version == version]
        if not views:
            what = "any versions" if version is None else f"version {version}"
            reason = self._manager.explain(model) if known and self._manager.explain is not None else None
            if not known:
                reason = f"no model of that name; this server has: {', '.join(self._manager.model_names()) or 'none'}"
            hint = f" ({reason})" if reason else ""
            raise NotFoundError(f"Could not find {what} of model {model}{hint}")
        return [_status(view) for view in views]

    def metadata(self, model: str, version: int | None, label: str | None) -> tuple[int, Any]:
        """Return the version that a ModelSpec names and its `SignatureDefMap`."""
        servable = self.servable(model, version, label)
        return servable.version, servable.signature_defs

    async def reload(self, config: Any, deadline: float | None) -> None:
        """Serve other models, as `HandleReloadConfigRequest` asks; see `Catalog.reload` for what it waits for.

        Parameters
        ----------
        config : ModelServerConfig
        deadline : float or None
            On the loop's clock; the answer comes a little earlier, so that it still reaches the client.

        Raises
        ------
        ServingError
            With TensorFlow Serving's texts.
        """
        if config.WhichOneof("config") != "model_config_list":
            msg = (
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
            raise InvalidArgumentError(msg)
        timeout = RELOAD_SECONDS
        if deadline is not None:
            left = max(0.0, deadline - self._loop.time())
            timeout = min(timeout, left - min(_ANSWER_SECONDS, left / 10))
        try:
            await self._catalog.reload(config, timeout)
        except ServingError as error:
            log.error("ReloadConfig failed: %s", error.message)
            raise


def _status(view: VersionView) -> VersionStatus:
    return (view.version, State(view.state).name, view.error_code.name, view.error_message)
