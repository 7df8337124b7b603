"""Child process that embeds texts: ``python -m controlplane.training.embed``, JSON lines in, JSON lines out.

One request is ``{"texts": [...]}``; its answer ``{"rows": n, "width": d, "float32": "<base64>"}`` or
``{"error": "..."}``. The embedding is the base encoder's mean over real tokens, of length 1. Ends with
its input, so that it cannot outlive the process that asked.
"""

import base64
import json
import sys

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BertModel

from controlplane.training.child import FOREGROUND, give_way
from controlplane.training.lora import base_directory, load_tokenizer, to_batch

MOST_TOKENS = 128
BATCH = 64


class Encoder:
    """The base encoder without a head."""

    def __init__(self) -> None:
        directory = base_directory()
        self._tokenizer = load_tokenizer(directory, MOST_TOKENS)
        self._model = BertModel.from_pretrained(str(directory), add_pooling_layer=False, local_files_only=True)
        self._model.train(False)

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """Return unit vectors, shape [texts, width]."""
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found = np.zeros((len(rows), int(self._model.config.hidden_size)), dtype=np.float32)
        with torch.inference_mode():
            for at in range(0, len(order), BATCH):
                part = order[at : at + BATCH]
                ids, mask = to_batch([rows[i] for i in part])
                states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
                weights = mask.unsqueeze(-1).to(states.dtype)
                pooled = (states * weights).sum(1) / weights.sum(1).clamp(min=1.0)
                found[part] = torch.nn.functional.normalize(pooled).numpy()
        return found


def main() -> None:
    """Answer requests until the input ends."""
    if FOREGROUND not in sys.argv:
        give_way()
    torch.set_num_threads(1)
    encoder = Encoder()
    for line in sys.stdin:
        try:
            found = encoder.embed(list(json.loads(line)["texts"]))
            data = base64.b64encode(np.ascontiguousarray(found).tobytes()).decode()
            answer = {"rows": len(found), "width": found.shape[1], "float32": data}
        except (ValueError, KeyError, TypeError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
