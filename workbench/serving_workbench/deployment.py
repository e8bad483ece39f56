"""One deploy of a model, from the export to the switch: the steps, and the way back from each.

A hold keeps a version out of unversioned requests. When a step fails, the folder is moved out of the server's sight and
the hold dropped, in this order, so that the version that answered before never stops answering. An interrupt does the
same at each step but the last, which is one request to the server: then it comes after the deploy.

Others may deploy the same model at the same time. Each gets a number of its own, the highest that is proved answers in
the end, and each is told of the others (`ServedModel.messages`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving_workbench import savedmodel
from serving_workbench.deploy_settings import DeploySettings
from serving_workbench.differences import DEFAULT_TOLERANCE
from serving_workbench.errors import ControlError, DeployError, PublishError, WorkbenchError
from serving_workbench.export import export_model
from serving_workbench.files import disk_errors
from serving_workbench.handle import ServedModel
from serving_workbench.interrupts import uninterrupted
from serving_workbench.labelling import lost_labels_text
from serving_workbench.progress import Progress
from serving_workbench.prove import Proof, Question, prove, questions
from serving_workbench.publish import Publication, deployers, versions_on_disk
from serving_workbench.rejected import quarantine
from serving_workbench.server import Server
from serving_workbench.splitting import ended_messages
from serving_workbench.version_changes import chooses
from serving_workbench.waiting import find_version, wait_available, wait_serving
from serving_workbench.warmup_requests import add_warmup, write_warmup

__all__ = ["Deployment", "noting"]

#: Seconds for the server to let go of a version that was rejected.
_WITHDRAW_SECONDS = 10.0
#: Seconds for unversioned requests to move to a version that is loaded and proved: an interrupt waits for that.
_PROMOTE_SECONDS = 10.0


class Deployment:
    """One run of the transaction against one server.

    Parameters
    ----------
    server : Server
    name : str
        Of the model.
    root : Path or None
        Folder of all models; None where the model is served from, else the server's.
    steps : Progress
    timeout : float
        Seconds for the version to answer.
    settings : DeploySettings
    beside : bool
        Whether the version that answers now goes on answering.
    """

    def __init__(
        self,
        server: Server,
        name: str,
        root: Path | None,
        steps: Progress,
        timeout: float,
        settings: DeploySettings,
        *,
        beside: bool = False,
    ) -> None:
        self.server = server
        self.control = server.control
        self.name = name
        self.steps = steps
        self.timeout = timeout
        self._settings = settings
        self._beside = beside
        self._before = self._known_model()
        self._added = False
        self._moved = False
        self._pinned: dict[str, Any] | None = None
        self._base = self._base_path(root)

    def _known_model(self) -> dict[str, Any] | None:
        try:
            return self.control.model(self.name)
        except ControlError as error:
            if error.code == "NOT_FOUND":
                return None
            raise

    def _base_path(self, root: Path | None) -> Path:
        if root is not None:
            return root / self.name
        if self._before is not None:
            where: str = self._before["base_path"]
            if "://" in where:
                raise PublishError(
                    f"Model {self.name!r} lies at {where}, and versions are exported into folders only.",
                    step="export",
                    hint="Export to a folder and copy the version there, or pass root= to move the model to a folder.",
                )
            return Path(where)
        return (self.server.root or Path("models").absolute()) / self.name

    def run(
        self,
        model: object,
        version: int | None,
        signatures: Mapping[str, Any] | None,
        sample: object,
        tolerance: tuple[float, float] | None,
        warmup: object,
        add_notes: Callable[[Path], object],
    ) -> ServedModel:
        self.steps.step("export")
        with Publication(self._base, version, above=self._known_versions(version)) as publication:
            self._reject_abandoned(publication)
            exported = export_model(model, publication.staging, signatures)
            found = savedmodel.validate(publication.staging)
            asked = questions(found, exported.references, sample, compare=tolerance is not None)
            self._add_warmup(publication, asked[0], warmup)
            with disk_errors(publication.staging, "write the notes of the version into"):
                add_notes(publication.staging)
            promoted = False
            try:
                deadline, proofs = self._prove_beside(publication, asked, tolerance or DEFAULT_TOLERANCE)
                self.steps.step("available")
                with uninterrupted():
                    serving = self._promote(publication.version, min(deadline, time.monotonic() + _PROMOTE_SECONDS))
                    promoted = True
            except BaseException as error:
                if not promoted:
                    with uninterrupted():
                        self._withdraw(publication, error)
                raise
            messages = [*self._about_others(publication, serving), *self._about_clients(serving)]
        self.server.client.forget(self.name)
        self.steps.finish()
        return ServedModel(
            self.server,
            self.name,
            version=publication.version,
            proofs=proofs,
            seconds=self.steps.seconds,
            messages=messages,
        )

    def _about_others(self, publication: Publication, serving: int) -> list[str]:
        """Return what there is to tell of others who deploy this model at the same time."""
        version, messages = publication.version, []
        if serving != version and self._beside:
            messages.append(
                f"Version {version} of '{self.name}' is proved and loaded beside version {serving}, which answers."
            )
        elif serving != version:
            messages.append(
                f"Version {serving} of '{self.name}', deployed meanwhile, answers now; version {version} is proved and "
                f"kept: rollback(to={version}) would have it answer."
            )
        others = {each.version: each for each in (*publication.others, *deployers(publication.folder, besides=version))}
        for number, other in others.items():
            if number != serving:
                then = "; it will answer when it is proved" if number > version else ""
                messages.append(f"Version {number} of '{self.name}' is deployed at the same time, by {other}{then}.")
        return messages

    def _about_clients(self, serving: int) -> list[str]:
        """Return what there is to tell of clients whose requests go elsewhere now: by labels, by a split that ended."""
        try:
            labels = self.control.labels(self.name)
            lost = {label: n for label, n in labels.items() if n != serving and not self._stays(n)}
            messages = [lost_labels_text(self.name, lost)] if lost else []
            return messages + ended_messages(self._before, self.control.model(self.name))
        except ControlError as error:  # the version is in service all the same
            return [f"Whether labels or a split of the requests were touched is not known: {error}"]

    def _stays(self, version: int) -> bool:
        """Whether a version is loaded, and goes on to be."""
        model = self.control.model(self.name)
        found = find_version(model, version)
        if found is None or found["state"] in {"UNLOADING", "END"}:
            return False
        return bool(found["held"]) or chooses(model["policy"], version, versions_on_disk(self._base))

    def _reject_abandoned(self, publication: Publication) -> None:
        """Move versions away whose deployers were killed before the proof: the server still holds them, or is new."""
        for number in publication.abandoned:
            path = publication.folder / str(number)
            found = None if self._before is None else find_version(self._before, number)
            unproved = self._before is None or (found is not None and found["held"])
            if unproved and path.is_dir():
                quarantine(path, "its deploy was killed before it was proved", "prove")
                if self._before is not None:
                    self._unload(number)
                    self.control.release(self.name, number)

    def _known_versions(self, wanted: int | None) -> int:
        """Return the highest version the server knows of this model, wherever its files are or were (0: none)."""
        versions = [] if self._before is None else self._before["versions"]
        for found in versions:
            if found["version"] == wanted and found["state"] != "END":
                raise DeployError(
                    f"Version {wanted} of '{self.name}' is {found['state']} already, from '{found['path']}'.",
                    step="publish",
                    hint="Leave version= out to get the next free number.",
                )
        return max((int(found["version"]) for found in versions), default=0)

    def _add_warmup(self, publication: Publication, asked: Question, warmup: object) -> None:
        with disk_errors(publication.staging, "write the warm-up requests into"):
            if warmup is not None and add_warmup(
                publication.staging, warmup, self._previous(), self.name, asked.signature
            ):
                return
            # A drawn sample may be nonsense to the model, and a warm-up request that fails fails the load.
            if asked.given:
                write_warmup(publication.staging, self.name, asked.signature.name, asked.inputs)

    def _previous(self) -> Path | None:
        """Return the folder of the version that answers now; else of the highest on disk."""
        serving = None if self._before is None else self._before["serving_version"]
        if self._before is not None and serving is not None:
            found = find_version(self._before, serving)
            if found is not None:
                return Path(found["path"])
        published = versions_on_disk(self._base)
        return self._base / str(published[-1]) if published else None

    def _prove_beside(
        self, publication: Publication, asked: list[Question], tolerance: tuple[float, float]
    ) -> tuple[float, list[Proof]]:
        """Publish the version, have it loaded beside the one that answers, prove it; return the deadline and proofs."""
        self.steps.step("publish")
        if self._before is None:
            self._added = True
            self.control.put_model(self.name, str(self._base))
        elif Path(self._before["base_path"]) != self._base:
            self._moved = True
            serving = self._before["serving_version"]
            # Pinned, so that of the versions in the new folder none goes into service unproved.
            pin = {} if serving is None else {"policy": {"specific": {"versions": [serving]}}}
            self.control.put_model(self.name, str(self._base), **pin)
        self._settings.change_batching(self.control, self.name)
        self.control.hold(self.name, publication.version)
        publication.commit()
        deadline = time.monotonic() + self.timeout
        self.control.poll(self.name)
        wait_available(self.control, self.name, publication.version, deadline, self.steps.step)
        self.steps.step("prove")
        patience = max(1.0, deadline - time.monotonic())
        return deadline, prove(self.server.client, self.name, publication.version, asked, tolerance, patience)

    def _promote(self, version: int, deadline: float) -> int:
        """Let unversioned requests move to a proved version; a rollback's pin ends with it. Return what answers."""
        # While the version is held, so that the labels' requests move before the version that they leave is unloaded.
        self._settings.point_labels(self.control, self.name, version)
        model = self.control.model(self.name)
        if self._beside and model["serving_version"] is not None:
            return self._stay_beside(model, version)
        pinned = model["policy"].get("specific")
        if pinned is not None:
            # Both wanted while they change places. With `latest` set first, a version between the two would be loaded
            # and served for a moment.
            self._pinned = {"specific": pinned}
            self.control.put_policy(self.name, {"specific": {"versions": [*pinned["versions"], version]}})
        self.control.release(self.name, version)
        serving = wait_serving(self.control, self.name, version, deadline, newer=True)
        if pinned is not None:
            before = {} if self._before is None else self._before["policy"]
            after = {"latest": {"num_versions": 1}} if not before or "specific" in before else before
            self.control.put_policy(self.name, after)
        return serving

    def _stay_beside(self, model: Mapping[str, Any], version: int) -> int:
        """Let what answers go on answering, also after a restart of the server: the newest version is not wanted."""
        if chooses(model["policy"], version, versions_on_disk(self._base)):
            others = [
                found["version"] for found in model["versions"] if found["state"] == "AVAILABLE" and not found["held"]
            ]
            self._pinned = model["policy"]
            self.control.put_policy(self.name, {"specific": {"versions": sorted(others)}})
        serving: int = model["serving_version"]
        return serving

    # --- back to what was before ---

    def _withdraw(self, publication: Publication, error: BaseException) -> None:
        """Undo `_prove_beside` and `_promote`; what cannot be undone is noted on the error, never raised over it.

        A version that failed is kept, out of sight, with the reason; one whose deploy was interrupted is removed.
        """
        version = publication.version
        notes = []
        with noting(error, f"Version {version} could not be moved away"):
            if not isinstance(error, Exception):
                publication.take_back()
            elif publication.final.exists() and not publication.staging.exists():
                kept = quarantine(publication.final, str(error), self.steps.current or "")
                notes.append(f"Its files were moved to '{kept}'.")
        with noting(error, "Batching and labels could not be set back"):
            if self._known_model() is not None:
                self._settings.undo(self.control, self.name)
        with noting(error, f"The server could not be told to forget version {version}"):
            serving = self._forget(version)
            if serving is not None and serving != version:
                notes.append(f"Version {serving} still answers.")
        if isinstance(error, WorkbenchError) and notes:
            error.hint = " ".join([error.hint, *notes] if error.hint else notes)

    def _forget(self, version: int) -> int | None:
        """Have the server drop a version that is no longer on disk; return the version that answers."""
        model = self._known_model()
        if model is None:
            return None
        if self._added and not versions_on_disk(self._base):
            self.control.delete_model(self.name)
            return None
        if self._moved and self._before is not None:
            self.control.put_model(self.name, self._before["base_path"], policy=self._before["policy"])
        elif self._pinned is not None:
            self.control.put_policy(self.name, self._pinned)
        # Unloaded first: dropping the hold of a loaded version would put it into service.
        self._unload(version)
        self.control.release(self.name, version)
        serving: int | None = model["serving_version"]
        return serving

    def _unload(self, version: int) -> None:
        self.control.poll(self.name)
        deadline = time.monotonic() + _WITHDRAW_SECONDS
        while True:
            found = find_version(self.control.model(self.name), version)
            if found is None or found["state"] == "END":
                return
            if time.monotonic() > deadline:
                raise DeployError(f"it is still {found['state']} after {_WITHDRAW_SECONDS:g} s")
            time.sleep(0.02)


@contextmanager
def noting(error: BaseException, what: str) -> Iterator[None]:
    """Note an error of the block on `error`, which is on its way to the caller already, instead of raising it."""
    try:
        yield
    except WorkbenchError as second:
        error.add_note(f"{what}: {second}")
