"""All models of the server: what should be loaded, what is, and which version answers a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from serving_server.errors import DeadlineExceededError, FailedPreconditionError, NotFoundError, UnavailableError
from serving_server.lifecycle.clock import Clock, LoopClock
from serving_server.lifecycle.crashes import CrashPolicy
from serving_server.lifecycle.explain import no_such_model, no_such_servable
from serving_server.lifecycle.model import MAX_ENDED, Model
from serving_server.lifecycle.servable import Loader, Servable
from serving_server.lifecycle.slots import LoadSlots
from serving_server.lifecycle.states import Latest, Policy, State, VersionView
from serving_server.lifecycle.version import Settings, Version
from serving_server.place import Place

__all__ = ["Listener", "Manager"]

logger = logging.getLogger(__name__)

Listener = Callable[[str, int, State, State], None]


class Manager:
    """Loads, switches, restarts and unloads the versions of all models. Everything runs on one event loop.

    Parameters
    ----------
    loader : Loader
        Makes servables.
    max_load_retries : int
        Further tries after a failed first load.
    load_retry_interval : float
        Seconds between tries; negative: no pause.
    crash : CrashPolicy, optional
        When a worker that ended by itself is started again.
    num_load_threads : int
        Number of loads that may run at once, over all models.
    num_unload_threads : int
        The same for ending workers; 0 for no limit.
    resource_preserving : bool
        Unload the versions that are not wanted any more before loading those that are, so that they are never in memory
        together; meanwhile the model does not answer.
    drain_timeout : float
        Seconds that a version being unloaded may take to answer its running requests.
    close_timeout : float
        Seconds that ending a worker, or a cancelled load, may take before it is given up with an error in the log.
    clock : Clock, optional
        The loop's clock, or a test's.

    Attributes
    ----------
    on_failed : callable or None
        ``on_failed(model, version, path, since)`` after each failed try to load, where `since` is the `time.time()`
        at which the try began; `VersionSource.watch_failed` fits.
    explain : callable or None
        ``explain(model)`` says why a model may have no versions; `VersionSource.problem` fits.
    on_rerouted : list of callable
        Each is called as ``on_rerouted(model)`` after each change of what answers, before any request sees it.
    on_policy : callable or None
        ``on_policy(model, before)`` at an operator's word on the policy, whether or not it differs from `before`; what
        answers follows it.
    """

    def __init__(
        self,
        loader: Loader,
        *,
        max_load_retries: int = 5,
        load_retry_interval: float = 60.0,
        crash: CrashPolicy | None = None,
        num_load_threads: int = 4,
        num_unload_threads: int = 0,
        resource_preserving: bool = False,
        drain_timeout: float = 60.0,
        close_timeout: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        self.on_failed: Callable[[str, int, Place, float], None] | None = None
        self.explain: Callable[[str], str | None] | None = None
        self.on_rerouted: list[Callable[[str], None]] = []
        self.on_policy: Callable[[str, Policy], None] | None = None
        self._settings = Settings(
            loader=loader,
            slots=LoadSlots(num_load_threads),
            unload_slots=LoadSlots(num_unload_threads) if num_unload_threads > 0 else None,
            resource_preserving=resource_preserving,
            on_state=self._state_changed,
            on_detail=self._wake_waiters,
            on_failed=self._load_failed,
            max_load_retries=max_load_retries,
            load_retry_interval=load_retry_interval,
            crash=crash or CrashPolicy(),
            drain_timeout=drain_timeout,
            close_timeout=close_timeout,
            clock=clock or LoopClock(),
        )
        self._models: dict[str, Model] = {}
        self._listeners: list[Listener] = []
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._closing: asyncio.Task[None] | None = None

    # -- what should be there --------------------------------------------------------------------------------------

    def add_model(self, model: str, policy: Policy | None = None) -> None:
        """Make a model known, or change the policy of a known one. Its versions come by `aspire`."""
        if self._closing is not None:
            raise FailedPreconditionError(f"The server is shutting down; model {model} was not added")
        entry = self._models.get(model)
        if entry is None:
            self._forget_removed()
            self._models[model] = Model(model, policy or Latest(), self._settings)
        elif entry.removed:
            entry.removed = False
            entry.policy = policy or Latest()
        elif policy is not None and policy != entry.policy:
            self.set_policy(model, policy)
        self._wake_waiters()

    def remove_model(self, model: str) -> None:
        """Forget a model at once and unload its versions in the background. `versions` goes on listing them."""
        entry = self._entry(model)
        entry.removed = True
        entry.found, entry.looked = {}, False
        entry.held.clear()
        entry.extra = frozenset()
        entry.kept.clear()
        self._reconcile(entry)

    def aspire(self, model: str, versions: Mapping[int, Place]) -> None:
        """Tell which versions are on disk: all of them, for the policy is applied here. Idempotent.

        An empty mapping unloads everything. A model that was removed meanwhile is ignored.
        """
        entry = self._models.get(model)
        if entry is None or entry.removed:
            return
        entry.found, entry.looked = dict(versions), True
        if entry.extra:  # of which the policy may choose others now
            self._reroute(entry)
        self._reconcile(entry)

    def set_policy(self, model: str, policy: Policy) -> None:
        """Change which versions are wanted; acts at once. ``Specific([old])`` rolls back."""
        entry = self._entry(model)
        before = entry.policy
        if before != policy:
            logger.info("Model %s: version policy is now %s", model, policy.to_json())
            entry.policy = policy
        if self.on_policy is not None:
            self.on_policy(model, before)
        if entry.extra:
            self._reroute(entry)
        self._reconcile(entry)

    def policy(self, model: str) -> Policy:
        """Return the policy of a model."""
        return self._entry(model).policy

    def wanted(self, model: str) -> frozenset[int]:
        """Return the versions that the policy chooses of those on disk, held ones left out."""
        return self._entry(model).wanted()[0]

    def keep(self, model: str, versions: Collection[int], purpose: str) -> None:
        """Load these in addition to what the policy chooses, as far as they are on disk; in place of those kept before.

        They are reachable by their number. One that the policy does not choose answers unversioned requests only
        when no other version does.

        Parameters
        ----------
        model : str
        versions : collection of int
        purpose : str
            Who wants them: others' wishes stay.
        """
        entry = self._entry(model)
        entry.kept[purpose] = frozenset(versions)
        extra = frozenset().union(*entry.kept.values())
        if entry.extra != extra:
            entry.extra = extra
            self._reroute(entry)
            self._reconcile(entry)

    def kept(self, model: str) -> frozenset[int]:
        """Return all that `keep` was told of."""
        return self._entry(model).extra

    def on_disk(self, model: str) -> frozenset[int]:
        """Return the versions that `aspire` was told of last."""
        return frozenset(self._entry(model).found)

    def answering(self, model: str) -> Mapping[int | None, Servable]:
        """Return what answers each version, None being the unversioned request."""
        entry = self._models.get(model)
        return {} if entry is None else entry.routes

    def chosen_version(self, model: str) -> int | None:
        """Return the version that answers unversioned requests, None when the policy wants none that is AVAILABLE.

        Of a model that is removed, as at the end of the server, nothing is wanted.
        """
        entry = self._models.get(model)
        return None if entry is None or entry.removed else entry.chosen

    def looked(self, model: str) -> bool:
        """Whether the versions on disk are known, by `aspire`."""
        return self._entry(model).looked

    def hold(self, model: str, version: int) -> None:
        """Keep `version` out of unversioned traffic; it is loaded in addition to what the policy chooses.

        It may not exist yet. Idempotent.

        Raises
        ------
        FailedPreconditionError
            It is the only version that answers unversioned requests.
        """
        entry = self._entry(model)
        if version in entry.held:
            return
        others = any(number not in (None, version) and number not in entry.held for number in entry.routes)
        if entry.serving == version and not others:
            raise FailedPreconditionError(
                f"version {version} of model {model} is the only one that serves: holding it would leave unversioned "
                "requests without an answer. Make another version available first, for example by a 'specific' policy"
            )
        entry.held.add(version)
        self._reroute(entry)
        self._reconcile(entry)

    def promote(self, model: str, version: int) -> None:
        """Make a held version ordinary. If it is AVAILABLE and highest it serves when this returns. Idempotent."""
        entry = self._entry(model)
        if version in entry.held:
            entry.held.discard(version)
            self._reroute(entry)
            self._reconcile(entry)

    def held(self, model: str) -> frozenset[int]:
        """Return the held versions, existing or not."""
        return frozenset(self._entry(model).held)

    def retry(self, model: str, version: int) -> bool:
        """Load a failed version again now, if it is still wanted; return whether there was something to do."""
        entry = self._models.get(model)
        if entry is None or version not in entry.versions or not any(version in part for part in entry.wanted()):
            return False
        return entry.versions[version].retry()

    # -- what is there ---------------------------------------------------------------------------------------------

    def resolve(self, model: str, version: int | None = None) -> Servable:
        """Return the servable for a request; `version` None means the highest AVAILABLE one that is not held.

        Raises
        ------
        NotFoundError
            TF Serving's text, followed by what is known in parentheses.
        UnavailableError
            The version is being restarted after a crash, or the server is shutting down.
        """
        entry = self._models.get(model)
        if entry is not None:
            servable = entry.routes.get(version)
            if servable is not None:
                return servable
            if not entry.removed:
                problem = self.explain(model) if self.explain is not None else None
                raise no_such_servable(model, version, entry.versions, entry.held, problem)
        if self._closing is not None:
            raise UnavailableError(f"The server is shutting down; model {model} is not served any more")
        raise no_such_model(model, version, self.model_names())

    def serving_version(self, model: str) -> int | None:
        """Return the version that an unversioned request gets, None when there is none."""
        entry = self._models.get(model)
        return None if entry is None else entry.serving

    def model_names(self) -> list[str]:
        """Return the models that were added and not removed, sorted."""
        return sorted(name for name, entry in self._models.items() if not entry.removed)

    def has(self, model: str) -> bool:
        """Whether the model was added and not removed."""
        entry = self._models.get(model)
        return entry is not None and not entry.removed

    def versions(self, model: str) -> list[VersionView]:
        """Return every version the server has known since its start, highest first; also of a removed model."""
        entry = self._models.get(model)
        if entry is None:
            raise self._unknown(model)
        return [entry.versions[n].view(held=n in entry.held) for n in sorted(entry.versions, reverse=True)]

    def version(self, model: str, version: int) -> VersionView | None:
        """Return one version, None when it was never seen."""
        entry = self._models.get(model)
        if entry is None or version not in entry.versions:
            return None
        return entry.versions[version].view(held=version in entry.held)

    @property
    def is_loading_anything(self) -> bool:
        """True while some version is on its way to AVAILABLE, waiting between retries included."""
        loading = (State.START, State.LOADING)
        return any(version.state in loading for entry in self._models.values() for version in entry.versions.values())

    @property
    def load_retry_interval(self) -> float:
        """Seconds between a failed load and the next try."""
        return max(0.0, self._settings.load_retry_interval)

    def wake(self) -> None:
        """Have the predicates of `wait_for` asked again, for those that look at more than versions."""
        self._wake_waiters()

    def subscribe(self, callback: Listener) -> Callable[[], None]:
        """Call ``callback(model, version, old_state, new_state)`` after each change; return what ends that."""
        self._listeners.append(callback)

        def unsubscribe() -> None:
            if callback in self._listeners:
                self._listeners.remove(callback)

        return unsubscribe

    async def wait_for(
        self,
        predicate: Callable[[], bool],
        timeout: float | None = None,  # noqa: ASYNC109 - the error tells what was last seen
    ) -> None:
        """Return once `predicate` holds; it is asked after each change of a state, a step or an error text.

        Raises
        ------
        DeadlineExceededError
            After `timeout` seconds, with the states last seen.
        """
        if predicate():
            return
        waiter = (predicate, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter[1]
        except TimeoutError:
            raise DeadlineExceededError(f"Not reached within {timeout:g} s; last seen: {self._summary()}") from None
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    async def close(self, drain_timeout: float | None = None) -> None:
        """Unload everything, with at most `drain_timeout` seconds for running requests. Idempotent."""
        if self._closing is None:
            limit = self._settings.drain_timeout if drain_timeout is None else drain_timeout
            self._settings.drain_timeout = limit
            self._closing = asyncio.create_task(self._close(limit), name="close lifecycle")
        await asyncio.shield(self._closing)

    # -- inside ----------------------------------------------------------------------------------------------------

    async def _close(self, limit: float) -> None:
        for name in self.model_names():
            self.remove_model(name)
        versions = [version for entry in self._models.values() for version in entry.versions.values()]
        running = [task for version in versions for task in version.tasks()]
        if running:
            _, late = await asyncio.wait(running, timeout=limit)
            if late:
                # Drains that began before, with a longer limit.
                for version in versions:
                    version.cut_drain()
                _, late = await asyncio.wait(late, timeout=2 * self._settings.close_timeout)
            for task in late:
                logger.error("Gave up waiting for: %s", task.get_name())
                task.cancel()

    def _forget_removed(self) -> None:
        """Drop what was longest removed, of very many models."""
        removed = [name for name, entry in self._models.items() if entry.removed]
        if len(removed) > MAX_ENDED:
            for name in removed:
                if not any(version.tasks() for version in self._models[name].versions.values()):
                    del self._models[name]
                    return

    def _state_changed(self, version: Version, old: State, new: State) -> None:
        entry = self._models[version.model]
        self._reroute(entry)
        for listener in list(self._listeners):
            try:
                listener(version.model, version.number, old, new)
            except Exception:  # a listener's bug must not stop a switch half way
                logger.exception("A lifecycle listener failed on %s: %s -> %s", version, old.name, new.name)
        self._reconcile(entry)

    def _reroute(self, entry: Model) -> None:
        entry.reroute()
        for told in self.on_rerouted:
            told(entry.name)

    def _reconcile(self, entry: Model) -> None:
        entry.reconcile()
        self._wake_waiters()

    def _load_failed(self, version: Version, since: float) -> None:
        if self.on_failed is not None:
            self.on_failed(version.model, version.number, version.path, since)

    def _wake_waiters(self) -> None:
        for predicate, future in list(self._waiters):
            if not future.done():
                try:
                    if predicate():
                        future.set_result(None)
                except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
                    future.set_exception(error)

    def _entry(self, model: str) -> Model:
        entry = self._models.get(model)
        if entry is None or entry.removed:
            raise self._unknown(model)
        return entry

    def _unknown(self, model: str) -> NotFoundError:
        names = self.model_names()
        has = f"it has: {', '.join(names)}" if names else "it has none"
        return NotFoundError(f"This server has no model {model}; {has}")

    def _summary(self) -> str:
        parts = []
        for name in self.model_names():
            states = [f"{view.version} {view.state.name} {view.error_message}".rstrip() for view in self.versions(name)]
            parts.append(f"{name}: {', '.join(states) or 'no versions'}")
        return "; ".join(parts) or "no models"
