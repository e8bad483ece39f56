"""TensorFlow's own client of the profiler: a trace, then what Monitor answers. Arguments: endpoint, folder."""

from __future__ import annotations

import json
import sys

from tensorflow.python.profiler import profiler_client

endpoint, folder = sys.argv[1:]
# As TensorBoard's "capture profile" asks; the public name of the module is tf.profiler.experimental.client.
profiler_client.trace(f"grpc://{endpoint}", folder, 500, num_tracing_attempts=1)
try:
    told = ["OK", profiler_client.monitor(f"grpc://{endpoint}", 100, 2)]
except RuntimeError as error:
    told = ["refused", str(error)]
print(json.dumps(told))
