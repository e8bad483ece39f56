"""What makes a Predict request fit a signature: the rules, and the texts when it does not.

Pure functions, used by every transport and by warmup. Texts are TensorFlow Serving's (servables/tensorflow/
predict_util.cc and TensorFlow's saved_model/util.cc) to the letter; what it leaves out, such as what the signature
wants, follows in parentheses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from serving_server.errors import FailedPreconditionError, InternalError, InvalidArgumentError
from serving_server.signatures import (
    CLASSIFY_METHOD,
    DEFAULT_SIGNATURE,
    PREDICT_METHOD,
    REGRESS_METHOD,
    Signature,
    TensorSpec,
)
from serving_server.tensors import Array, by_numpy

__all__ = [
    "SignatureNotFoundError",
    "check_dtypes",
    "check_inputs",
    "check_method",
    "describe",
    "describe_inputs",
    "describe_names",
    "example_signature",
    "offered",
    "select_outputs",
    "shape_hint",
    "signature_of",
]


class SignatureNotFoundError(FailedPreconditionError):
    """No such signature in this version. REST words it differently, so it keeps the name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.offered = offered(known)
        super().__init__(f'Serving signature key "{name}" not found. (this version has: {self.offered})')
        self.signature_name = name


def offered(known: Iterable[str]) -> str:
    """Return the signatures that a client may ask for, as errors list them."""
    return ", ".join(f'"{n}"' for n in known if not n.startswith("__saved_model")) or "none"


def signature_of(signatures: Mapping[str, Signature], name: str) -> Signature:
    """Return a signature by name; an empty name means ``serving_default``.

    Raises
    ------
    SignatureNotFoundError
    """
    name = name or DEFAULT_SIGNATURE
    signature = signatures.get(name)
    if signature is None:
        raise SignatureNotFoundError(name, signatures)
    return signature


def example_signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    """Return a signature for Classify or Regress by name, which they word in their own way; see `signature_of`.

    Raises
    ------
    InvalidArgumentError
    """
    name = name or DEFAULT_SIGNATURE
    signature = signatures.get(name)
    if signature is None:
        msg = f"No signature was found with the name: {name} (this version has: {offered(signatures)})"
        raise InvalidArgumentError(msg)
    return signature


def check_method(signature: Signature) -> None:
    """Check that a signature's method is one that Predict may run (``--enable_signature_method_name_check``).

    Raises
    ------
    InternalError
        Naming the signature and its method.
    """
    if signature.method_name not in {PREDICT_METHOD, CLASSIFY_METHOD, REGRESS_METHOD}:
        msg = (
            "Expected prediction signature method_name to be one of "
            f"{{{PREDICT_METHOD}, {CLASSIFY_METHOD}, {REGRESS_METHOD}}}. Was: {signature.method_name} "
            f'(signature "{signature.name}")'
        )
        raise InternalError(msg)


def describe(spec: TensorSpec) -> str:
    """Return a tensor's type as people write it: ``float [-1, 4]``; ``?`` for what the model leaves open."""
    dtype = spec.dtype.name if spec.dtype is not None else "an unsupported type"
    return f"{dtype} {'of any rank' if spec.shape is None else list(spec.shape)}"


def describe_names(signature: Signature) -> str:
    """Return the aliases of a signature's tensors, to be put after an error."""
    inputs, outputs = (", ".join(aliases) or "none" for aliases in (signature.inputs, signature.outputs))
    return f'(signature "{signature.name}" has inputs: {inputs}; outputs: {outputs})'


def describe_inputs(signature: Signature) -> str:
    """Return what a signature takes, in parentheses, to be put after an error."""
    inputs = ", ".join(f"{alias}: {describe(spec)}" for alias, spec in signature.inputs.items())
    return f'(signature "{signature.name}" takes {inputs or "no inputs"})'


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def check_inputs(signature: Signature, given: AbstractSet[str]) -> None:
    """Check the names of the inputs.

    Raises
    ------
    InvalidArgumentError
        Naming what is extra and what is missing.
    """
    wanted = signature.inputs.keys()
    if given == wanted:
        return
    if len(given) > len(wanted) or (len(given) < len(wanted) and not signature.defaults):
        msg = (
            f"input size does not match signature: {len(given)}!={len(wanted)} len({_set(given)}) != "
            f"len({_set(wanted)}). Sent extra: {_set(given - wanted)}. Missing but required: {_set(wanted - given)}."
        )
        raise InvalidArgumentError(f"{msg} {describe_inputs(signature)}")
    for alias in sorted(wanted - given):
        if alias not in signature.defaults:
            msg = (
                f"Signature input alias: {alias}(feed name: {signature.inputs[alias].tensor_name}) not found in "
                f"request and no default value provided. Inputs expected to be in the request {_set(given)}, or "
                f"default input alias set: {','.join(sorted(signature.defaults))}"
            )
            raise InvalidArgumentError(f"{msg} {describe_inputs(signature)}")
    if given - wanted:
        msg = (
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(given & wanted))}, "
            f"request input: {','.join(sorted(given))}"
        )
        raise InvalidArgumentError(f"{msg} {describe_inputs(signature)}")


def check_dtypes(signature: Signature, arrays: Mapping[str, Array]) -> None:
    """Check element types, in the order in which tensors are fed.

    Raises
    ------
    InvalidArgumentError
        Naming the input, what it wants and what came.
    """
    inputs = signature.inputs
    for alias, array in arrays.items():
        spec = inputs[alias]
        if spec.dtype is None or not spec.tensor_name:
            msg = f'input "{alias}" of signature "{signature.name}" is sparse, composite or of a type not served'
            raise InvalidArgumentError(msg)
        if spec.dtype.numpy is array.dtype or spec.dtype.numpy == array.dtype:
            continue
        index = list(arrays).index(alias)
        msg = f"Expects arg[{index}] to be {spec.dtype.name} but {by_numpy(array.dtype).name} is provided"
        raise InvalidArgumentError(f'{msg} (input "{alias}" of signature "{signature.name}" is {describe(spec)})')


def select_outputs(signature: Signature, output_filter: Sequence[str]) -> tuple[str, ...]:
    """Return the aliases of the outputs to compute: those asked for, or all.

    Raises
    ------
    InvalidArgumentError
        For an unknown or repeated name.
    """
    if not output_filter:
        return tuple(signature.outputs)
    seen = set()
    for alias in output_filter:
        if alias not in signature.outputs:
            msg = (
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_set(signature.outputs)}."
            )
            raise InvalidArgumentError(msg)
        if alias in seen:
            raise InvalidArgumentError(f"duplicate output tensor alias: {alias}")
        seen.add(alias)
    # In the signature's order: filters that differ in order only share batches.
    return tuple(alias for alias in signature.outputs if alias in seen)


def shape_hint(signature: Signature, arrays: Mapping[str, Array]) -> str:
    """Say which inputs have another shape than the signature, to be put after an error of the graph; may be empty.

    The shape is not checked before a run, as TensorFlow Serving does not: many graphs take more than they promise.
    """
    odd = []
    for alias, array in arrays.items():
        wanted = signature.inputs[alias].shape
        if wanted is None:
            continue
        fits = len(wanted) == array.ndim and all(w in {-1, g} for w, g in zip(wanted, array.shape, strict=True))
        if not fits:
            odd.append(f'input "{alias}" has shape {list(array.shape)}, the signature wants {list(wanted)}')
    return f" ({'; '.join(odd)})" if odd else ""
