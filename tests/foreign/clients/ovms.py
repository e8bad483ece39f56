"""ovmsclient, the client of the OpenVINO Model Server, which speaks TensorFlow Serving's protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import ovmsclient
from ovmsclient.tfs_compat.base.errors import ModelNotFoundError
from suite import TIMEOUT, Refused, endpoint, own_pair, run, trusted

# It wants a port behind a name or an IPv4 address, and takes only paths for the certificates.
tls = {"server_cert_path": trusted()} if trusted() else None
if tls is not None and own_pair() is not None:
    tls["client_cert_path"], tls["client_key_path"] = own_pair()
client = ovmsclient.make_grpc_client(endpoint(), tls)


def predict(model: str, x: np.ndarray) -> Any:
    try:
        return client.predict({"x": x}, model, model_version=2, timeout=float(TIMEOUT))
    except ModelNotFoundError as error:
        # It does not show the code but raises this for NOT_FOUND, with words of its own in front.
        raise Refused(5, str(error).removeprefix("Error occurred during handling the request: ")) from error


status = client.get_model_status("half_plus_two", model_version=2)
metadata = client.get_model_metadata("half_plus_two", model_version=2)
run(predict, more={"status": status, "metadata": metadata})
