"""Asks one gateway with the stock Triton client and prints what it said as JSON. Runs in an environment of its own."""

import json
import sys

import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
text = triton.InferInput("text", [2], "BYTES")
text.set_data_from_numpy(np.array([b"label:unsafe a", b"label:safe b"], dtype=object))
everything = client.infer("brand", [text], request_id="r-1")
classified = client.infer(
    "brand",
    [text],
    outputs=[triton.InferRequestedOutput("probabilities", class_count=1)],
)
json.dump(
    {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("brand"),
        "inputs": [t.name for t in client.get_model_metadata("brand").inputs],
        "label": [v.decode() for v in everything.as_numpy("label")],
        "decision": [v.decode() for v in everything.as_numpy("decision")],
        "probabilities": everything.as_numpy("probabilities").tolist(),
        "classified": [row[0].decode().split(":", 2)[2] for row in classified.as_numpy("probabilities")],
    },
    sys.stdout,
)
