"""`--platform_config_file`: read, refused, and in force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving_server.errors import ServingError
from serving_server.platform_config import read_platform_config
from serving_server.session_options import SessionFlags, decide
from serving_server.wire.session_config import config_proto

_WRAPPER = """platform_configs {{
  key: "tensorflow"
  value {{ source_adapter_config {{
    [type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] {{ legacy_config {{ {0} }} }}
  }} }}
}}
"""

_NO_MESSAGE = r"""type_url: "type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig"
  value: "\377" """


def _file(folder: Path, text: str) -> str:
    path = folder / "platform.pbtxt"
    path.write_text(text)
    return str(path)


def test_every_part_is_read(tmp_path: Path) -> None:
    text = """batching_parameters { max_batch_size { value: 4 } }
        session_config { intra_op_parallelism_threads: 3 gpu_options { per_process_gpu_memory_fraction: 0.5 } }
        saved_model_tags: "serve" saved_model_tags: "gpu" prefer_tflite_model: true
        enable_model_warmup: true model_warmup_options { num_request_iterations { value: 7 } }"""
    found = read_platform_config(_file(tmp_path, _WRAPPER.format(text)))
    assert found.batching is not None
    assert found.batching.max_batch_size == 4
    assert (found.tags, found.warmup, found.warmup_iterations, found.prefer_tflite) == (("serve", "gpu"), True, 7, True)
    config = config_proto().FromString(decide(SessionFlags(intra_op=9), found.template).config)
    assert config.intra_op_parallelism_threads == 3, "flags do not count beside the file"
    assert config.gpu_options.per_process_gpu_memory_fraction == 0.5


def test_an_empty_config_turns_batching_and_warmup_off(tmp_path: Path) -> None:
    found = read_platform_config(_file(tmp_path, _WRAPPER.format("")))
    assert (found.batching, found.tags, found.warmup, found.prefer_tflite) == (None, (), False, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f'platform_configs {{ key: "tensorflow" value {{ source_adapter_config {{ {_NO_MESSAGE} }} }} }}',
            "its value is no tensorflow.serving.SavedModelBundleSourceAdapterConfig",
        ),
        ("", 'no platform_configs entry with the key "tensorflow"'),
        ('platform_configs { key: "torch" value {} }', "platform torch is not supported"),
        ('platform_configs { key: "tensorflow" value {} }', "source_adapter_config holds nothing"),
        (_WRAPPER.format("enable_saved_model_config: true"), "enable_saved_model_config is not supported"),
        (_WRAPPER.format('session_target: "grpc://x"'), "session_target is not supported"),
        (_WRAPPER.format("batching_parameters { max_batch_size { value: 0 } }"), "max_batch_size must be an integer"),
        (_WRAPPER.format("no_such: 1"), "platform.pbtxt:4:"),
        ("platform", "Error parsing text-format tensorflow.serving.PlatformConfigMap"),
    ],
)
def test_what_cannot_be_honoured_names_file_and_part(tmp_path: Path, text: str, message: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(ServingError) as caught:
        read_platform_config(path)
    assert message in caught.value.message


def test_its_batching_is_in_force_and_the_flag_is_not(server: Any, models_dir: Path, tmp_path: Path) -> None:
    path = _file(tmp_path, _WRAPPER.format("batching_parameters { max_batch_size { value: 4 } }"))
    base = models_dir / "half_plus_two"
    running = server(f"--platform_config_file={path}", "--model_name=m", f"--model_base_path={base}")
    running.wait_available("m")
    status, answer = running.rest("POST", "/v1/models/m:predict", {"instances": [1.0] * 5})
    assert (status, answer["error"].split(" (")[0]) == (400, "Task size 5 is larger than maximum input batch size 4")
