"""Out-of-memory errors: each framework has its own, and none says what needs less memory."""

_SIGNS = ("out of memory", "oom when allocating", "can't allocate memory", "resource_exhausted")
_ADVICE = (
    "Memory ran out. A smaller `batch_size` with `accumulate=` makes the same updates in less; so "
    "do a `mixed_bfloat16` policy, fewer batches ahead (`Execution(steps_per_call=1)`), and no "
    "other model left in the process."
)


def advise_on_memory(error: BaseException) -> None:
    """Add advice to an out-of-memory error, once; other errors stay as they are."""
    text = str(error).lower()
    ran_out = isinstance(error, MemoryError) or any(sign in text for sign in _SIGNS)
    if ran_out and _ADVICE not in getattr(error, "__notes__", ()):
        error.add_note(_ADVICE)
