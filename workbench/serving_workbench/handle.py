"""A served model in the user's hands: ask it, look at it, roll it back, stop it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving_server.signatures import Signature
from serving_workbench import version_changes
from serving_workbench.errors import ControlError, DeployError, ModelNotServedError
from serving_workbench.exposures import all_exposures
from serving_workbench.files import shown_path
from serving_workbench.mirroring import mirror_text, pairs_frame
from serving_workbench.prove import Proof
from serving_workbench.publish import versions_on_disk
from serving_workbench.ramping import journal_frame, outcomes_frame, ramp_table, start_ramp
from serving_workbench.records import deploy_lock
from serving_workbench.rejected import RejectedVersion, clear_rejected, rejected_versions
from serving_workbench.server import Server, version_rows, with_traffic
from serving_workbench.settings import change_settings, policy_text, settings_table
from serving_workbench.splitting import traffic_text
from serving_workbench.tables import Table
from serving_workbench.warmup_requests import RecordedWarmup

if TYPE_CHECKING:
    import pandas as pd

    from serving_workbench.profiling.requests import RequestProfile

__all__ = ["ServedModel", "connect"]

_COLUMNS = ("version", "state", "serving", "labels", "step", "requests in flight", "restarts", "note", "error")
_STOP_SECONDS = 30.0


class ServedModel:
    """A model on a running server, as `serve` and `connect` return it.

    Attributes
    ----------
    server : Server
    name : str
        Model name.
    version : int or None
        The version that this handle last put into service (or found there, after `connect`).
    proofs : list of Proof
        What the deploy showed, by signature; empty after `connect`.
    seconds : dict of str to float
        How long each step of the deploy took.
    messages : list of str
        What else there is to tell of the last deploy or rollback: others who deployed the model at the same time, a
        split of requests that ended with it.
    """

    def __init__(
        self,
        server: Server,
        name: str,
        *,
        version: int | None,
        proofs: Sequence[Proof] = (),
        seconds: Mapping[str, float] | None = None,
        messages: Sequence[str] = (),
    ) -> None:
        self.server = server
        self.name = name
        self.version = version
        self.proofs = list(proofs)
        self.seconds = dict(seconds or {})
        self.messages = list(messages)

    # --- where ---

    @property
    def grpc_endpoint(self) -> str:
        """``host:port`` for gRPC clients."""
        return self.server.endpoints["grpc"]

    @property
    def rest_url(self) -> str:
        """Base URL for REST clients; predictions are at ``<rest_url>/v1/models/<name>:predict``."""
        return self.server.endpoints["rest"]

    # --- ask ---

    def predict(
        self,
        x: object,
        version: int | str | None = None,
        signature: str | None = None,
        timeout: float = 10.0,
        *,
        raw_strings: bool = False,
        request_id: str | bool | None = None,
    ) -> Any:
        """Ask the model over gRPC: see `serving_workbench.client.PredictClient.predict`.

        Parameters
        ----------
        x : array_like, dict, DataFrame or Series
        version : int or str, optional
            A number, or a label; by default the serving one.
        signature : str, optional
            By default ``serving_default``, or the only one.
        timeout : float
            Seconds.
        raw_strings : bool
            Keep string outputs as `bytes`.
        request_id : str or bool, optional
            By which `requests` finds it, with its times in this process: 1 to 128 printable ASCII characters without
            spaces; True: a fresh one. It makes a request of one row about 0.15 ms longer, so by default there is none.

        Returns
        -------
        numpy.ndarray, dict or DataFrame

        Raises
        ------
        PredictError
        """
        return self.server.client.predict(
            self.name,
            x,
            version=version,
            signature=signature,
            timeout=timeout,
            raw_strings=raw_strings,
            request_id=request_id,
        )

    def signatures(self, version: int | str | None = None) -> dict[str, Signature]:
        """Ask the server for the callable signatures of a version, by number or label (the serving one by default)."""
        found: dict[str, Signature] = self.server.client.signatures(self.name, version)
        return found

    # --- look ---

    def describe(self) -> dict[str, Any]:
        """Return the model as the control channel describes it.

        Raises
        ------
        ModelNotServedError
            The server does not know it (any more).
        ServerNotRunningError
            The server has ended.
        """
        try:
            return dict(self.server.ask(lambda: self.server.control.model(self.name)))
        except ControlError as error:
            if error.code == "NOT_FOUND":
                raise ModelNotServedError(
                    f"The server '{self.server.name}' does not serve a model '{self.name}'.",
                    hint="Serve it with sw.serve(model, name=...).",
                ) from error
            raise

    @property
    def serving_version(self) -> int | None:
        """The version that answers unversioned requests now; None while none is available."""
        serving: int | None = self.describe()["serving_version"]
        return serving

    @property
    def versions(self) -> list[int]:
        """Published version numbers in the model's folder, lowest first: those that `rollback` can go to."""
        return versions_on_disk(Path(self.describe()["base_path"]))

    def status(self) -> Table:
        """Every version the server knows as a table; ``.data`` is the control channel's whole answer."""
        model = self.describe()
        mirror = model.get("mirror") or {}
        facts = [policy_text(model["policy"]), traffic_text(model.get("traffic"))]
        facts += [mirror_text(mirror) if mirror.get("active") else "", f"from {shown_path(model['base_path'])}"]
        title = f"{self.name}: {', '.join(filter(None, facts))}"
        rows = version_rows(model)
        if any(row["state"] == "REJECTED" for row in rows):
            title += f"; sw.connect({self.name!r}).clear_rejected() deletes what was rejected"
        return Table(rows, with_traffic(_COLUMNS, rows), title, model)

    def rejected(self) -> list[RejectedVersion]:
        """Return the versions that were not put into service, with the reasons; lowest number first.

        They lie hidden in the model's folder, where no server loads them, until `clear_rejected`.
        """
        return rejected_versions(Path(self.describe()["base_path"]))

    def history(self, *, verify: bool = False) -> pd.DataFrame:
        """Return all versions on disk with their notes: see `serving_workbench.history`.

        Raises
        ------
        PublishError
            The model's folder cannot be read.
        """
        from serving_workbench.version_history import folder_history  # pandas: only for those who ask

        model = self.describe()
        return folder_history(Path(model["base_path"]), model, verify=verify)

    def requests(
        self,
        limit: int = 1000,
        *,
        slowest: int | None = None,
        version: int | None = None,
        request_id: str | None = None,
    ) -> RequestProfile:
        """Return the last answered requests, with the stages of each and the batch that it ran in.

        Of requests that this process has sent by ``predict(..., request_id=True)`` or ``loadtest(..., stamped=100)``,
        also the client's times: encoding, transport there and back, decoding.

        Parameters
        ----------
        limit : int
            At most so many of the newest, 1 to 10,000.
        slowest : int, optional
            Instead, so many of those that took longest among all that the server remembers.
        version : int, optional
            Only this one's.
        request_id : str, optional
            Only those that came with this ``x-request-id``, as `predict` sends it.

        Returns
        -------
        RequestProfile
            ``.frame`` is a DataFrame; see `serving_workbench.profiling.requests.RequestProfile`.

        Raises
        ------
        ModelNotServedError
            The server does not know the model.
        ControlError
            An argument makes no sense (``INVALID_ARGUMENT``).
        """
        from serving_workbench.profiling.requests import read_requests  # pandas: only for those who ask

        return read_requests(
            self.server, self.name, limit=limit, slowest=slowest, version=version, request_id=request_id
        )

    def stamping(
        self,
        *,
        enabled: bool | None = None,
        every: int | None = None,
        per_second: int | None = None,
        capacity: int | None = None,
    ) -> dict[str, Any]:
        """Change which requests the server remembers for `requests`, and return what is in force.

        Parameters
        ----------
        enabled : bool, optional
            False switches it off, and forgets what was remembered.
        every : int, optional
            Remember one batch of so many, with all of its requests.
        per_second : int, optional
            Of a load that is faster than this (10,000), remember some batches only: all would take 3 % of the fastest.
            Failed requests, and those with a request id, are remembered in any case.
        capacity : int, optional
            Requests that are remembered, 100 to 100,000; as many failed ones beside them.

        Raises
        ------
        ControlError
            An argument makes no sense (``INVALID_ARGUMENT``).
        """
        given = {"enabled": enabled, "every": every, "per_second": per_second, "capacity": capacity}
        wish = {name: value for name, value in given.items() if value is not None}
        return dict(self.server.ask(lambda: self.server.control.put_profile_requests(self.name, **wish)))

    def logs(self, n: int = 100) -> str:
        """Return the last `n` lines of the server's log."""
        return self.server.logs(n)

    # --- change ---

    def rollback(self, to: int | None = None, timeout: float = 60.0) -> int:
        """Let an older version answer again, until the next `serve`. A split of requests ends with it.

        Parameters
        ----------
        to : int, optional
            By default the version before the one that answers now.
        timeout : float
            Seconds until it answers; meanwhile the present one does.

        Returns
        -------
        int
            The version that answers now.

        Raises
        ------
        DeployError
            There is no such version, or it could not be loaded; the present one still answers.
        """
        self.version = version_changes.rollback(self, to, timeout)
        return self.version

    def load(self, version: int, timeout: float = 60.0) -> int:
        """Load a version beside the one that answers: it is reached by its number and by labels, until `unload`.

        Parameters
        ----------
        version : int
        timeout : float
            Seconds until it is available.

        Returns
        -------
        int
            The version.

        Raises
        ------
        DeployError
            There is no such version, or it cannot be loaded; then it is let go of again.
        """
        return version_changes.load(self, version, timeout)

    def unload(self, version: int, timeout: float = 60.0) -> None:
        """Unload a version that does not answer unversioned requests; its files stay. Idempotent.

        Parameters
        ----------
        version : int
        timeout : float
            Seconds for its running requests to be answered and its process to end.

        Raises
        ------
        DeployError
            It is the one that answers, or still there at the end of the time.
        """
        version_changes.unload(self, version, timeout)

    def label(self, label: str, version: int | None = None) -> dict[str, int]:
        """Let a label such as ``stable`` point at a version, which requests may use in place of its number.

        Parameters
        ----------
        label : str
        version : int, optional
            An available one (see `load`); None takes the label away.

        Returns
        -------
        dict of str to int
            All labels of the model.

        Raises
        ------
        DeployError
            The version is not available.
        """
        return version_changes.label(self, label, version)

    def traffic(
        self, weights: Mapping[int, float] | None = None, *, key: str | None = None, timeout: float = 60.0
    ) -> Table:
        """Split the requests that name no version over several versions, at once and while requests run.

        Versions that are not loaded are loaded first; until all are, and when one cannot be, requests go where they
        went before. The share of a version that becomes unavailable goes to the others. A rollback, a new version
        that goes into service and another version policy end the split.

        Parameters
        ----------
        weights : dict of int to float, optional
            By version, such as ``{1: 90, 2: 10}``; a version without weight stays loaded. None changes nothing and
            shows the split; an empty dict ends it.
        key : str, optional
            Name of a header or of gRPC metadata, such as ``"x-serving-key"``: requests with the same value get the same
            version as long as the weights stand, and when a share grows only as many values move as must. None leaves
            this as it is, at first off; an empty string turns it off.
        timeout : float
            Seconds that versions may take to load.

        Returns
        -------
        Table
            Weights, shares and requests by version; ``.data`` is the control channel's whole answer.

        Raises
        ------
        ModelNotServedError
            The server does not know the model, or a version is not on disk.
        ControlError
            A version cannot be loaded (``FAILED_PRECONDITION``), is not loaded in time
            (``DEADLINE_EXCEEDED``), or the weights make no sense (``INVALID_ARGUMENT``).
        """
        return self.server.traffic(self.name, weights, key=key, timeout=timeout)

    def exposures(self) -> pd.DataFrame:
        """Return the latest requests of a split that have ended, in the order of their ends, as a `pandas.DataFrame`.

        Columns: ``sequence`` (numbers without gaps), ``time`` (when each came, seconds since 1970), ``version``,
        ``point`` (of the unit interval in 2**32 steps, drawn or from the key), ``keyed`` (whether by a key), ``status``
        (``OK`` or the error's code), ``total_ms`` from taking the request to its end, ``run_ms`` in the graph (missing
        where it did not get there) and ``shared`` (whether it ran in a batch with an earlier one, so that both have the
        time of one measurement). The server remembers 10,000 unless told otherwise; they are read page by page.
        """
        import pandas as pd  # only for those who ask

        return pd.DataFrame(self.server.ask(lambda: all_exposures(self.server.control, self.name)))

    def outcomes(self) -> pd.DataFrame:
        """Return what became of the requests that a split gave to each version, period by period.

        A period ends when the shares change. Columns: ``period``, ``since``, ``cause``, ``version``, ``share``,
        ``requests``, ``answered``, ``errors``, ``misses`` (of an objective), and geometric means in milliseconds:
        ``run_ms`` in the graph, ``total_ms`` from taking the request to its answer. Requests of all methods count.
        """
        return outcomes_frame(self.server.ask(lambda: self.server.control.traffic(self.name)))

    def ramp(
        self,
        version: int | None = None,
        *,
        steps: Sequence[float] = (1, 10, 50),
        hold: float = 60.0,
        min_requests: int = 200,
        guardrails: Mapping[str, float | None] | None = None,
        slo_ms: float | None = None,
        key: str | None = None,
        finish: str = "promote",
        timeout: float = 60.0,
        action: str | None = None,
    ) -> Table:
        """Give a version more and more of the requests, and none any more when it is surely worse than allowed.

        The server does it, also when this program has ended. In each step it compares both versions by sequences that
        may be looked at all the time; when a guardrail is breached, or the version is not available, all requests go
        back to the version that answered before. A change of weights by hand, a rollback and a deploy end the ramp.

        Parameters
        ----------
        version : int, optional
            That shall take over from the one that answers now. None: show the ramp, or do `action`.
        steps : sequence of float
            Percent of the requests, rising.
        hold : float
            Seconds of each step, at least.
        min_requests : int
            That the version has to answer in each step, at least.
        guardrails : dict of str to float, optional
            ``errors``: by how much larger the share of failed requests may be (0.01); ``run_time``: by how much longer
            it may run in the graph, relative (1: twice as long; small shares run slower by
            themselves, as caches are cold); ``slo_misses``: by how much larger the share of answers beyond
            `slo_ms` may be. None as a value looks away.
        slo_ms : float, optional
            Objective in milliseconds.
        key : str, optional
            Name of a header whose values stay with their version, as for `traffic`.
        finish : {'promote', 'hold'}
            After the last step the version answers alone, or goes on with its share.
        timeout : float
            Seconds that the version may take to load.
        action : {'pause', 'resume', 'abort'}, optional

        Returns
        -------
        Table
            The ramp with its guardrails; ``.data`` is the control channel's answer.

        Raises
        ------
        ControlError
            Another version answers, requests are split already, or an argument makes no sense.
        """
        control = self.server.control
        if action is not None:
            if action not in ("pause", "resume", "abort"):
                raise ControlError(f"action={action!r} is none of pause, resume, abort.", code="INVALID_ARGUMENT")
            found = self.server.ask(lambda: control.change_ramp(self.name, action))
        elif version is None:
            found = self.server.ask(lambda: control.ramp(self.name))
        else:
            found = self.server.ask(
                lambda: start_ramp(
                    control,
                    self.name,
                    version,
                    steps=steps,
                    hold=hold,
                    min_requests=min_requests,
                    guardrails=guardrails,
                    slo_ms=slo_ms,
                    key=key,
                    finish=finish,
                    timeout=timeout,
                )
            )
        return ramp_table(self.name, found)

    def ramp_journal(self) -> pd.DataFrame:
        """Return what ramps of this model did, event by event, also those before a restart of the server.

        Columns: ``time`` (UTC), ``ramp``, ``event``, ``step``, ``percent``, ``reason``, ``requests`` and ``judgments``
        (the guardrails with their values and ends).
        """
        return journal_frame(self.server.ask(lambda: self.server.control.ramp_journal(self.name)))

    def mirror(
        self,
        version: int | None = None,
        *,
        fraction: float = 1.0,
        busy: float = 0.05,
        stop: bool = False,
        timeout: float = 60.0,
    ) -> Table:
        """Copy live requests to another version, whose answers are only kept beside the given ones for comparison.

        Requests that name neither version nor label are copied (Predict, Classify, Regress) once they are answered.
        Copies wait in a bounded queue and are dropped when that is full. It ends by itself when the version goes away
        or half of its last answers are errors.

        Parameters
        ----------
        version : int, optional
            Which answers too; it is loaded when it is not. None changes nothing and shows the counts.
        fraction : float
            Of the requests.
        busy : float
            Share of the time for which the version may be at work on copies, above 0 and at most 1. The more, the more
            pairs, and the more the other version's requests meet it on the processors.
        stop : bool
            End it; the pairs stay.
        timeout : float
            Seconds that the version may take to load.

        Returns
        -------
        Table
            Counts; ``.data`` is the control channel's whole answer.

        Raises
        ------
        ModelNotServedError
            The server does not know the model, or the version is not on disk.
        ControlError
            The version cannot be loaded or answers the requests itself (``FAILED_PRECONDITION``), is not loaded in time
            (``DEADLINE_EXCEEDED``), or the fraction makes no sense (``INVALID_ARGUMENT``).
        """
        return self.server.mirror(self.name, version, fraction=fraction, busy=busy, stop=stop, timeout=timeout)

    def mirrored(self, after: int = 0) -> pd.DataFrame:
        """Return the pairs of answers of `mirror` that the server remembers, oldest first.

        Parameters
        ----------
        after : int
            Only those with higher numbers.

        Returns
        -------
        DataFrame
            ``number``, ``time`` (seconds since 1970), ``api``, ``signature``, versions ``primary`` and ``shadow``,
            ``primary_ms``, ``shadow_ms`` (from a version's being asked to its answer), ``waited_ms`` (of the copy, for
            its turn), ``inputs``, ``primary_outputs``, ``shadow_outputs`` (dicts of arrays), ``error`` (of the shadow).
        """
        return pairs_frame(self.server.control, self.name, after)

    def config(self, *, policy: Any = None, batching: object = ..., **parameters: Any) -> Table:
        """Show, and change, the version policy and the batching: see `serving_workbench.config`."""
        change_settings(self, policy=policy, batching=batching, parameters=parameters)
        return settings_table(self.describe())

    def record_warmup(
        self, requests: int = 100, seconds: float = 60.0, *, version: int | None = None, replace: bool = False
    ) -> RecordedWarmup:
        """Record live requests as the warm-up of the version that answers them, for its next loads.

        The next deploy takes them along with ``serve(..., warmup="previous")``.

        Parameters
        ----------
        requests : int
            How many answered requests to look at, 1 to 1000. Of those that run the same tensors in the same shapes only
            a few are kept.
        seconds : float
            How long to wait for them, at most 600. An interrupt ends it, and writes nothing.
        version : int, optional
            By default the serving one.
        replace : bool
            Whether a warm-up file that the version has may be replaced.

        Returns
        -------
        RecordedWarmup

        Raises
        ------
        ModelNotServedError
            The server does not know the model, or not this version.
        ControlError
            No request was answered in time (``DEADLINE_EXCEEDED``), there is a file (``ALREADY_EXISTS``), its folder
            cannot be written (``PERMISSION_DENIED``), another recording runs (``FAILED_PRECONDITION``).
        """
        options: dict[str, Any] = {"requests": requests, "replace": replace}
        if version is not None:
            options["version"] = version
        control = self.server.control
        try:
            answer = self.server.ask(lambda: control.record_warmup(self.name, seconds=seconds, **options))
        except ControlError as error:
            if error.code == "NOT_FOUND":
                raise ModelNotServedError(
                    f"The server '{self.server.name}' cannot record '{self.name}': {error.message}."
                ) from error
            if error.code == "ALREADY_EXISTS":
                error.hint = "In Python: replace=True; as a magic: --replace."
            raise
        return RecordedWarmup(**answer)

    def clear_rejected(self, version: int | None = None) -> list[int]:
        """Delete the files of rejected versions, or of one of them; return their numbers.

        Raises
        ------
        PublishError
            There is none of that number, or its files cannot be deleted.
        """
        return clear_rejected(Path(self.describe()["base_path"]), version)

    def close(self) -> None:
        """Close the connection to the server, which runs on. Idempotent; asking again opens another."""
        self.server.close()

    def stop(self) -> None:
        """Stop serving this model; the server ends with its last one. Its files stay. Idempotent."""
        if not self.server.is_running():
            self.server.stop()
            if not self.server.follow() or self.name not in self.server.models():
                return
        try:
            self.server.control.delete_model(self.name)
        except ControlError as error:
            if error.code != "NOT_FOUND":
                raise
        with deploy_lock(self.server.name, wait=0) as lock:
            if lock.take(0) and not self.server.models():  # else somebody is about to deploy into it
                self.server.stop()
                return
        self._wait(lambda: self.name not in self.server.models(), "unloaded")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise DeployError(f"'{self.name}' was not {what} after {_STOP_SECONDS:g} s:\n{self.status()}")
            time.sleep(0.02)

    # --- show ---

    def __repr__(self) -> str:
        return f"<ServedModel '{self.name}' version {self.version} at {self.grpc_endpoint}, {self.rest_url}>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        from serving_workbench.display import bundle  # only for those who look

        return bundle(self)


def connect(name: str | None = None, instance: str | None = None) -> ServedModel | Server:
    """Return a handle to a model that a running server serves, or to the server itself when no name is given.

    Raises
    ------
    ServerNotRunningError
        No server of that instance runs.
    ModelNotServedError
        It does not serve that model.
    """
    server = Server.connect(instance)
    if name is None:
        return server
    models = server.control.status()["models"]
    if name not in models:
        known = ", ".join(f"'{n}'" for n in sorted(models)) or "none"
        raise ModelNotServedError(
            f"The server '{server.name}' does not serve a model '{name}'; its models are {known}.",
            hint="Serve it with sw.serve(model, name=...).",
        )
    return ServedModel(server, name, version=models[name]["serving_version"])
