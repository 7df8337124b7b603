"""The control plane's tables. Any change of a column here raises ``SCHEMA_VERSION``.

Times are Unix milliseconds; digests are ``sha256:`` and 64 hex digits.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from controlplane.store.sealed import SealedJson, SealedText, SealedTexts

SCHEMA_VERSION = 3

metadata = MetaData()
_DIGEST = String(71)
_NAME = String(200)

plan = Table(
    "plan",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("digest", _DIGEST, nullable=False),
    Column("envelope", LargeBinary, nullable=False),  # traffic.v1.Envelope: the signed bytes are the plan
    Column("state", String(20), nullable=False),  # offered, applied, refused, superseded
    Column("reason", String(60), nullable=False, default=""),  # why refused, a closed code
    Column("message", Text, nullable=False, default=""),
    Column("created_ms", BigInteger, nullable=False),
    Column("settled_ms", BigInteger),  # when the last gateway that watched said what became of it
    Column("rollout", _NAME),  # the rollout whose step this is
)
approval = Table(
    "approval",
    metadata,
    Column("digest", _DIGEST, primary_key=True),
    Column("rollout", _NAME, nullable=False, index=True),
    Column("specialist", _NAME, nullable=False),
    Column("bundle", _DIGEST, nullable=False, index=True),
    Column("envelope", LargeBinary, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
)
rollout = Table(
    "rollout",
    metadata,
    Column("id", _NAME, primary_key=True),
    Column("specialist", _NAME, nullable=False, index=True),
    Column("phase", String(20), nullable=False),
    Column("held", Boolean, nullable=False),
    Column("primary", _DIGEST),
    Column("candidate", _DIGEST, nullable=False),
    Column("stage", Integer, nullable=False),
    Column("stages_bp", JSON, nullable=False),
    Column("shadow_bp", Integer, nullable=False),
    Column("evaluation", _DIGEST, nullable=False),  # empty while it is not evaluated
    Column("evaluated", String(20), nullable=False),  # what the evaluation says: pass, fail, not_yet
    Column("suite", _DIGEST, nullable=False),
    Column("author", _NAME, nullable=False),
    Column("started_by", _NAME, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
    Column("end_reason", Text, nullable=False, default=""),
    Column("waiting_for", Text, nullable=False, default=""),
    Column("gates", JSON, nullable=False, default=list),  # the latest readings
    Column("stage_generation", Integer, nullable=False, default=0),  # the plan that began the stage
    Column("stage_ms", BigInteger, nullable=False),
    Column("stage_counts", JSON, nullable=False, default=dict),  # arm counters when the stage began
    Column("evidence", _DIGEST),  # what an approval of the next step has to name
    Column("evidence_past", JSON, nullable=False, default=list),  # what earlier stages of the same step named
    Column("evidence_path", Text, nullable=False, default=""),
    Column("failed_ms", BigInteger),  # when the failing reading was made
    Column("rollback_ms", Integer),  # from there to the last gateway's acknowledgement
    Column("operation_id", _NAME, unique=True),
)
job = Table(
    "job",
    metadata,
    Column("id", _NAME, primary_key=True),
    Column("kind", String(20), nullable=False),  # train, evaluate
    Column("specialist", _NAME, nullable=False, index=True),
    Column("state", String(20), nullable=False, index=True),  # queued, running, done, failed, cancelled
    Column("attempt", Integer, nullable=False, default=0),
    Column("progress", Float, nullable=False, default=0.0),
    Column("message", Text, nullable=False, default=""),
    Column("request", JSON, nullable=False),
    Column("result", JSON),
    Column("cause", String(20), nullable=False),  # bootstrap, drift, schedule, labels, operator
    Column("created_ms", BigInteger, nullable=False),
    Column("heartbeat_ms", BigInteger),
    Column("finished_ms", BigInteger),
    Column("operation_id", _NAME, unique=True),
)
retrain_decision = Table(
    "retrain_decision",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("specialist", _NAME, nullable=False, index=True),
    Column("trigger", String(20), nullable=False),  # drift, schedule, labels, operator
    Column("code", String(40), nullable=False),  # why not, a closed code; empty when it retrains
    Column("reason", Text, nullable=False),
    Column("job", _NAME, nullable=False, default=""),
    Column("at_ms", BigInteger, nullable=False),
)
given_label = Table(
    "given_label",
    metadata,
    Column("specialist", _NAME, primary_key=True),
    Column("decision_id", _NAME, primary_key=True),
    Column("person", _NAME, primary_key=True),
    Column("label", _NAME, nullable=False),
    Column("text", SealedText, nullable=False),  # kept here: samples are pruned
    Column("at_ms", BigInteger, nullable=False),
)
bundle = Table(
    "bundle",
    metadata,
    Column("digest", _DIGEST, primary_key=True),
    Column("specialist", _NAME, nullable=False, index=True),
    Column("state", String(20), nullable=False),  # trained, accepted, rejected
    Column("cause", String(20), nullable=False),
    Column("author", _NAME, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("evaluation", _DIGEST),
)
evaluation = Table(
    "evaluation",
    metadata,
    Column("digest", _DIGEST, primary_key=True),
    Column("specialist", _NAME, nullable=False, index=True),
    Column("candidate", _DIGEST, nullable=False, index=True),
    Column("primary", _DIGEST),
    Column("suite", _DIGEST, nullable=False),
    Column("accepted", Boolean, nullable=False),
    Column("body", JSON, nullable=False),
    Column("made_ms", BigInteger, nullable=False),
)
gateway = Table(
    "gateway",
    metadata,
    Column("id", _NAME, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
    Column("refusals", Integer, nullable=False, default=0),
    Column("last_refusal", Text, nullable=False, default=""),
)
acknowledgement = Table(
    "acknowledgement",
    metadata,
    Column("gateway", _NAME, primary_key=True),
    Column("plan_digest", _DIGEST, primary_key=True),
    Column("generation", Integer, nullable=False, index=True),
    Column("applied", Boolean, nullable=False),
    Column("reason", String(60), nullable=False),
    Column("message", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("apply_ms", Integer, nullable=False),
)
arm_counter = Table(
    "arm_counter",
    metadata,
    Column("gateway", _NAME, primary_key=True),
    Column("run", _NAME, primary_key=True),  # counters begin at 0 with every start of a gateway
    Column("specialist", _NAME, primary_key=True),
    Column("salt", _NAME, primary_key=True),
    Column("arm", Integer, primary_key=True),
    Column("bundle", _DIGEST, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("fallbacks", JSON, nullable=False),
    Column("in_time", BigInteger, nullable=False),
    Column("latency", JSON, nullable=False),
)
capture_offset = Table(
    "capture_offset",
    metadata,
    Column("segment", _NAME, primary_key=True),
    Column("offset", BigInteger, nullable=False),
    Column("problem", Text, nullable=False, default=""),
)
sample = Table(
    "sample",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("specialist", _NAME, nullable=False),
    Column("decision_id", _NAME, nullable=False, index=True),
    Column("salt", _NAME, nullable=False),
    Column("arm", Integer, nullable=False),
    Column("bundle", _DIGEST, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("text", SealedText, nullable=False),  # rendered, declared fields only
    Column("fields", SealedJson, nullable=False),  # declared numbers and categories
    Column("subject", String(16), nullable=False, default=""),  # the caller's pseudonym under this salt
    Column("input_digest", String(71), nullable=False, default=""),  # of the whole input, kept or not
    Column("probabilities", JSON, nullable=False, default=list),  # in the order of the task's labels; none: a fallback
    Column("reasons", JSON, nullable=False, default=list),  # [field, its part of the log odds], the strongest first
    Column("decision", _NAME, nullable=False),
    Column("label", _NAME, nullable=False, default=""),  # the answer behind the decision; empty for a fallback
    Column("score", Float, nullable=False),
    Column("confidence", Float, nullable=False, default=0.0),  # probability of the label
    Column("fallback", Boolean, nullable=False),
    Column("inclusion", Float, nullable=False, default=1.0),  # probability that such a request was recorded
    Column("drawn_for", String(20), nullable=False, default="rate"),  # why it was recorded
    Column("at_ms", BigInteger, nullable=False),
    Index("ix_sample_stage", "specialist", "salt", "generation"),
    Index("ix_sample_bundle", "specialist", "bundle", "id"),
)
shadow_pair = Table(
    "shadow_pair",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("specialist", _NAME, nullable=False),
    Column("decision_id", _NAME, nullable=False, index=True),
    Column("salt", _NAME, nullable=False, index=True),
    Column("candidate", _DIGEST, nullable=False),
    Column("primary_decision", _NAME, nullable=False),
    Column("candidate_decision", _NAME, nullable=False),  # empty: it did not answer
    Column("in_time", Boolean, nullable=False),
    Column("failure", String(40), nullable=False),  # why the candidate did not answer
    Column("primary_fallback", Boolean, nullable=False),
    # Empty below: an engine of the two gave no answer.
    Column("primary_score", Float),
    Column("candidate_score", Float),
    Column("primary_engine_us", Integer),
    Column("candidate_engine_us", Integer),
    # What the candidate's decision adds to the expected cost, by each engine's own probabilities.
    Column("added_by_primary", Float),
    Column("added_by_candidate", Float),
    Column("at_ms", BigInteger, nullable=False),
)
shadow_counter = Table(
    "shadow_counter",
    metadata,
    Column("gateway", _NAME, primary_key=True),
    Column("run", _NAME, primary_key=True),  # as in arm_counter
    Column("specialist", _NAME, primary_key=True),
    Column("salt", _NAME, primary_key=True),
    Column("candidate", _DIGEST, primary_key=True),
    Column("offered", BigInteger, nullable=False),
    Column("sent", BigInteger, nullable=False),
    Column("paired", BigInteger, nullable=False),
    Column("drops", JSON, nullable=False),  # by cause
)
outcome = Table(
    "outcome",
    metadata,
    Column("specialist", _NAME, primary_key=True),
    Column("decision_id", _NAME, primary_key=True),
    Column("label", _NAME, nullable=False),
    Column("source", _NAME, nullable=False),
    Column("observed_ms", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("first_ms", BigInteger, nullable=False),  # when anything was first said of it
    Column("said", JSON, nullable=False),  # every label ever said, and how often
)
drift_reference = Table(
    "drift_reference",
    metadata,
    Column("specialist", _NAME, primary_key=True),
    Column("bundle", _DIGEST, primary_key=True),
    Column("last_sample", Integer, nullable=False),  # windows begin after it
    Column("first_sample", Integer, nullable=False),
    Column("texts", SealedTexts, nullable=False),
    Column("embedding", _NAME, nullable=False),  # by what texts became vectors; of another kind, nothing compares
    Column("frame", LargeBinary, nullable=False),
    Column("state", LargeBinary, nullable=False),  # thresholds, and the evidence of every row since
    Column("thresholds", JSON, nullable=False),  # by signal
    Column("made_ms", BigInteger, nullable=False),
)
drift_reading = Table(
    "drift_reading",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("specialist", _NAME, nullable=False),
    Column("bundle", _DIGEST, nullable=False),
    Column("last_sample", Integer, nullable=False),
    Column("signal", _NAME, nullable=False),
    Column("verdict", String(20), nullable=False),
    Column("value", Float),  # empty: it could not be computed
    Column("threshold", Float, nullable=False),
    Column("sample", Integer, nullable=False),
    Column("counts_for", Integer, nullable=False, default=1),
    Column("summary", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    UniqueConstraint("specialist", "bundle", "last_sample", "signal"),
)
sketch_window = Table(
    "sketch_window",
    metadata,
    Column("specialist", _NAME, primary_key=True),
    Column("arm", Integer, primary_key=True),
    Column("start_ms", BigInteger, primary_key=True, index=True),
    Column("rows", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),  # observe.v1.SketchWindow
)
quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("reason", _NAME, nullable=False, index=True),
    Column("segment", _NAME, nullable=False),
    Column("detail", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),  # the record as it was read, sealed, for whoever mends it
    Column("at_ms", BigInteger, nullable=False),
)
not_captured = Table(
    "not_captured",
    metadata,
    Column("gateway", _NAME, primary_key=True),
    Column("cause", _NAME, primary_key=True),
    Column("records", BigInteger, nullable=False),
    Column("last_ms", BigInteger, nullable=False),
)
label_batch = Table(
    "label_batch",
    metadata,
    Column("specialist", _NAME, primary_key=True),
    Column("source", _NAME, primary_key=True),
    Column("day", String(10), primary_key=True),  # of the outcome, UTC
    Column("labels", Integer, nullable=False),
    Column("unlearnable", Float, nullable=False),
    Column("expected", Float, nullable=False),
    Column("state", String(10), nullable=False),  # clear, flagged, released
    Column("at_ms", BigInteger, nullable=False),
)
performance_estimate = Table(
    "performance_estimate",
    metadata,
    Column("specialist", _NAME, primary_key=True),
    Column("bundle", _DIGEST, primary_key=True),
    Column("last_sample", Integer, primary_key=True),
    Column("value", Float, nullable=False),
    Column("lower", Float, nullable=False),
    Column("upper", Float, nullable=False),
    Column("realised", Float),  # empty: too few outcomes are known
    Column("known", Integer, nullable=False),
    Column("holds", Boolean),  # empty: nothing to check the assumption on yet
    Column("why", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)
schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False))
