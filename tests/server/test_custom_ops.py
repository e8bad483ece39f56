"""`--custom_op_libraries`: a model with an op that TensorFlow does not have by itself, compiled here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.servers import wait_until

_OP = """
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

REGISTER_OP("WorkbenchPlusOne").Input("x: float").Output("y: float")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) {
      context->set_output(0, context->input(0));
      return absl::OkStatus();
    });

class PlusOne : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& in = context->input(0);
    tensorflow::Tensor* out = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, in.shape(), &out));
    for (int64_t i = 0; i < in.NumElements(); ++i) out->flat<float>()(i) = in.flat<float>()(i) + 1;
  }
};
REGISTER_KERNEL_BUILDER(Name("WorkbenchPlusOne").Device(tensorflow::DEVICE_CPU), PlusOne);
"""

#: Compiles argv[1] to argv[2] and writes a SavedModel that needs it to argv[3].
_EXPORT = """
import subprocess, sys
import tensorflow as tf

source, library, folder = sys.argv[1:]
flags = [*tf.sysconfig.get_compile_flags(), *tf.sysconfig.get_link_flags()]
subprocess.run(["g++", "-w", "-O0", "-fPIC", "-shared", source, "-o", library, *flags], check=True)
plus_one = tf.load_op_library(library).workbench_plus_one

class Module(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def plus_one(self, x):
        return {"y": plus_one(x)}

module = Module()
tf.saved_model.save(module, folder, signatures={"serving_default": module.plus_one})
"""


@pytest.fixture
def custom(tmp_path: Path) -> tuple[Path, Path]:
    """A model's base path, and the library that it needs."""
    source, library, folder = tmp_path / "op.cc", tmp_path / "op.so", tmp_path / "models" / "custom" / "1"
    source.write_text(_OP)
    command = [sys.executable, "-c", _EXPORT, str(source), str(library), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder.parent, library


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile an op with")
def test_a_model_with_a_custom_op_is_served_with_its_library_and_explained_without(
    server: Any, custom: tuple[Path, Path]
) -> None:
    base, library = custom
    running = server(f"--custom_op_libraries={library}")
    running.put_model("custom", base)
    running.wait_available("custom")
    assert running.rest("POST", "/v1/models/custom:predict", {"instances": [1.0, 2.0]}) == (
        200,
        {"predictions": [2.0, 3.0]},
    )
    without = server()
    without.put_model("custom", base)
    wait_until(lambda: without.versions("custom").get(1, {}).get("error_message"), 60, "the load to fail")
    assert "WorkbenchPlusOne" in without.versions("custom")[1]["error_message"]


def test_a_file_that_is_no_library_fails_the_load_by_name(server: Any, models_dir: Path, tmp_path: Path) -> None:
    library = tmp_path / "ops.so"
    library.write_text("not a library")
    running = server(f"--custom_op_libraries={library}")
    running.put_model("m", models_dir / "half_plus_two")
    wait_until(lambda: running.versions("m").get(2, {}).get("error_message"), 60, "the load to fail")
    assert f"custom op library {library} cannot be loaded" in running.versions("m")[2]["error_message"]


def test_a_library_that_is_missing_is_told_at_the_start(tmp_path: Path) -> None:
    flags = ["--model_base_path=/m", "--custom_op_libraries=/no/such.so"]
    done = subprocess.run(
        [sys.executable, "-m", "serving_server", *flags], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 255
    assert "--custom_op_libraries: /no/such.so is not the absolute path of a file" in done.stdout
