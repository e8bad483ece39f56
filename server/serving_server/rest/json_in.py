"""REST predict requests: from JSON text to arrays of exactly the signature's dtypes.

Two phases, because the name of the signature is inside the body: `parse_predict` reads the text, `ParsedBody.arrays`
turns its values into arrays once the signature is known. Whole lists are checked and converted at C speed; whatever
does not fit goes once more, value by value, through the walk in `json_walk`, which has TensorFlow Serving's checks in
its order and its exact error texts.
"""

from __future__ import annotations

import dataclasses
from operator import itemgetter
from typing import Any, Final, NoReturn

import numpy.typing as npt

from serving_server.errors import InvalidArgumentError
from serving_server.rest.json_text import loads, quote
from serving_server.rest.json_values import MAX_RANK, Misfit, build, is_base64, to_numbers, to_values
from serving_server.rest.json_walk import walk_element, walk_tensor
from serving_server.signatures import Signature, TensorSpec

__all__ = ["Array", "ParsedBody", "PredictInput", "parse_predict"]

Array = npt.NDArray[Any]

_SIGNATURE: Final = "signature_name"
_INSTANCES: Final = "instances"
_INPUTS: Final = "inputs"
#: The characters of numbers and lists, and what is left of a body that is nothing but instances of them.
_NUMERIC: Final = b"0123456789+-.eE[], \n\r\t"
_ONLY_INSTANCES: Final = f'{{"{_INSTANCES}":}}'.encode().translate(None, _NUMERIC)
#: Up to here (bytes) that look costs less than those for single characters.
_FEW_BYTES: Final = 256
_TOP_KEYS: Final = tuple(f'"{key}"'.encode() for key in (_SIGNATURE, _INSTANCES, _INPUTS))


@dataclasses.dataclass(slots=True)
class PredictInput:
    """A predict request in the server's own terms.

    Attributes
    ----------
    signature_name : str
        As sent; empty when the body names none.
    row_format : bool
        True for ``instances``, whose answer is ``predictions``; False for ``inputs`` and ``outputs``.
    arrays : dict of str to ndarray
        One array for each input of the signature; strings are object arrays of bytes.
    """

    signature_name: str
    row_format: bool
    arrays: dict[str, Array]


@dataclasses.dataclass(slots=True)
class ParsedBody:
    """The JSON document of a predict request, whose signature is still to be looked up."""

    signature_name: str
    document: dict[str, Any]
    only_numbers: bool = False  # only instances, and their leaves are known to be int or float

    @property
    def row_format(self) -> bool:
        """Whether the answer must be in row format (``predictions``)."""
        return _INSTANCES in self.document

    def to_input(self, signature: Signature) -> PredictInput:
        """Return the whole request; raises as `arrays` does."""
        return PredictInput(self.signature_name, self.row_format, self.arrays(signature))

    def arrays(self, signature: Signature) -> dict[str, Array]:
        """Return one array for each input of `signature`.

        Row format stacks the instances: the shape is [number of instances] + the shape of an element. Columnar format
        takes each value as it is, scalars included. Shapes are not compared with the signature's.

        Raises
        ------
        InvalidArgumentError
            The document does not fit the signature, with TensorFlow Serving's text.
        UnimplementedError
            A columnar input has a dtype that JSON cannot carry (half, bfloat16, uint16, complex).
        """
        document = self.document
        inputs = signature.inputs
        if self.only_numbers and len(inputs) == 1 and type(instances := document[_INSTANCES]) is list and instances:
            ((alias, spec),) = inputs.items()
            try:
                return {alias: to_numbers(instances, spec)}
            except Misfit:
                return _walk_rows(instances, inputs)
        if not inputs:
            name = self.signature_name or "DEFAULT"
            raise InvalidArgumentError(f"Failed to get input map for signature: {name}")
        if _INSTANCES in document:
            if _INPUTS in document:
                _fail(document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ")
            instances = document[_INSTANCES]
            if not isinstance(instances, list):
                _fail(document, "Expecting 'instances' to be an list/array")
            if not instances:
                _fail(document, "No values in 'instances' array")
            try:
                return _rows(instances, signature.inputs)
            except Misfit:
                return _walk_rows(instances, signature.inputs)
        if _INPUTS in document:
            return _columns(document[_INPUTS], signature.inputs)
        raise InvalidArgumentError("Missing 'inputs' or 'instances' key")


def parse_predict(body: bytes) -> ParsedBody:
    """Read the text of a predict request.

    Raises
    ------
    InvalidArgumentError
        The body is not JSON, not an object, or its ``signature_name`` is not a string.
    """
    if len(body) <= _FEW_BYTES and body.translate(None, _NUMERIC) == _ONLY_INSTANCES:
        document = loads(body)
        if type(document) is dict and _INSTANCES in document:  # "e" may be missing in the key, or too much
            return ParsedBody("", document, True)
    # Looking for single characters is many times faster than counting words. With two quotation marks there is but one
    # key and no string.
    start = body.find(b'"')
    end = body.find(b'"', start + 1)
    behind = end + 1
    find = body.find
    if find(b'"', behind) < 0:
        document = loads(body)
        if type(document) is dict and _INSTANCES in document:
            # One of these is in true, false, null and every object; none is in numbers and lists.
            only_numbers = find(b"t", behind) < 0 and find(b"l", behind) < 0 and find(b"{", behind) < 0
            return ParsedBody("", document, only_numbers)
    else:
        document = loads(body, duplicates=any(body.count(key) > 1 for key in _TOP_KEYS))
    if not isinstance(document, dict):
        _fail(document, "Is not object")
    name = document.get(_SIGNATURE, "")
    if not isinstance(name, str):
        _fail(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return ParsedBody(name, document)


def _fail(document: Any, message: str) -> NoReturn:
    raise InvalidArgumentError(f"JSON Value: {quote(document)} {message}")


def _is_named(element: Any) -> bool:
    """Whether an instance is an object of named inputs; a base64 object is a value."""
    return isinstance(element, dict) and not is_base64(element)


def _rows(instances: list[Any], inputs: dict[str, TensorSpec]) -> dict[str, Array]:
    """Convert all instances at once; raises `Misfit` for everything that is not plainly right."""
    if not _is_named(instances[0]):
        if len(inputs) > 1:
            raise Misfit
        ((alias, spec),) = inputs.items()
        return {alias: to_values(instances, spec)}
    if set(map(type, instances)) != {dict} or set(map(len, instances)) != {len(inputs)}:
        raise Misfit
    try:
        # Equal counts and every alias present: the keys are equal.
        return {alias: to_values(list(map(itemgetter(alias), instances)), spec) for alias, spec in inputs.items()}
    except KeyError:
        raise Misfit from None


def _walk_rows(instances: list[Any], inputs: dict[str, TensorSpec]) -> dict[str, Array]:
    named = _is_named(instances[0])
    if len(inputs) > 1 and not isinstance(instances[0], dict):
        raise InvalidArgumentError(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    first = next(iter(inputs))
    values: dict[str, list[Any]] = {alias: [] for alias in inputs}
    shapes: dict[str, tuple[int, ...]] = {}
    for index, element in enumerate(instances):
        if not named:
            if _is_named(element):
                raise InvalidArgumentError(f"Expecting value/list but got object at item {index} of input list")
            where = f"Failed to process element: {index} of 'instances' list. Error: "
            walk_element(element, first, inputs, values, shapes, where)
            continue
        if not _is_named(element):
            raise InvalidArgumentError(f"Expecting object but got list at item {index} of input list")
        for key, value in element.items():
            where = f"Failed to process element: {index} key: {key} of 'instances' list. Error: "
            walk_element(value, key, inputs, values, shapes, where)
        if element.keys() != inputs.keys():
            raise InvalidArgumentError(
                f"Failed to process element: {index} of 'instances' list. JSON object: {quote(element)} "
                f"keys must be equal to: {','.join(sorted(inputs))}"
            )
    # Several inputs and base64 objects as instances: only the first input was fed, and the model asks for the rest.
    return {alias: build(values[alias], (len(instances), *shape), inputs[alias]) for alias, shape in shapes.items()}


def _columns(value: Any, inputs: dict[str, TensorSpec]) -> dict[str, Array]:
    if _is_named(value):
        arrays = {}
        for alias, spec in inputs.items():
            if alias not in value:
                raise InvalidArgumentError(f"Missing named input: {alias} in 'inputs' object.")
            arrays[alias] = _column(value[alias], spec)
        return arrays
    if len(inputs) > 1:
        raise InvalidArgumentError(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    ((alias, spec),) = inputs.items()
    return {alias: _column(value, spec)}


def _column(value: Any, spec: TensorSpec) -> Array:
    try:
        return to_values(value, spec)
    except Misfit:
        flat, shape = walk_tensor(value, spec)
        if len(shape) > MAX_RANK:
            raise InvalidArgumentError(f"tensor parsing error: {spec.alias}") from None
        return build(flat, shape, spec)
