"""The rows of a comparison with their labels and slices, checked against each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_server.signatures import Signature
from serving_workbench import sampling
from serving_workbench.comparison.logged import logged_inputs
from serving_workbench.comparison.slices import columns_of
from serving_workbench.errors import WorkbenchError
from serving_workbench.inputs import as_inputs, is_dataframe
from serving_workbench.load.payload import is_log

__all__ = ["Given"]

Array = NDArray[Any]


class Given:
    """What was given.

    Attributes
    ----------
    inputs : dict of str to array
        In the signature's dtypes; first axis: rows.
    count : int
        Of rows.
    ids : list
        What the rows are called: the index of a DataFrame, else their numbers.
    labels : numpy.ndarray or None
    slices : dict of str to array
        Columns, one value per row.
    what : str
        In words.
    """

    def __init__(
        self, inputs: dict[str, Array], count: int, ids: list[Any], labels: Any, slices: dict[str, Array], what: str
    ) -> None:
        self.inputs = inputs
        self.count = count
        self.ids = ids
        self.labels = labels
        self.slices = slices
        self.what = what

    @classmethod
    def read(cls, data: Any, labels: Any, slices: Any, signature: Signature, model: str) -> Given:
        """Return what was given, as arrays.

        Raises
        ------
        WorkbenchError
            A column is missing, or numbers of rows differ.
        """
        if is_log(data):
            data = logged_inputs(data, model, signature)
            if isinstance(labels, str) or slices is not None:
                raise WorkbenchError("Request logs have no columns to take labels or slices from.")
        what = "rows"
        taken: list[str] = []
        frame = data if is_dataframe(data) else None
        if isinstance(labels, str):
            taken.append(labels)
            labels = _column(frame, labels, "labels")
        if isinstance(slices, str):
            slices = [slices]
        if isinstance(slices, list | tuple) and all(isinstance(each, str) for each in slices) and slices:
            columns = {name: _column(frame, name, "slices") for name in slices}
            taken += [name for name in slices if name not in signature.inputs]
            slices = columns
        if frame is not None:
            data = frame.drop(columns=[name for name in dict.fromkeys(taken) if name in frame.columns])
        inputs = as_inputs(data, signature)
        batched = sampling.batch_axis(signature)
        counts = {name: len(array) for name, array in inputs.items()} if batched else {"": 1}
        if len(set(counts.values())) > 1:
            text = ", ".join(f"'{name}' {count}" for name, count in counts.items())
            raise WorkbenchError(f"The inputs have different numbers of rows: {text}.")
        count = next(iter(counts.values()))
        if not count:
            raise WorkbenchError("The data have no rows to compare.")
        if labels is not None:
            labels = np.asarray(labels)
            if labels.ndim == 0 or len(labels) != count:
                size = "a single value" if labels.ndim == 0 else f"{len(labels)} values"
                raise WorkbenchError(f"There are {size} of labels for {count} rows of data.")
        ids = list(frame.index) if frame is not None else list(range(count))
        return cls(inputs, count, ids, labels, {} if slices is None else columns_of(slices, count), f"{count:,} {what}")


def _column(frame: Any, name: str, what: str) -> Array:
    if frame is None:
        raise WorkbenchError(
            f"{what}={name!r} names a column, but the data are no DataFrame.", hint=f"Pass the {what} themselves."
        )
    if name not in frame.columns:
        raise WorkbenchError(
            f"The data have no column '{name}' for {what}; they have {', '.join(map(str, frame.columns))}."
        )
    values: Array = frame[name].to_numpy()
    return values
