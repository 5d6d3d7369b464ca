"""This checkout, and another version of the code beside it (`--against`)."""

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def _git(*arguments: str) -> bytes:
    """Output of git in this checkout.

    Raises:
        UsageError: git is missing, or refuses.
    """
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, timeout=300, check=True)
    except FileNotFoundError as error:
        raise UsageError("git is not installed; install it (Debian: apt-get install git)") from error
    except subprocess.CalledProcessError as error:
        text = error.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UsageError(f"git {arguments[0]}: {text[-1] if text else 'failed'}") from error
    return done.stdout


def commit_of(reference: str) -> str:
    """The commit that a branch, tag or hash names.

    Raises:
        UsageError: it names none.
    """
    try:
        return _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}").decode().strip()
    except UsageError as error:
        raise UsageError(f"--against {reference}: no such commit in {ROOT} (a shallow clone? git fetch it)") from error


def changes() -> str:
    """Hash of uncommitted changes to tracked files; "" where there are none."""
    difference = _git("diff", "--binary", "HEAD")
    return hashlib.sha256(difference).hexdigest()[:12] if difference else ""


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """Another commit's files in `folder` for as long as the block lasts; what lies there from a killed night goes.

    Raises:
        UsageError: git refuses.
    """
    _remove(folder)
    _git("worktree", "add", "--quiet", "--detach", str(folder.resolve()), commit)
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    if folder.exists():
        _git("worktree", "remove", "--force", str(folder.resolve()))
    _git("worktree", "prune")
