"""What the scheduler does when its own means fail: every request has an answer all the same."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import numpy as np
import pytest

from serving_server.batching import scheduler
from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.queues import MAX_WAITING, Queues
from serving_server.batching.scheduler import Scheduler
from serving_server.batching.task import Task
from serving_server.channel.packets import Answer
from serving_server.errors import ServingError, StatusCode, UnavailableError
from serving_server.signatures import Signature, TensorSpec
from serving_server.statistics import Statistics
from serving_server.tensors import by_numpy

SPEC = TensorSpec("x", "x:0", by_numpy(np.dtype(np.float32)), (-1,))
SIGNATURE = Signature("serving_default", "", {"x": SPEC}, {"y": SPEC}, {})


@pytest.mark.parametrize("error", [TypeError("odd"), MemoryError(), OSError(28, "No space left on device")])
async def test_a_batch_that_cannot_be_put_together_is_answered(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(scheduler, "assemble", refuse)
    answers = await _ask(Scheduler(None, Statistics(), lambda: None), 3)
    odd = isinstance(error, TypeError)
    assert {answer.code for answer in answers} == {StatusCode.INTERNAL if odd else StatusCode.RESOURCE_EXHAUSTED}


async def test_an_answer_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(_answer: Answer, _buffer: object) -> None:
        raise ValueError("announced 5 bytes in a shared buffer of 4")

    monkeypatch.setattr(scheduler, "read_outputs", unreadable)
    queue = Scheduler(None, Statistics(), lambda: None)
    asyncio.get_running_loop().call_later(0.05, lambda: queue._answered(queue.lanes[0], Answer(0, [], None)))
    (error,) = await _ask(queue, 1)
    assert error.code is StatusCode.INTERNAL
    assert "announced 5 bytes" in error.message
    assert queue.pending == 0


async def test_a_retry_waits_for_a_thread_since_the_failed_run_and_not_before() -> None:
    queues = Queues(lambda _task: None, lambda *_: None)
    parameters = BatchingParameters()
    task = Task(SIGNATURE, {"x": np.float32([1])}, ("y",), 0.0, None, lambda *_: None)
    queues.add(task, parameters)
    batch, _ = queues.next(parameters, 0, 100.0)
    assert batch is not None
    failed = time.perf_counter()
    queues.add_alone(task, batch)
    alone, _ = queues.next(parameters, 0, 100.0)
    assert alone is not None
    assert alone.tasks == [task]
    assert failed <= alone.ready <= time.perf_counter()


async def test_a_request_whose_answer_cannot_be_handed_over_harms_no_other() -> None:
    loop = asyncio.get_running_loop()
    told = loop.create_future()

    def fails(_outputs: object, _error: ServingError | None) -> None:
        raise ZeroDivisionError

    queue = Scheduler(None, Statistics(), lambda: None)
    queue.submit(Task(SIGNATURE, {"x": np.float32([1])}, ("y",), loop.time(), None, fails))
    queue.submit(Task(SIGNATURE, {"x": np.float32([1])}, ("y",), loop.time(), None, lambda *_: told.set_result(None)))
    queue.fail(ServingError("gone"))
    assert told.done()
    assert queue.pending == 0
    queue.close()


async def test_every_deadline_is_kept_by_one_timer() -> None:
    """In whatever order they come: each request is answered, none before its deadline."""
    loop = asyncio.get_running_loop()
    queue = Scheduler(None, Statistics(), lambda: None)  # without lanes: everything waits
    early: list[float] = []
    left = set(range(30))
    done = asyncio.Event()

    def submit(number: int, seconds: float) -> None:
        deadline = loop.time() + seconds

        def expired(_outputs: object, error: ServingError | None) -> None:
            assert error is not None
            assert error.code is StatusCode.DEADLINE_EXCEEDED
            if loop.time() < deadline:
                early.append(deadline - loop.time())
            left.discard(number)
            if number == 0:
                submit(29, 0.001)  # from inside the look at all of them
            if not left:
                done.set()

        queue.submit(Task(SIGNATURE, {"x": np.float32([1])}, ("y",), loop.time(), deadline, expired))

    for number in range(29):
        submit(number, (number * 7 % 29) / 200)
    async with asyncio.timeout(10):
        await done.wait()
    assert not early
    queue.close()


@pytest.mark.parametrize(
    ("parameters", "most"),
    [
        (None, MAX_WAITING),
        (BatchingParameters(max_batch_size=1, max_enqueued_batches=3), 3),
        (BatchingParameters(max_batch_size=4, max_enqueued_batches=3), 12),
    ],
)
async def test_cancelled_requests_take_no_place_in_the_queue(parameters: BatchingParameters | None, most: int) -> None:
    loop = asyncio.get_running_loop()
    queue = Scheduler(parameters, Statistics(), lambda: None)  # without lanes: everything waits

    def task(columns: int = 1) -> Task:
        row = np.ones((1, columns), np.float32)
        return Task(SIGNATURE, {"x": row}, ("y",), loop.time(), None, lambda *_: None)

    def fill() -> list[Task]:
        tasks = [task() for _ in range(most)]
        for each in tasks:
            queue.submit(each)
        with pytest.raises(UnavailableError):
            queue.submit(task())
        return tasks

    for order in (1, -1):
        for each in fill()[::order]:
            queue.cancel(each)
        assert queue.pending == 0
    if parameters is not None:
        for columns in range(2000):  # each shape has a queue of its own, of which there may be 1024
            queue.submit(each := task(columns))
            queue.cancel(each)
        large = Task(SIGNATURE, {"x": np.ones(99, np.float32)}, ("y",), loop.time(), None, lambda *_: None)
        queue.parameters = dataclasses.replace(
            parameters, max_batch_size=99, enable_large_batch_splitting=True, max_execution_batch_size=1
        )
        with pytest.raises(UnavailableError):
            queue.submit(large)
    fill_again = task()
    queue.submit(fill_again)
    assert queue.pending == 1
    queue.add_lane()
    queue.cancel(fill_again)
    queue._dispatch()  # there is nothing to run
    assert queue.running == queue.pending == 0
    queue.close()


async def _ask(queue: Scheduler, count: int) -> list[ServingError]:
    loop = asyncio.get_running_loop()
    queue.add_lane()
    futures: list[asyncio.Future[ServingError]] = []
    try:
        for _ in range(count):
            future: asyncio.Future[ServingError] = loop.create_future()
            futures.append(future)

            def done(
                _outputs: object, error: ServingError | None, future: asyncio.Future[ServingError] = future
            ) -> None:
                assert error is not None
                future.set_result(error)

            queue.submit(Task(SIGNATURE, {"x": np.float32([1])}, ("y",), loop.time(), None, done))
        async with asyncio.timeout(10):
            return list(await asyncio.gather(*futures))
    finally:
        queue.close()


async def test_requests_that_come_while_others_are_read_share_their_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_GATHER_SECONDS", 60.0)  # however slow the machine is
    loop = asyncio.get_running_loop()
    queue = Scheduler(BatchingParameters(max_batch_size=4, num_batch_threads=3), Statistics(), lambda: None)
    for _ in range(3):
        queue.add_lane()

    def submit() -> None:
        queue.submit(Task(SIGNATURE, {"x": np.float32([1])}, ("y",), loop.time(), None, lambda *_: None))

    submit()
    await asyncio.sleep(0)
    assert queue.running == 1  # a lone one waits for nobody
    submit()
    submit()
    loop.call_soon(submit)
    await asyncio.sleep(0)
    assert queue.running == 1
    for _ in range(4):
        await asyncio.sleep(0)
    assert sorted(batch.rows for batch in queue._running.values()) == [1, 3]
    for _ in range(4):
        submit()
    await asyncio.sleep(0)
    assert queue.running == 8  # a full one neither
    queue.fail(ServingError("gone"))
    queue.close()


async def test_no_more_batches_run_at_once_than_there_are_batch_threads() -> None:
    """However many lanes there are: more threads before, or a measurement, leave some behind."""
    loop = asyncio.get_running_loop()
    one = BatchingParameters(max_batch_size=1, num_batch_threads=1)
    queue = Scheduler(one, Statistics(), lambda: None, unbatched=2)
    for _ in range(3):
        queue.add_lane()

    async def running() -> int:
        for _ in range(3):
            await asyncio.sleep(0)
        return queue.running

    def answer_one() -> None:
        queue._answered(next(iter(queue._running)), Answer(0, [], (int(StatusCode.INTERNAL), "no matter")))

    for _ in range(8):
        queue.submit(Task(SIGNATURE, {"x": np.float32([1])}, ("y",), loop.time(), None, lambda *_: None))
    assert await running() == 1
    queue.parameters = dataclasses.replace(one, num_batch_threads=3)
    assert await running() == 3
    queue.parameters = one
    answer_one()
    assert await running() == 2, "what runs is not taken back"
    answer_one()
    answer_one()
    assert await running() == 1
    queue.parameters = None
    queue.submit(Task(SIGNATURE, {"x": np.float32([1])}, ("y",), loop.time(), None, lambda *_: None))
    assert await running() == 2
    queue.fail(ServingError("gone"))
    queue.close()
