"""The control plane's settings: one TOML file, read once; anything unknown stops the process."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from controlplane.training.recipe import Recipe
from controlplane.training.search import Search
from protos.contract.access import check_listen, is_loopback
from protos.contract.draws import BASIS_POINTS
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.plan import MAX_HOLDBACK_BP
from protos.contract.servers import RemoteSettings, servers_in
from protos.contract.settings_file import read_table, read_tables

OPEN = "open"
_SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True)
class SpecialistSettings:
    """One specialist to look after, by the pack that describes it: a name, or the path of a folder, with a slash.

    ``suite`` replaces the pack's own, and so does ``trainer``: "encoder" fine-tunes the language model,
    "additive" and "trees" fit the classical control to be served itself. ``dataset`` is the folder of a training set
    (``interlock dataset build``) that every training learns from besides.
    What callers sent can be read for ``keep_inputs_days`` whole days; then its keys are destroyed.
    """

    pack: str
    data: Path | None
    suite: Path | None
    trainer: str | None = None
    dataset: Path | None = None
    keep_inputs_days: int = 30

    @classmethod
    def from_json(cls, value: Any, where: str, root: Path) -> Self:
        """Read one specialist; raises FieldInvalid."""
        read = Reader(value, where)
        data, suite, dataset = read.maybe_text("data"), read.maybe_text("suite"), read.maybe_text("dataset")
        specialist = cls(
            pack=_pack_at(read.text("pack"), root),
            data=None if data is None else root / data,
            suite=None if suite is None else root / suite,
            trainer=read.text("trainer", None, choices=("encoder", "additive", "trees")),
            dataset=None if dataset is None else root / dataset,
            keep_inputs_days=read.integer("keep_inputs_days", 0, 3650, 30),
        )
        read.done()
        return specialist


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """How live traffic is compared with the traffic a primary was approved on.

    Attributes:
        reference: Samples that make up the reference, the first ones after a promotion.
        window: Samples of one live window; windows do not overlap.
        persistence: Windows in a row over their threshold before anything is done; one that is as unlikely as
            so many together counts for them.
        false_alarm_rate: Chance that a window of unchanged traffic stands out in any signal, before persistence.
        cooldown_s: Least time between two retrainings for drift.
        least_labelled: Live samples with a known outcome that a retraining needs.
    """

    reference: int
    window: int
    persistence: int
    false_alarm_rate: float
    cooldown_s: float
    least_labelled: int

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the table; raises FieldInvalid."""
        read = Reader(value, "controlplane.drift")
        drift = cls(
            reference=read.integer("reference", 50, 100_000, 1000),
            window=read.integer("window", 20, 50_000, 250),
            persistence=read.integer("persistence", 1, 100, 2),
            false_alarm_rate=read.number("false_alarm_rate", 0.0005, 0.5, 0.01),
            cooldown_s=read.number("cooldown_s", 0, 31 * 86_400, 3600),
            least_labelled=read.integer("least_labelled", 1, 1_000_000, 300),
        )
        read.done()
        if drift.reference < 2 * drift.window:
            raise FieldInvalid(
                f"controlplane.drift.reference is {drift.reference}, expected at least two windows of {drift.window}"
            )
        return drift


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """What a training job may use.

    Attributes:
        examples: Examples drawn from the pack.
        live_examples: Most labelled live samples added to them.
        held_out: Cases of each evaluation part, never trained on.
        base: ``minilm``, or the directory of a Hugging Face encoder or decoder.
        recipe: How adapters are trained (controlplane/training/recipe.py); epochs and threads are here.
        search: Ranks, rates and epochs to choose from by short trials first, and their budget; none without it.
        max_seconds: Time a training may take over all attempts; ``memory_mb`` the memory, 0 for no limit.
        foreground: Training, evaluation and embedding take a full share of the machine, instead of only the time that
            nobody else wants: for a control plane on a machine that serves no callers.
        stall_s: A child that says nothing for so long is ended, and its job fails.
        executor: Where trainings run: here, or on the Ray cluster at ``ray_address`` (HOST:PORT, "auto", or "local" for
            one of this machine alone).
        every_s: Retrain so long after the last training, 0 for no schedule.
        labels: Retrain once so many outcomes came in since the last training, 0 for no such trigger.
        weekly_budget: Trainings that the loop may start by itself in any seven days.
    """

    examples: int
    live_examples: int
    held_out: int
    epochs: int
    threads: int
    max_seconds: float
    base: str
    recipe: Recipe
    search: Search | None
    memory_mb: int
    foreground: bool
    stall_s: float
    executor: str
    ray_address: str
    every_s: float
    labels: int
    weekly_budget: int

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the table; raises FieldInvalid."""
        read = Reader(value, "controlplane.training")
        recipe, search = read.object("recipe", {}), read.object("search", {})
        if misplaced := sorted({"epochs", "threads", "seed"} & set(recipe)):
            raise FieldInvalid(f"controlplane.training.recipe.{misplaced[0]} is set, expected outside of recipe")
        epochs, threads = read.integer("epochs", 1, 100, 2), read.integer("threads", 1, 256, 2)
        whole = {**recipe, "epochs": epochs, "threads": threads}
        training = cls(
            examples=read.integer("examples", 10, 1_000_000, 1500),
            live_examples=read.integer("live_examples", 0, 1_000_000, 1000),
            held_out=read.integer("held_out", 10, 100_000, 400),
            epochs=epochs,
            threads=threads,
            max_seconds=read.number("max_seconds", 1, 86_400, 1800),
            base=read.text("base", "minilm"),
            recipe=Recipe.from_json(whole, "controlplane.training.recipe"),
            search=Search.from_json(search, "controlplane.training.search") if search else None,
            memory_mb=read.integer("memory_mb", 0, 1 << 24, 0),
            foreground=read.flag("foreground", False),
            stall_s=read.number("stall_s", 1, 86_400, 900),
            executor=read.text("executor", "local", choices=("local", "ray")),
            ray_address=read.text("ray_address", "auto"),
            every_s=read.number("every_s", 0, 366 * 86_400, 0),
            labels=read.integer("labels", 0, 10_000_000, 0),
            weekly_budget=read.integer("weekly_budget", 0, 10_000, 20),
        )
        read.done()
        return training


@dataclass(frozen=True, slots=True)
class RecheckSettings:
    """The suite on a schedule, for the primary in force.

    Attributes:
        every_s: Seconds between two checks, 0 for none.
        matured_s: Age from which a decision's outcome counts as settled.
        least: Fresh settled labels a check needs; ``most`` is how far back it looks.
    """

    every_s: float
    matured_s: float
    least: int
    most: int

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the table; raises FieldInvalid."""
        read = Reader(value, "controlplane.recheck")
        recheck = cls(
            every_s=read.number("every_s", 0, 366 * 86_400, 0),
            matured_s=read.number("matured_s", 0, 366 * 86_400, 3600),
            least=read.integer("least", 20, 1_000_000, 200),
            most=read.integer("most", 20, 1_000_000, 5000),
        )
        read.done()
        return recheck


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How a candidate is let in, and the limits of its gates.

    Attributes:
        stages_bp: Canary weights in basis points, rising.
        shadow_bp: Basis points of the primary's requests copied to a candidate.
        holdback_bp: Basis points of units that every plan keeps from all models, to measure what they are worth.
        alpha: Chance that a rollout within every limit is ever rolled back by its gates, all of them in all stages
            together and however often they are read; and that one beyond a limit ever passes that gate.
        cost_margin: Cost per request, as a share of the largest cost, that a candidate may add.
        failure_margin: Share of requests that a candidate may answer with a fallback, late or not at
            all, beyond the primary's.
        mistake_margin: Share of decisions beyond the primary's that outcomes, once due, may show another
            decision to have been cheaper than.
        disagreement_limit: Share of decisions that may differ from the primary's in shadow.
        drill_beyond_bp: A rollout with a canary stage above it waits in shadow until its way back was rehearsed on
            every gateway (``interlock rollout drill``); 10000 asks for no drill.
    """

    stages_bp: tuple[int, ...]
    shadow_bp: int
    holdback_bp: int
    alpha: float
    cost_margin: float
    failure_margin: float
    mistake_margin: float
    disagreement_limit: float
    drill_beyond_bp: int = BASIS_POINTS

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the table; raises FieldInvalid."""
        read = Reader(value, "controlplane.rollout")
        stages = read.items("stages_bp", [100, 500, 2000, 5000])
        rollout = cls(
            stages_bp=tuple(stages),
            shadow_bp=read.integer("shadow_bp", 1, BASIS_POINTS, 2000),
            holdback_bp=read.integer("holdback_bp", 0, MAX_HOLDBACK_BP, 0),
            alpha=read.number("alpha", 0.0001, 0.2, 0.05),
            cost_margin=read.number("cost_margin", 0.001, 1, 0.02),
            failure_margin=read.number("failure_margin", 0.001, 1, 0.02),
            mistake_margin=read.number("mistake_margin", 0.001, 1, 0.05),
            disagreement_limit=read.number("disagreement_limit", 0.01, 1, 0.5),
            drill_beyond_bp=read.integer("drill_beyond_bp", 0, BASIS_POINTS, BASIS_POINTS),
        )
        read.done()
        numbers = all(isinstance(s, int) and not isinstance(s, bool) and 1 <= s <= BASIS_POINTS // 2 for s in stages)
        if not stages or not numbers or sorted(set(stages)) != stages:
            # Above half, no baseline of the same size is left to compare the canary with.
            raise FieldInvalid(
                f"controlplane.rollout.stages_bp is {stages}, expected rising numbers from 1 to {BASIS_POINTS // 2}"
            )
        return rollout


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """Everything a control plane needs to start. Paths in the file are relative to the file.

    Attributes:
        bundles_url: A store (fsspec URL) that candidates are copied to before a plan names them; empty: none.
        capture_key: Private key that opens capture segments sealed for it; null where they are not sealed.
        capture_seal: File in which the control plane publishes a key for segments, another one each day; in place of
            ``capture_key``.
        capture_vault: File of the keys that captured inputs are sealed under; never part of a backup.
        access: File of who may do what; without it anybody on this machine may do all of it, and nobody elsewhere.
        plan_key: Private key that signs plans and ledger checkpoints; gateways hold its public half.
        keep_samples: Samples, shadow pairs and outcomes kept a specialist; a twentieth more until pruned.
        sketch_window_s: Seconds of traffic that one sketch sums up; sketches are kept for ``keep_sketches_s``.
        tick_s: Seconds between two looks at captures, rollouts and jobs.
        engines: Servers elsewhere, where bundles that belong on them are evaluated: the tables ``[[gateway.engines]]``
            of the same file, which on a machine without a gateway may be all that it says of one.
    """

    deployment: str
    listen: str
    access: Path | None
    metrics_port: int
    metrics_address: str
    tls_certificate: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    database: str
    work_dir: Path
    artifacts_dir: Path
    bundles_dir: Path
    bundles_url: str
    capture_dir: Path
    capture_key: Path | None
    capture_seal: Path | None
    capture_vault: Path
    operators: Path
    plan_key: Path
    tick_s: float
    lease_s: float
    keep_samples: int
    sketch_window_s: float
    keep_sketches_s: float
    specialists: tuple[SpecialistSettings, ...]
    drift: DriftSettings
    training: TrainingSettings
    recheck: RecheckSettings
    rollout: RolloutSettings
    engines: tuple[RemoteSettings, ...] = ()

    @property
    def operators_dir(self) -> Path:
        """Where signed lists of people are kept, by version, for gateways that go by an older one."""
        return self.operators.with_name(self.operators.name + ".d")

    @classmethod
    def from_json(cls, value: Any, root: Path) -> Self:
        """Read and check settings; raises FieldInvalid naming the setting, its value and what was expected."""
        read = Reader(value, "controlplane")
        who = read.maybe_text("access") or ""

        def maybe_path(name: str) -> Path | None:
            found = read.maybe_text(name)
            return root / found if found else None

        settings = cls(
            deployment=read.text("deployment"),
            listen=read.text("listen", "127.0.0.1:8600"),
            access=None if who in ("", OPEN) else root / who,
            metrics_port=read.integer("metrics_port", 0, 65535, 0),
            metrics_address=read.text("metrics_address", "127.0.0.1"),
            tls_certificate=maybe_path("tls_certificate"),
            tls_key=maybe_path("tls_key"),
            tls_client_ca=maybe_path("tls_client_ca"),
            database=resolve_database(read.text("database", "sqlite:///control.db"), root),
            work_dir=root / read.text("work_dir", "work"),
            artifacts_dir=root / read.text("artifacts_dir", "artifacts"),
            bundles_dir=root / read.text("bundles_dir"),
            bundles_url=read.maybe_text("bundles_url") or "",
            capture_dir=root / read.text("capture_dir"),
            capture_key=maybe_path("capture_key"),
            capture_seal=maybe_path("capture_seal"),
            capture_vault=root / read.text("capture_vault", "capture.keys"),
            operators=root / read.text("operators"),
            plan_key=root / read.text("plan_key"),
            tick_s=read.number("tick_s", 0.05, 3600, 0.5),
            lease_s=read.number("lease_s", 1, 3600, 30),
            keep_samples=read.integer("keep_samples", 1000, 10_000_000, 50_000),
            sketch_window_s=read.number("sketch_window_s", 1, 31 * 86_400, 3600),
            keep_sketches_s=read.number("keep_sketches_s", 3600, 3650 * 86_400, 90 * 86_400),
            specialists=tuple(
                SpecialistSettings.from_json(item, f"controlplane.specialists[{i}]", root)
                for i, item in enumerate(read.items("specialists"))
            ),
            drift=DriftSettings.from_json(read.object("drift", {})),
            training=TrainingSettings.from_json(read.object("training", {})),
            recheck=RecheckSettings.from_json(read.object("recheck", {})),
            rollout=RolloutSettings.from_json(read.object("rollout", {})),
        )
        read.done()
        if not settings.listen.startswith("unix:"):
            check_listen(settings.listen, "controlplane.listen")
        if settings.access is None and who != OPEN and not is_loopback(settings.listen):
            raise FieldInvalid(
                f"controlplane.access is not set and controlplane.listen is {settings.listen!r}, expected a file of "
                f"who may do what, or {OPEN!r} for everybody who can reach it"
            )
        settings._check()
        return settings

    def _check(self) -> None:
        """Refuse settings that contradict each other."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise FieldInvalid("controlplane.tls_certificate and tls_key: one is set, expected both or neither")
        if self.tls_client_ca is not None and self.tls_key is None:
            raise FieldInvalid("controlplane.tls_client_ca is set without controlplane.tls_key, expected both")
        if self.capture_seal is not None and self.capture_key is not None:
            raise FieldInvalid(
                "controlplane.capture_seal and controlplane.capture_key are both set, expected one of them"
            )
        if not self.specialists:
            raise FieldInvalid("controlplane.specialists is empty, expected at least one")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the ``[controlplane]`` table of a TOML file, and the servers it declares; raises FieldInvalid."""
        root = path.parent.resolve()
        own = cls.from_json(read_table(path, "controlplane"), root)
        return replace(own, engines=servers_in(read_tables(path), root))


def _pack_at(pack: str, root: Path) -> str:
    """Make a folder's path relative to the settings file; a name without a slash is one of our own."""
    return f"{root / pack}/" if "/" in pack else pack


def resolve_database(url: str, root: Path) -> str:
    """Make a relative SQLite path relative to the settings file; leave every other URL alone."""
    if url.startswith(_SQLITE) and not url.startswith(_SQLITE + "/"):
        return f"{_SQLITE}{root / url.removeprefix(_SQLITE)}"
    return url
