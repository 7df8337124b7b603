"""What a child may take of its machine, set by itself before any heavy library is loaded."""

import resource


def limit(memory_mb: int, cpu_seconds: float) -> None:
    """Bound this process's memory and processor time; 0 leaves one alone.

    Beyond the memory an allocation fails, beyond the time the kernel ends the process. Memory is what is written to
    (``RLIMIT_DATA``), not what is mapped: libraries map far more than they use.
    """
    if memory_mb:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = memory_mb << 20
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard if hard != resource.RLIM_INFINITY else most))
    if cpu_seconds:
        most = max(1, round(cpu_seconds))
        # The soft limit's signal can be caught, so the hard one follows it.
        resource.setrlimit(resource.RLIMIT_CPU, (most, most + 5))


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is an allocation that failed, by whichever library said so."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "allocate memory" in words or "bad alloc" in words or "bad_alloc" in words
