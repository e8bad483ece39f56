"""Which options reach a model's TensorFlow session, and whose word counts: one decision, made before any worker runs.

From the weakest to the strongest:

1. What this server starts from: GPU memory grows as it is needed (versions share one card, and each is a process of
   its own), soft placement, and ops that run in the thread that calls them.
2. ``--tensorflow_session_config_file``. A ``false`` written there for what is on by the first rule counts.
3. Flags: the thread counts always (as TensorFlow Serving: they replace the file's values even when they are 0),
   ``--per_process_gpu_memory_fraction`` and ``--mixed_precision`` when given.
4. The model's own `DeviceOptions`, from the model config.
5. Environment variables that TensorFlow itself reads in the worker: ``TF_FORCE_GPU_ALLOW_GROWTH`` replaces the choice
   of growth, ``TF_GPU_ALLOCATOR=cuda_malloc_async`` makes memory pools of CUDA's own, for which growth means nothing.
   They are looked at here so that what is reported is what happens.

One word of TensorFlow Serving is not kept: there, a flag ``--per_process_gpu_memory_fraction`` that was not given
overwrites the file's fraction with 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import text_format

from serving_server.errors import InvalidArgumentError
from serving_server.wire.session_config import config_proto

__all__ = [
    "DeviceOptions",
    "SessionDecision",
    "SessionFlags",
    "SessionTemplate",
    "check_fraction",
    "decide",
    "read_template",
    "settings_of",
    "share_processors",
]

#: Of `DeviceOptions.visible_device_list`: no GPU at all.
CPU_ONLY: Final = "cpu"

#: RewriterConfig.Toggle.ON
_ON: Final = 1


@dataclasses.dataclass(frozen=True, slots=True)
class SessionFlags:
    """The flags that speak of sessions, by TensorFlow Serving's names; 0 and "" stand for not given.

    Attributes
    ----------
    intra_op, inter_op : int
        Threads, as ``--tensorflow_{session,intra_op,inter_op}_parallelism`` give them together.
    gpu_memory_fraction : float
        Part of a card's memory that each worker may take; above 1 CUDA's unified memory.
    mixed_precision : str
        ``bfloat16`` or nothing.
    """

    intra_op: int = 0
    inter_op: int = 0
    gpu_memory_fraction: float = 0.0
    mixed_precision: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceOptions:
    """What one model says of devices (an extension of the model config; TensorFlow Serving has nothing like it).

    Attributes
    ----------
    visible_device_list : str
        CUDA's numbers of the cards that it may see, such as ``"0"`` or ``"1,0"``; ``"cpu"`` for none; "" for all.
    gpu_memory_fraction : float
        As in `SessionFlags`; 0 for the server's.
    """

    visible_device_list: str = ""
    gpu_memory_fraction: float = 0.0

    def __post_init__(self) -> None:
        devices = self.visible_device_list
        if devices and devices != CPU_ONLY:
            numbers = [number.strip() for number in devices.split(",")]
            if not all(number.isdigit() for number in numbers) or len(set(map(int, numbers))) != len(numbers):
                msg = f'visible_device_list "{devices}" is neither "cpu" nor a list of card numbers like "0,1"'
                raise InvalidArgumentError(msg)
        check_fraction(self.gpu_memory_fraction, "per_process_gpu_memory_fraction of the model")


@dataclasses.dataclass(frozen=True, slots=True)
class SessionTemplate:
    """A session config file, read.

    Attributes
    ----------
    config : message
        `tensorflow.ConfigProto`.
    refuses_growth, refuses_soft_placement : bool
        It says ``allow_growth: false`` or ``allow_soft_placement: false`` in so many words, which the message alone
        cannot tell from silence.
    keeps_threads : bool
        Its thread counts stand, whatever the flags say.
    """

    config: Any
    refuses_growth: bool = False
    refuses_soft_placement: bool = False
    keeps_threads: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class SessionDecision:
    """What a worker's session gets.

    Attributes
    ----------
    config : bytes
        A serialized `tensorflow.ConfigProto`.
    notes : tuple of str
        What was decided against something that somebody may have expected; for the log.
    """

    config: bytes
    notes: tuple[str, ...] = ()


def check_fraction(fraction: float, what: str) -> None:
    """Refuse what cannot be a part of a card's memory.

    Raises
    ------
    InvalidArgumentError
        Naming `what`.
    """
    if not 0 <= fraction < float("inf"):
        raise InvalidArgumentError(f"{what} is {fraction:g}; it must be 0 (not set) or a positive part of the memory")


def read_template(text: str) -> SessionTemplate:
    """Read the text of a session config file.

    Raises
    ------
    google.protobuf.text_format.ParseError
        Naming line and column.
    """
    message = config_proto()
    config = text_format.Parse(text, message())
    # These have no presence of their own: whoever sets them to true beforehand sees whether the file takes it back.
    probe = message(allow_soft_placement=True)
    probe.gpu_options.allow_growth = True
    text_format.Merge(text, probe)
    return SessionTemplate(config, not probe.gpu_options.allow_growth, not probe.allow_soft_placement)


def decide(
    flags: SessionFlags,
    template: SessionTemplate | None = None,
    devices: DeviceOptions | None = None,
    environment: Mapping[str, str] | None = None,
) -> SessionDecision:
    """Return the session config of one model's workers. A pure function; the order is told at the top of this module.

    Raises
    ------
    InvalidArgumentError
        For a memory fraction that is none.
    """
    check_fraction(flags.gpu_memory_fraction, "--per_process_gpu_memory_fraction")
    config = config_proto()()
    notes = []
    if template is not None:
        config.CopyFrom(template.config)
    if template is None or not template.keeps_threads:
        config.intra_op_parallelism_threads = flags.intra_op
        config.inter_op_parallelism_threads = flags.inter_op
    # -1: ops run in the thread that calls, 21 -> 4 us a call on a small model. 0 would start a pool per process.
    config.inter_op_parallelism_threads = config.inter_op_parallelism_threads or -1
    config.allow_soft_placement = template is None or not template.refuses_soft_placement
    gpu = config.gpu_options
    gpu.allow_growth = template is None or not template.refuses_growth
    if flags.gpu_memory_fraction:
        gpu.per_process_gpu_memory_fraction = flags.gpu_memory_fraction
    if flags.mixed_precision == "bfloat16":
        config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = _ON
    elif flags.mixed_precision:
        notes.append(f"--mixed_precision={flags.mixed_precision} is unknown and has no effect; there is bfloat16")
    if devices is not None:
        if devices.gpu_memory_fraction:
            gpu.per_process_gpu_memory_fraction = devices.gpu_memory_fraction
        if devices.visible_device_list == CPU_ONLY:
            gpu.visible_device_list = ""
            config.device_count["GPU"] = 0
        elif devices.visible_device_list:
            gpu.visible_device_list = devices.visible_device_list
            config.device_count.pop("GPU", None)
    _environment(gpu, environment or {}, notes)
    return SessionDecision(bytes(config.SerializeToString(deterministic=True)), tuple(notes))


def share_processors(session: bytes, batches: int, processors: int) -> bytes:
    """Return a session config whose ops leave processors to a second batch that runs at once.

    Only where it says 0, TensorFlow's own choice: all processors for each op. The threads of two batches then wait for
    each other. MobileNetV2 on 2 processors, 2 batches at once, one thread each: 1.7 times the rows/s under load, and
    0.4 times the latency of one row alone. It is half of the processors and not one, however many batches there may
    be: a large request that comes alone should not wait for one processor while all others idle.

    Parameters
    ----------
    session : bytes
        A serialized `tensorflow.ConfigProto`.
    batches : int
        Batches that may run at once.
    processors : int
    """
    config = config_proto().FromString(session)
    if config.intra_op_parallelism_threads:
        return session
    config.intra_op_parallelism_threads = max(1, processors // min(batches, 2))
    return bytes(config.SerializeToString(deterministic=True))


def settings_of(session: bytes) -> dict[str, Any]:
    """Return what a session config says, by the names of its fields, those inside others with a dot.

    Threads are told whether said or not: 0 for TensorFlow's own choice, all processors.

    Parameters
    ----------
    session : bytes
        A serialized `tensorflow.ConfigProto`.
    """
    config = config_proto().FromString(session)
    threads = {name: getattr(config, name) for name in ("intra_op_parallelism_threads", "inter_op_parallelism_threads")}
    return {**_flat(config, ""), **threads}


def _flat(message: Any, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        name = prefix + field.name
        if hasattr(value, "ListFields"):
            found |= _flat(value, f"{name}.")
        else:  # numbers and texts as they are; maps and lists, of which there are few, as text
            found[name] = value if isinstance(value, int | float | str) else str(value)
    return found


def _environment(gpu: Any, environment: Mapping[str, str], notes: list[str]) -> None:
    forced = environment.get("TF_FORCE_GPU_ALLOW_GROWTH")
    if forced in {"true", "false"}:
        gpu.allow_growth = forced == "true"
        if forced == "false":
            notes.append("TF_FORCE_GPU_ALLOW_GROWTH=false: each worker takes its card's memory at once")
    elif forced is not None:
        notes.append(f"TF_FORCE_GPU_ALLOW_GROWTH={forced} is neither true nor false; TensorFlow ignores it")
    if environment.get("TF_GPU_ALLOCATOR") == "cuda_malloc_async":
        notes.append("TF_GPU_ALLOCATOR=cuda_malloc_async: CUDA's own pools, which grow and shrink by themselves")
