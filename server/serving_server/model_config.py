"""A `ModelServerConfig`, whether from a file or a request: checked as TensorFlow Serving does, and made typed options.

Checks, their order and their texts are those of tensorflow_serving/model_servers/server_core.cc.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from serving_server.errors import InvalidArgumentError, ServingError, UnimplementedError
from serving_server.lifecycle.states import All, Latest, Policy, Specific
from serving_server.options import ModelOptions
from serving_server.place import Place, to_place
from serving_server.request_log.request_logger import check as check_logging
from serving_server.session_options import DeviceOptions

__all__ = ["ModelConfigError", "absolute", "check_name", "models_of"]

#: Of a model's name: it is part of paths and URLs, and of log lines.
_MAX_NAME: Final = 256

#: The one platform of the stock binary.
_PLATFORM: Final = "tensorflow"

#: model_server_config.proto: ModelType.
_MODEL_TYPE_UNSPECIFIED: Final = 0
_MODEL_TYPE_TENSORFLOW: Final = 1


class ModelConfigError(ServingError):
    """What is wrong with one entry of a list of models.

    Parameters
    ----------
    error : ServingError
        Gives code and text.
    index : int
        Which entry, from 0.
    """

    def __init__(self, error: ServingError, index: int) -> None:
        super().__init__(error.message, error.code)
        self.index = index

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (ServingError(self.message, self.code), self.index))


def check_name(name: str) -> None:
    """Check that a model's name can stand in a URL, a path and a log line.

    Raises
    ------
    InvalidArgumentError
        Saying what is allowed.
    """
    bad = next((c for c in name if not c.isprintable() or c in "/:\\"), None)
    if not name or bad is not None or name in {".", ".."} or len(name) > _MAX_NAME:
        what = "is empty" if not name else f"has {bad!r} in it" if bad else "cannot be used"
        msg = f"model name {name[:64]!r} {what}; allowed: 1 to {_MAX_NAME} printable characters without / : and \\"
        raise InvalidArgumentError(msg)


def absolute(name: str, base_path: str | Place) -> Place:
    """Return a model's base path.

    Raises
    ------
    InvalidArgumentError
        When it is relative.
    """
    place = to_place(base_path) if isinstance(base_path, str) else base_path
    if isinstance(place, Path) and not place.is_absolute():
        msg = f"Expected model {name} to have an absolute path or URI; got base_path()={base_path}"
        raise InvalidArgumentError(msg)
    return place


def models_of(config: Any, *, known: Collection[str] = ()) -> tuple[ModelOptions, ...] | None:
    """Return the models of a `ModelServerConfig`, in its order.

    Parameters
    ----------
    config : ModelServerConfig
    known : collection of str
        Models there are already, whose platform must not change.

    Returns
    -------
    tuple of ModelOptions or None
        None for a config that says nothing, which TensorFlow Serving takes no action for.

    Raises
    ------
    UnimplementedError
        For `custom_model_config`.
    ModelConfigError
        For the first entry that is wrong.
    """
    kind = config.WhichOneof("config")
    if kind is None:
        return None
    if kind == "custom_model_config":
        raise UnimplementedError("custom_model_config is not supported; use model_config_list")
    entries = config.model_config_list.config
    seen: set[str] = set()
    for check in (_check_duplicate, _check_place):
        for index, entry in enumerate(entries):
            try:
                check(entry, seen)
            except ServingError as error:
                raise ModelConfigError(error, index) from None
    models = []
    for index, entry in enumerate(entries):
        try:
            models.append(_model(entry, known))
        except ServingError as error:
            raise ModelConfigError(error, index) from None
    return tuple(models)


def _check_duplicate(entry: Any, seen: set[str]) -> None:
    if entry.name in seen:
        raise InvalidArgumentError(f"Illegal to list model {entry.name} multiple times in config list")
    seen.add(entry.name)


def _check_place(entry: Any, _seen: set[str]) -> None:
    absolute(entry.name, entry.base_path)


def _model(entry: Any, known: Collection[str]) -> ModelOptions:
    check_name(entry.name)
    platform = _platform(entry)
    if entry.name in known and platform != _PLATFORM:
        msg = (
            f"Illegal to change a model's platform. For model {entry.name} platform was {_PLATFORM} and new platform "
            f"requested is {platform}"
        )
        raise InvalidArgumentError(msg)
    if platform != _PLATFORM:
        raise InvalidArgumentError(f"Model {entry.name} requests unsupported platform {platform}")
    if entry.HasField("logging_config"):
        check_logging(entry.logging_config)
    return ModelOptions(
        entry.name,
        absolute(entry.name, entry.base_path),
        _policy(entry.model_version_policy),
        _devices(entry),
        labels=tuple(sorted(entry.version_labels.items())),
        logging=entry.logging_config.SerializeToString(deterministic=True)
        if entry.HasField("logging_config")
        else None,
    )


def _platform(entry: Any) -> str:
    platform: str = entry.model_platform
    if entry.model_type != _MODEL_TYPE_UNSPECIFIED:
        if platform:
            msg = (
                "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
            )
            raise InvalidArgumentError(msg)
        if entry.model_type != _MODEL_TYPE_TENSORFLOW:
            msg = f"ModelServerConfig::model_type choice {entry.model_type} not supported."
            raise InvalidArgumentError(msg)
        return _PLATFORM
    if not platform:
        msg = (
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::"
            f"model_platform, model name is {entry.name}"
        )
        raise InvalidArgumentError(msg)
    return platform


def _policy(config: Any) -> Policy:
    choice = config.WhichOneof("policy_choice")
    if choice == "all":
        return All()
    if choice == "specific":
        return Specific(tuple(config.specific.versions))
    return Latest(config.latest.num_versions or 1)


def _devices(config: Any) -> DeviceOptions | None:
    if not config.HasField("serving_workbench"):
        return None
    ours = config.serving_workbench
    try:
        return DeviceOptions(ours.visible_device_list, ours.per_process_gpu_memory_fraction)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"model {config.name}: {error.message}") from None
