"""The hot path as machine code, where somebody has built it: ``python -m gateway.compiled`` (``make compile``).

mypyc turns the modules below into extension modules, from the types they have anyway. They lie in a folder of the
environment that is named by the digest of every source of the gateway and the contract, this Python and this list:
after any change nothing is found there, and the sources themselves run. So nothing stale can run. ``use`` chooses,
before any of the modules is imported, and keeps what it chose in ``in_force``, which both processes log.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType

MODULES = (
    "gateway.domain.admission",
    "gateway.domain.assignment",
    "gateway.domain.balance",
    "gateway.engines.link",
    "gateway.engines.pool",
    "gateway.rpc.exchanges",
    "gateway.rpc.header_block",
    "gateway.rpc.http2",
    "gateway.rpc.oip_row",
    "gateway.rpc.oip_tensors",
    "gateway.rpc.stamp",
    "gateway.rpc.step",
    "gateway.serving.asking",
    "gateway.serving.counters",
    "gateway.serving.deadlines",
    "gateway.serving.dispatch",
    "gateway.serving.recording",
    "gateway.serving.sampling",
    "gateway.serving.shadow",
    "gateway.serving.statistics",
    "gateway.serving.underway",
    "gateway.worker.process",
    "gateway.worker.queue",
    "gateway.worker.runner",
    "protos.contract.draws",
    "protos.contract.frames",
    "protos.contract.given",
    "protos.contract.rows",
)
SETTING = "INTERLOCK_COMPILED"  # "auto": where it is built; "off": never; "on": or do not start
ROOT = Path(__file__).parents[1]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
KEPT = 3  # builds, the newest: checkouts may share an environment
GROUP = "interlock"  # the modules call each other directly, so they are one library
_BUILD = """
import sys
from setuptools import setup
from mypyc.build import mypycify
files = sys.argv.pop().split(",")
options = ["--strict", "--config-file", "mypy.ini"]
setup(name="interlock", ext_modules=mypycify(options + files, opt_level="2", debug_level="0", group_name="interlock"))
"""
# Types of libraries are not looked into: that takes minutes, and what they give is an object here in any case.
_LIBRARIES = (
    "aiohttp", "cryptography", "grpc", "numpy", "openvino", "opentelemetry", "peft", "prometheus_client", "ray",
    "safetensors", "structlog", "tokenizers", "torch", "transformers", "xgrammar",
)  # fmt: skip
_TYPES = """
[mypy]
explicit_package_bases = True
ignore_missing_imports = True
warn_unused_ignores = False
warn_return_any = False
disallow_subclassing_any = False
disallow_untyped_decorators = False
[mypy-protos.*_pb2]
ignore_errors = True
""" + "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in _LIBRARIES)

in_force = "no: not asked for"


class BuildFailed(RuntimeError):
    """The modules cannot be compiled here; the message says why."""


def digest(root: Path = ROOT) -> str:
    """Name what would be built: by every source, whether it is compiled or only relied on."""
    seen = hashlib.sha256("\n".join((sys.version, SUFFIX, _BUILD, *MODULES)).encode())
    for package in ("gateway", "protos"):
        for path in sorted((root / package).rglob("*.py")):
            data = path.read_bytes()
            seen.update(f"\n{path.relative_to(root)} {len(data)}\n".encode() + data)
    return seen.hexdigest()[:16]


def folder(name: str) -> Path:
    """Return where a build of that digest is, or would be."""
    return Path(sys.prefix) / "lib" / "interlock-compiled" / name


def use(how: str | None = None) -> str:
    """Have the compiled modules imported from now on, where they are built; returns and keeps what is in force.

    Args:
        how: In place of the environment's setting: "auto", "off" or "on".
    """
    global in_force
    name, files = _found(how)
    if files:
        early = [module for module in MODULES if module in sys.modules]
        if early:
            raise RuntimeError(f"{', '.join(early)} was imported before compiled.use")
        sys.meta_path.insert(0, _Finder(files))
    in_force = name
    return in_force


def status() -> str:
    """Say what a process that starts now would use: a digest, or "no" and why."""
    return _found(None)[0]


def _found(how: str | None) -> tuple[str, dict[str, Path]]:
    """Return what to say of the build that is to be used, and its modules; none where the sources run."""
    how = how or os.environ.get(SETTING, "auto")
    if how not in ("auto", "off", "on"):
        sys.exit(f"{SETTING} is {how!r}, expected auto, off or on")
    if how == "off":
        return f"no: {SETTING} is off", {}
    name = digest()
    built, shared = folder(name), f"{GROUP}__mypyc"
    files = {module: built.joinpath(*module.split(".")).with_suffix(SUFFIX) for module in MODULES}
    files[shared] = built / f"{shared}{SUFFIX}"
    if all(path.is_file() for path in files.values()):
        return name, files
    missing = f"no build of these sources ({name}); python -m gateway.compiled makes one"
    if how == "on":
        sys.exit(f"{SETTING} is on, and there is {missing}")
    return f"no: {missing}", {}


class _Finder(MetaPathFinder):
    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module that was compiled."""
        file = self._files.get(fullname)
        if file is None:
            return None
        return importlib.util.spec_from_file_location(fullname, file, loader=ExtensionFileLoader(fullname, str(file)))


def build() -> Path:
    """Compile, unless it is done; returns the folder. Raises BuildFailed."""
    built = folder(digest())
    if built.is_dir():
        return built
    with tempfile.TemporaryDirectory(prefix="interlock-compile-") as scratch:
        for package in ("gateway", "protos"):
            shutil.copytree(ROOT / package, Path(scratch) / package, ignore=shutil.ignore_patterns("__pycache__"))
        (Path(scratch) / "mypy.ini").write_text(_TYPES)
        sources = ",".join(module.replace(".", "/") + ".py" for module in MODULES)
        made = subprocess.run(
            [sys.executable, "-c", _BUILD, "build_ext", "--build-lib", "made", sources],
            cwd=scratch,
            env={**os.environ, "PYTHONPATH": scratch},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if made.returncode:
            raise BuildFailed(f"mypyc or the C compiler failed: {' '.join(made.stdout.split())[-1500:]}")
        built.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=built.parent)) / "staged"
        shutil.copytree(Path(scratch) / "made", staged)
        try:
            staged.rename(built)
        except OSError:  # another build of the same was quicker
            shutil.rmtree(staged)
        staged.parent.rmdir()
    for old in sorted(built.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return built


def main() -> None:
    """Build; a machine that cannot is told why and goes on without."""
    try:
        import mypyc.build  # noqa: F401
        import setuptools  # noqa: F401
    except ImportError as error:
        sys.exit(f"gateway.compiled: {error.name} is not installed; pip install 'interlock[compile]'")
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        sys.exit(f"gateway.compiled: there is no C compiler ({compiler}); without one the Python sources run")
    try:
        print(build())
    except BuildFailed as error:
        sys.exit(f"gateway.compiled: {error}")


if __name__ == "__main__":
    main()
