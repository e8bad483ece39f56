"""The proof of a deploy: the served version must answer as the model in the notebook does.

Every callable signature is asked over gRPC, at the explicit new version, before any client can reach it unversioned.
Floats are compared as `numpy.allclose` does, ``|served - expected| <= atol + rtol * |expected|``; everything else must
be equal. The defaults fit float32 summed in another order; for half precision rtol is at least 4 units in the last
place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_server.signatures import Signature
from serving_workbench import sampling
from serving_workbench.client import PredictClient
from serving_workbench.differences import DEFAULT_TOLERANCE, difference
from serving_workbench.errors import DeployError, PredictError, ProofError
from serving_workbench.export import NotComparableError, Reference
from serving_workbench.inputs import as_inputs, shape_text
from serving_workbench.savedmodel import default_signature_name

__all__ = ["DEFAULT_TOLERANCE", "Proof", "Question", "compare", "prove", "questions"]

Arrays = dict[str, NDArray[Any]]
#: Codes by which a server says that the sample itself is wrong for the model.
_SAMPLE_AT_FAULT = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE"})
#: Lines of TensorFlow's errors that begin so name places in the code.
_PLACES = ("Graph execution error", "Detected at node", 'File "')


@dataclass(frozen=True)
class Proof:
    """What was shown about one signature.

    Attributes
    ----------
    signature : str
    outcome : str
        ``equal`` (to the model in the notebook), ``answers`` (as its signature says; there was no model to compare
        with) or ``not proved``.
    detail : str
        With what sample and tolerance, or why not.
    """

    signature: str
    outcome: str
    detail: str

    def __str__(self) -> str:
        return f"{self.signature}: {self.outcome} ({self.detail})"


@dataclass(frozen=True)
class Question:
    """What one signature will be asked, and what the model in the notebook says to it.

    Attributes
    ----------
    signature : Signature
    inputs : dict of str to numpy.ndarray
    given : bool
        The inputs are the user's sample, not drawn.
    expected : dict of str to numpy.ndarray, or None
        None when there is nothing to compare with.
    refused : str
        Why the model in the notebook does not take the drawn inputs; empty when it does.
    note : str
        What the proof's detail begins with.
    """

    signature: Signature
    inputs: Arrays
    given: bool
    expected: Arrays | None
    refused: str
    note: str


def questions(
    signatures: Mapping[str, Signature], references: Mapping[str, Reference], sample: object, *, compare: bool
) -> list[Question]:
    """Ask the model in the notebook, before anything is published; the default signature comes first.

    Parameters
    ----------
    references : mapping of str to Reference
        The in-notebook model by signature; may lack any.
    sample : object
        Input of the default signature; None draws one, as for all others.
    compare : bool
        False leaves the model in the notebook alone.

    Raises
    ------
    PredictError
        The sample does not fit the signature.
    DeployError
        The model in the notebook fails on the sample.
    """
    default = default_signature_name(dict(signatures))
    asked: list[Question] = []
    faces: list[tuple[Any, ...]] = []
    for key in sorted(signatures, key=lambda k: (k != default, k)):
        # Keras exports the same function under a second name, which then needs no proof of its own.
        face = (references.get(key), _face(signatures[key]))
        if references.get(key) is None or face not in faces:
            faces.append(face)
            reference = references.get(key) if compare else None
            asked.append(_question(signatures[key], reference, sample if key == default else None))
    return asked


def _face(signature: Signature) -> list[tuple[Any, ...]]:
    specs = [*signature.inputs.values(), *signature.outputs.values()]
    return [(spec.alias, spec.dtype, spec.shape) for spec in specs]


def _question(signature: Signature, reference: Reference | None, sample: object) -> Question:
    given = sample is not None
    inputs = as_inputs(sample, signature) if given else sampling.draw(signature)
    note = "the given sample" if given else "a drawn sample"
    expected, refused = None, ""
    if reference is not None:
        try:
            expected = reference(inputs)
        except NotComparableError as error:
            note += f"; not compared: {error}"
        except Exception as error:  # the user's own model may raise anything
            refused = f"{type(error).__name__}: {_told(error)}"
            if given:
                raise DeployError(
                    f"The model in the notebook fails on the given sample: {refused}.",
                    step="prove",
                    hint="Check sample=.",
                ) from error
    return Question(signature, inputs, given, expected, refused, note)


def prove(
    client: PredictClient,
    name: str,
    version: int,
    asked: Sequence[Question],
    tolerance: tuple[float, float],
    timeout: float = 60.0,
) -> list[Proof]:
    """Ask the served version every question.

    Parameters
    ----------
    tolerance : tuple of float
        ``(rtol, atol)``.
    timeout : float
        Seconds for each answer.

    Raises
    ------
    ProofError
        An answer differs; it carries where and how much.
    DeployError
        The version does not answer.
    """
    return [_prove_one(client, name, version, question, tolerance, timeout) for question in asked]


def _prove_one(
    client: PredictClient, name: str, version: int, asked: Question, tolerance: tuple[float, float], timeout: float
) -> Proof:
    signature = asked.signature
    if asked.refused:
        return _unproved(signature, f"the model in the notebook does not take a drawn sample: {asked.refused}")
    try:
        served = client.outputs(name, asked.inputs, version=version, signature=signature.name, timeout=timeout)
    except PredictError as error:
        if asked.expected is None and not asked.given and error.code in _SAMPLE_AT_FAULT:
            return _unproved(signature, f"the model does not take a drawn sample: {error.message[:200]}")
        raise DeployError(
            f"Version {version} of '{name}' is loaded, but does not answer {asked.note} (signature "
            f"'{signature.name}'): {error.message}",
            step="prove",
        ) from error
    _check_against_signature(served, signature, name, version)
    if asked.expected is None:
        return Proof(signature.name, "answers", asked.note)
    compare(served, asked.expected, tolerance, f"version {version} of '{name}', signature '{signature.name}'")
    return Proof(signature.name, "equal", f"{asked.note}, rtol {tolerance[0]:g}, atol {tolerance[1]:g}")


def _unproved(signature: Signature, reason: str) -> Proof:
    return Proof(signature.name, "not proved", f"{reason}. Pass sample=<a valid input> to have it proved")


def _told(error: Exception) -> str:
    """Return what an error says in few words: of TensorFlow's not the places in the code, which come first."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if not line.startswith(_PLACES)]
    return " ".join(" ".join(telling or lines).split())[:200]


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, bytes | str) else str(value)  # NumPy's repr names the dtype too


def _check_against_signature(served: Arrays, signature: Signature, name: str, version: int) -> None:
    for key, spec in signature.outputs.items():
        where = f"Output '{key}' of version {version} of '{name}', signature '{signature.name}',"
        if key not in served:
            raise ProofError(f"{where} is missing in the answer.", output=key)
        array = served[key]
        assert spec.dtype is not None
        if array.dtype != spec.dtype.numpy:
            raise ProofError(f"{where} is {array.dtype}; the signature says {spec.dtype.name}.", output=key)
        fits = spec.shape is None or (
            len(spec.shape) == array.ndim and all(w in (-1, g) for w, g in zip(spec.shape, array.shape, strict=True))
        )
        if not fits:
            raise ProofError(
                f"{where} has shape {list(array.shape)}; the signature says {shape_text(spec)}.", output=key
            )


def compare(served: Arrays, expected: Arrays, tolerance: tuple[float, float], what: str) -> None:
    """Compare two answers, output by output.

    Parameters
    ----------
    what : str
        Completes "... answers differently": which version and signature.

    Raises
    ------
    ProofError
        For the first output, by name, that is out of tolerance.
    """
    if set(served) != set(expected):
        raise ProofError(
            f"The served {what} has the outputs {sorted(served)}; the model in the notebook gives {sorted(expected)}."
        )
    for key in sorted(served):
        _compare_output(key, np.asarray(served[key]), np.asarray(expected[key]), tolerance, what)


def _compare_output(
    key: str, served: NDArray[Any], expected: NDArray[Any], tolerance: tuple[float, float], what: str
) -> None:
    if served.shape != expected.shape:
        raise ProofError(
            f"The served {what} answers differently: output '{key}' has shape {list(served.shape)}, in the notebook "
            f"{list(expected.shape)}.",
            output=key,
        )
    found = difference(served, expected, tolerance)
    if found is None:
        return
    index, max_abs, max_rel = found.index, found.max_abs, found.max_rel
    raise ProofError(
        f"The served {what} answers differently: output '{key}' at {list(index)} is {_shown(served[index])}, in the "
        f"notebook {_shown(expected[index])}; {found} (allowed: {found.allowed}).",
        hint="For a model that is random or keeps state pass tolerance=None; else widen tolerance=(rtol, atol).",
        output=key,
        max_abs=max_abs,
        max_rel=max_rel,
        index=index,
        served=served[index],
        expected=expected[index],
    )
