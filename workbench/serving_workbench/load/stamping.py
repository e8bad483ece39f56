"""The client's times of those requests of a run that had ids, for `ServedModel.requests`."""

from __future__ import annotations

import math

import numpy as np

from serving_workbench.client_stamps import CAPACITY, ClientStamp, keep
from serving_workbench.load.job import request_id
from serving_workbench.load.records import Records

__all__ = ["keep_stamps"]


def keep_stamps(records: Records, every: int, stamp: str) -> None:
    """Remember the last of a run's requests that had ids (`Job.stamped`, `Job.stamp`) and a good answer.

    Requests were encoded before the run, and answers are not read: both took no time.
    """
    if math.isnan(records.began):
        return  # the sender was killed, and has not told when it began
    numbers = np.flatnonzero(records.good & (np.arange(len(records)) % every == 0))[-CAPACITY:]
    for number in numbers.tolist():
        sent = records.began + float(records.sent[number])
        answered = records.began + float(records.answered[number])
        keep(ClientStamp(request_id(stamp, number), sent, sent, answered, answered))
