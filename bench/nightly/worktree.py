"""This checkout, and another version of the code beside it (`--against`)."""

import contextlib
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
GIT_S = 300.0


def _git(*arguments: str) -> bytes:
    """Output of git in this checkout.

    Raises:
        UsageError: git is missing, refuses, or does not end.
    """
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, timeout=GIT_S, check=True)
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"git {arguments[0]} did not end within {GIT_S:g} s in {ROOT}") from error
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


@contextlib.contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """Another commit's files in `folder` for as long as the block lasts; what lies there from a killed night goes.

    Raises:
        UsageError: git refuses.
    """
    remove(folder)
    # Twice: also where a locked worktree was that is gone.
    _git("worktree", "add", "--force", "--force", "--quiet", "--detach", str(folder.resolve()), commit)
    try:
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """Delete another commit's files, whether git knows them, has locked them, or not.

    Raises:
        UsageError: the folder cannot be deleted.
    """
    if folder.exists():
        with contextlib.suppress(UsageError):  # of another clone, or half deleted: the rest is done by hand
            _git("worktree", "remove", "--force", "--force", str(folder.resolve()))
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise UsageError(f"{error.filename or folder} cannot be deleted: {error.strerror}; delete {folder}") from error
    with contextlib.suppress(UsageError):
        _git("worktree", "prune")
