"""Errors that end a command with one sentence, and the exit codes they carry."""


class BenchError(Exception):
    """Something the user can act on; the text names the file, key or option and what to do."""

    exit_code = 1


class UsageError(BenchError):
    """The command line, the configuration or an input is wrong; nothing was started."""

    exit_code = 2


class RunError(BenchError):
    """A cell could not go on; what was recorded before stays."""

    exit_code = 1


EXIT_SAMPLES_FAILED = 3
"""The suite finished, but some samples have no counterfactual."""
