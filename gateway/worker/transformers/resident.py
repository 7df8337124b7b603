"""A base model on its device, with the adapters and prefixes that bundles keep on it."""

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gateway.worker.backend import BackendFailed
from gateway.worker.transformers.adapters import Adapter, Bank, Choice, LoraLinear, Switch, equip
from gateway.worker.transformers.attention import NAME, KeyValues, Visibility, joined
from gateway.worker.transformers.fp8 import Fp8Linear, check_device, fits
from gateway.worker.transformers.graphs import Graphs
from gateway.worker.transformers.layout import FIRST_PREFIX, Layout, Part, lay_out, packing_pays
from gateway.worker.transformers.loading import DECODER

LAYOUTS = ("auto", "packed", "padded")
VISIBLE = ("position", "segment", "prefix", "key_position", "key_owner")
POOLS = ("last", "first", "mean")
PrefixKey = tuple[str, tuple[int, ...]]  # adapter, tokens
MAX_JOINED = 16  # combinations of prefixes in one batch
MAX_PACKED = 4096  # attention's mask has this many squared elements
PROBE_TOKENS, PROBE_PREFIX = 12, 5
# Largest difference of a logit between two exact ways to compute it, as a share of the spread of logits.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt for a base: its own tokens, the prefix they continue, and whose adapter reads it."""

    ids: Sequence[int]
    prefix: tuple[int, ...] = ()
    adapter: str = ""


class Resident:
    """One copy of a base's weights and everything that shares it.

    Forward passes take turns by a lock: bundles are loaded on another thread than batches run on.
    """

    def __init__(self, model: Any, kind: str, name: str, *, layout: str = "auto", graphs: bool = True) -> None:
        self.model, self.kind, self.name = model, kind, name
        self.layout = layout
        embeddings = model.get_input_embeddings().weight
        self.device, self.dtype = embeddings.device, embeddings.dtype
        self.config = model.config
        self._body = model.base_model if kind == DECODER else model
        self._switch = Switch()
        equip(model, self._switch, self.dtype)
        self.bank = Bank()
        self._prefixes: dict[PrefixKey, KeyValues] = {}
        self._joined: dict[tuple[PrefixKey, ...], KeyValues] = {}
        self._turn = threading.RLock()
        self._label_rows: dict[tuple[int, ...], tuple[Tensor, Tensor | None]] = {}
        # Graphs replay one shape; on a CPU other shapes cost nothing, so nothing is rounded up there.
        self.graphs = Graphs() if graphs and self.device.type == "cuda" else None
        self.is_bucketed = self.device.type == "cuda"
        self._per_token, self._per_pair = self._costs()

    @property
    def bytes(self) -> int:
        """Memory of the base's own weights."""
        tensors = [*self.model.parameters(), *self.model.buffers()]  # eight-bit weights are buffers
        return sum(t.numel() * t.element_size() for t in tensors)

    @property
    def extra_bytes(self) -> int:
        """Memory of what bundles keep here: adapters and prefixes."""
        return self.bank.bytes + sum(prefix.bytes for prefix in self._prefixes.values())

    def round_weights(self) -> None:
        """Keep the linear weights in fp8 from now on; raises BackendFailed where the device cannot multiply them."""
        check_device(self.device)
        for module in self.model.modules():
            if isinstance(module, LoraLinear) and fits(module.inner):
                module.inner = Fp8Linear(cast(nn.Linear, module.inner))

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        """Keep an adapter; batches under way go on with the bank they began with. Raises BackendFailed."""
        self.bank = self.bank.with_adapter(name, adapter, self.model)
        if self.graphs is not None:
            with self._turn:
                self.graphs.clear()  # they hold the bank that this one replaces

    def remove_adapter(self, name: str) -> None:
        """Free an adapter and the prefixes computed with it."""
        self.bank = self.bank.without(name)
        self._forget(lambda key: key[0] == name)

    def keep_prefix(self, adapter: str, prefix: tuple[int, ...]) -> None:
        """Compute the keys and values of a template's beginning once; rows that begin so need not."""
        if not prefix or (adapter, prefix) in self._prefixes:
            return
        keep: list[tuple[Tensor, Tensor]] = []
        self._states([Row(prefix, (), adapter)], keep=keep)
        self._prefixes[adapter, prefix] = KeyValues(tuple(k for k, _ in keep), tuple(v for _, v in keep))

    def drop_prefix(self, adapter: str, prefix: tuple[int, ...]) -> None:
        """Free a prefix nobody needs any more."""
        self._forget(lambda key: key == (adapter, prefix))

    def states(self, rows: Sequence[Row], pool: str = "last") -> Tensor:
        """Run one forward pass and return one vector a row, shape [rows, hidden].

        A row whose prefix is kept starts behind it; any other row is computed whole.
        """
        return self._states(rows, pool)

    def label_logits(self, states: Tensor, labels: tuple[int, ...]) -> Tensor:
        """Multiply by the head's rows of these tokens only, shape [rows, labels], single precision."""
        if labels not in self._label_rows:
            if len(self._label_rows) >= 64:
                self._label_rows.clear()
            head = self.model.get_output_embeddings()
            at = torch.tensor(labels, device=self.device)
            self._label_rows[labels] = head.weight[at], None if head.bias is None else head.bias[at]
        weight, bias = self._label_rows[labels]
        return self._cap(nn.functional.linear(states, weight, bias).float())

    def full_logits(self, states: Tensor) -> Tensor:
        """Multiply by the whole head, shape [rows, vocabulary], single precision."""
        return self._cap(self.model.get_output_embeddings()(states).float())

    def label_logprobs(self, states: Tensor, labels: tuple[int, ...]) -> Tensor:
        """Return log-probabilities over the whole vocabulary of these tokens, shape [rows, labels]."""
        logits = self.full_logits(states)
        at = torch.tensor(labels, device=self.device)
        return logits[:, at] - torch.logsumexp(logits, -1, keepdim=True)

    def decode(self, row: Row) -> Generator[NDArray[np.float32], int, None]:
        """Yield the next token's logits, shape [vocabulary]; send the token chosen to go on."""
        kept = self._prefixes.get((row.adapter, row.prefix))
        ids = list(row.ids) if kept is not None else [*row.prefix, *row.ids]
        while True:
            keep: list[tuple[Tensor, Tensor]] = []
            with self._turn, torch.inference_mode():
                start = kept.tokens if kept is not None else 0
                part = Part(ids, start, FIRST_PREFIX)
                vectors = self._pass(lay_out([part], packed=True, bucketed=False), [row], kept, "last", keep)
                logits = self.full_logits(vectors)[0].cpu().numpy()
            new = KeyValues(tuple(k for k, _ in keep), tuple(v for _, v in keep))
            kept = new if kept is None else joined([kept, new])
            token = yield logits
            ids = [token]

    def check(self) -> None:
        """Compare a prefix, packing and padding with the library's own forward pass and attention.

        Raises:
            BackendFailed: This architecture is not computed exactly here, or its weights give no numbers.
        """
        random = np.random.default_rng(0)
        rows = [random.integers(0, self.config.vocab_size, PROBE_TOKENS - 3 * i).tolist() for i in range(3)]
        rows = [rows[0], rows[0][:PROBE_PREFIX] + rows[1], rows[0][:PROBE_PREFIX] + rows[2]]
        is_decoder = self.kind == DECODER
        prefix = tuple(rows[0][:PROBE_PREFIX]) if is_decoder else ()
        self.keep_prefix("", prefix)
        found = []
        chosen, self.layout = self.layout, "packed"
        for layout in LAYOUTS[1:]:
            self.layout = layout
            parts = [Row(ids[len(prefix) :], prefix) for ids in rows]
            vectors = self.states(parts, "last" if is_decoder else "first")
            found.append(self.full_logits(vectors) if is_decoder else vectors)
        self.layout = chosen
        self.drop_prefix("", prefix)
        self.model.set_attn_implementation("eager")
        try:
            with self._turn, torch.inference_mode():
                expected = torch.cat([self._library(ids) for ids in rows])
        finally:
            self.model.set_attn_implementation(NAME)
        spread = float(expected.std())
        worst = max(float((one - expected).abs().max()) for one in found)
        if not np.isfinite(spread) or not np.isfinite(worst):
            raise BackendFailed("the base's outputs are not finite")
        if worst > TOLERANCE.get(self.dtype, 0.2) * max(spread, 1e-6):
            raise BackendFailed(
                f"{self.config.model_type} differs by {worst:.4g} from the library's own pass: not supported here"
            )

    def _library(self, ids: Sequence[int]) -> Tensor:
        given = torch.tensor([ids], device=self.device)
        if self.kind == DECODER:
            logits: Tensor = self.model(input_ids=given, use_cache=False).logits[:, -1].float()
            return logits
        states: Tensor = self.model(input_ids=given).last_hidden_state[:, 0].float()
        return states

    def _states(self, rows: Sequence[Row], pool: str = "last", keep: list[Any] | None = None) -> Tensor:
        with self._turn, torch.inference_mode():
            used: dict[PrefixKey, int] = {}
            parts = []
            for row in rows:
                key = row.adapter, row.prefix
                if row.prefix and key in self._prefixes:
                    number = used.setdefault(key, len(used))
                    parts.append(Part(row.ids, len(row.prefix), FIRST_PREFIX + number))
                else:
                    parts.append(Part([*row.prefix, *row.ids]))
            cached = self._joined_prefixes(tuple(used)) if used else None
            lengths = [len(part.ids) for part in parts]
            packed = self._packs(lengths, 0 if cached is None else cached.tokens)
            # What is kept must be of real tokens only.
            layout = lay_out(parts, packed=packed, bucketed=self.is_bucketed and keep is None)
            return self._pass(layout, rows, cached, pool, keep, [len(key[1]) for key in used])[: len(rows)]

    def _joined_prefixes(self, keys: tuple[PrefixKey, ...]) -> KeyValues:
        """Return the prefixes of a batch as one; kept, so that a graph finds it where it was."""
        if len(keys) == 1:
            return self._prefixes[keys[0]]
        if keys not in self._joined:
            if len(self._joined) >= MAX_JOINED:
                self._joined.clear()
            self._joined[keys] = joined([self._prefixes[key] for key in keys])
        return self._joined[keys]

    def _forget(self, is_gone: Callable[[PrefixKey], bool]) -> None:
        with self._turn:
            for key in [key for key in self._prefixes if is_gone(key)]:
                del self._prefixes[key]
            self._joined.clear()
            if self.graphs is not None:
                self.graphs.clear()

    def _packs(self, lengths: Sequence[int], cached: int) -> bool:
        if len(lengths) == 1 or self.layout == "padded":
            return False
        if self.layout == "packed":
            return True
        return sum(lengths) <= MAX_PACKED and packing_pays(lengths, cached, self._per_token, self._per_pair)

    def _pass(
        self,
        layout: Layout,
        rows: Sequence[Row],
        cached: KeyValues | None,
        pool: str,
        keep: list[Any] | None,
        prefix_lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Run the body; return one vector a prompt, shape [prompts, hidden]."""
        if prefix_lengths is None:
            prefix_lengths = [cached.tokens] if cached is not None else []
        owners = np.repeat(FIRST_PREFIX + np.arange(len(prefix_lengths)), prefix_lengths)
        positions = np.concatenate([np.arange(n) for n in prefix_lengths]) if len(owners) else owners
        arrays = {
            "ids": layout.ids,
            "position": layout.position,
            "segment": layout.segment,
            "prefix": layout.prefix,
            "key_position": positions[None].astype(np.int64),
            "key_owner": owners[None].astype(np.int64),
            "first": layout.first,
            "last": layout.last,
        }
        bank, low, high, spans = self._ranks(rows)
        if spans is not None:
            per_token = np.concatenate([spans, [[0, 0]]])[layout.segment]  # padding's -1 is the added last row
            arrays["rank_low"], arrays["rank_high"] = per_token[..., :1], per_token[..., 1:]
        given = {name: torch.from_numpy(array).to(self.device, non_blocking=True) for name, array in arrays.items()}

        def compute(given: dict[str, Tensor]) -> Tensor:
            other = None
            if spans is not None:
                ranks = torch.arange(low, high, device=self.device)
                other = (ranks < given["rank_low"]) | (ranks >= given["rank_high"])
            self._switch.choice = Choice(bank, low, high, other) if high > low else None
            seen = Visibility(
                **{name: given[name] for name in VISIBLE},
                is_causal=self.kind == DECODER,
                cached=cached,
                keep=keep,
            )
            extra = {"use_cache": False} if self.kind == DECODER else {}
            try:
                states = self._body(
                    input_ids=given["ids"], position_ids=given["position"], interlock=seen, **extra
                ).last_hidden_state
            finally:
                self._switch.choice = None
            return _pool(states, given, pool)

        if self.graphs is None or keep is not None:
            return compute(given)
        shape = (layout.ids.shape, len(layout.first), pool, low, high, spans is not None)
        return self.graphs.run((shape, id(bank), id(cached)), (bank, cached), given, compute)

    def _ranks(self, rows: Sequence[Row]) -> tuple[Bank, int, int, NDArray[np.int64] | None]:
        """Return the bank, the ranks a batch needs, and each row's own when rows differ, shape [rows, 2].

        Raises:
            BackendFailed: A row's adapter is not here: the base alone would give another model's answer.
        """
        bank = self.bank
        gone = next((row.adapter for row in rows if row.adapter and row.adapter not in bank.ranges), None)
        if gone is not None:
            raise BackendFailed(f"adapter {gone[:12]} left this base")
        spans = [bank.ranges.get(row.adapter, (0, 0)) for row in rows]
        named = [span for span in spans if span != (0, 0)]
        if not named:
            return bank, 0, 0, None
        low, high = min(a for a, _ in named), max(b for _, b in named)
        differ = len(set(spans)) > 1
        return bank, low, high, np.array(spans, dtype=np.int64) if differ else None

    def _cap(self, logits: Tensor) -> Tensor:
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _costs(self) -> tuple[float, float]:
        """Return operations per token and per pair of tokens in one layer."""
        layers = max(1, int(getattr(self.config, "num_hidden_layers", 1)))
        modules = [m for m in self._body.modules() if isinstance(m, LoraLinear)]
        body = sum(m.inner.in_features * m.inner.out_features for m in modules)
        return 2.0 * body / layers, 4.0 * float(self.config.hidden_size)


def _pool(states: Tensor, given: dict[str, Tensor], pool: str) -> Tensor:
    flat = states.flatten(0, 1)
    if pool != "mean":
        return flat.index_select(0, given[pool])
    own = given["segment"].flatten()[None] == torch.arange(len(given["last"]), device=flat.device)[:, None]
    weights = own.to(flat.dtype) / own.sum(1, keepdim=True)
    return weights @ flat
