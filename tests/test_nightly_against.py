"""Two versions measured in turns (`--against`), with verbs that only pretend."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.nightly import night, worktree
from bench.nightly.steps import Ended
from tests.pretended import Pretended


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    return Pretended(tmp_path, monkeypatch)


def test_two_versions_take_turns(pretended: Pretended) -> None:
    base = pretended.commit
    (pretended.repository / "bench" / "__init__.py").write_text("# new\n")
    pretended.git("commit", "--quiet", "--all", "--message", "second")
    assert pretended.run("--against", base) == 0
    roots = [root for root, verb, _ in pretended.calls if verb == "run"]
    assert roots == ["base-code", "project", "project", "base-code"]
    (gate,) = [arguments for _, verb, arguments in pretended.calls if verb == "gate"]
    assert gate[0] == str(pretended.folder / "out" / "base" / "smoke")
    assert not (pretended.folder / "out" / "base-code").exists() and "base-code" not in pretended.git(
        "worktree", "list"
    )
    assert pretended.kept() == [], "a branch is no base"


def test_a_base_that_does_not_know_the_preset(pretended: Pretended) -> None:
    pretended.codes(**{"base-code_run": 2})
    assert pretended.run("--against", "main") == 0
    assert [root for root, verb, _ in pretended.calls if verb == "run"] == ["base-code", "project", "project"]
    assert pretended.verbs().count("alone") == 1 and "gate" not in pretended.verbs()
    assert "cannot be measured (run ended with 2)" in pretended.night().notes[0]


def test_the_wrong_version_is_not_measured(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    base = pretended.commit
    pretended.git("commit", "--quiet", "--allow-empty", "--message", "second")
    environment: Callable[..., dict[str, str]] = night.step_environment
    here = str(pretended.repository)
    monkeypatch.setattr(night, "step_environment", lambda step, code: environment(step, code) | {"PYTHONPATH": here})
    assert pretended.run("--against", base) == 2
    found = pretended.night()
    assert found.verdict == "red" and found.ended and "instead of" in found.red()[0].note
    assert "instead of" in (pretended.folder / "out" / "summary.md").read_text()


def test_a_base_that_cannot_be_measured(pretended: Pretended) -> None:
    """It crashes: this version is judged alone, also when the night goes on."""
    pretended.codes(**{"base-code_run": 1, "verify": 1})
    assert pretended.run("--against", "main") == 1
    assert pretended.night().unfit == {"smoke": "run ended with 1"}
    pretended.codes(alone=1)
    assert pretended.run("--against", "main") == 1
    assert pretended.verbs() == ["doctor", "verify", "alone", "report", "track"], "the base is not tried again"
    statuses = {step.name: step.status for step in pretended.night().steps}
    assert statuses["base/smoke/repeat-1"] == "warning" and statuses["base/smoke/repeat-2"] == "skipped"
    assert statuses["gate smoke alone"] == "failed"


def test_a_base_that_takes_too_long(pretended: Pretended) -> None:
    pretended.codes(**{"base-code_run": "hang"})
    assert pretended.run("--against", "main", "--step-minutes", "0.05") == 0
    assert "ended after 0.05 minutes" in pretended.night().unfit["smoke"] and "alone" in pretended.verbs()


def test_a_later_repeat_of_the_base_is_left_out(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = night.execute

    def fails_later(command: list[str], environment: dict[str, str], log: Path, limit_s: float) -> Ended:
        if not command[-1].endswith("base/smoke/repeat-2"):
            return execute(command, environment, log, limit_s)
        Path(command[-1]).mkdir()
        return execute(command, environment | {"CODES": '{"run": 1}'}, log, limit_s)

    monkeypatch.setattr(night, "execute", fails_later)
    assert pretended.run("--against", "main") == 0 and "gate" in pretended.verbs()
    base = pretended.folder / "out" / "base" / "smoke"
    assert [path.name for path in base.iterdir()] == ["repeat-1"] and pretended.night().unfit == {}


@pytest.mark.parametrize("stale", ["unknown to git", "locked", "locked and gone", "half deleted"])
def test_a_worktree_that_was_left_behind_goes(pretended: Pretended, stale: str) -> None:
    """Of a killed night, also with --fresh."""
    folder = pretended.folder / "out" / "base-code"
    if stale == "unknown to git":
        (folder / "bench").mkdir(parents=True)
    else:
        pretended.git("worktree", "add", "--quiet", "--detach", str(folder), "main")
    if stale.startswith("locked"):
        pretended.git("worktree", "lock", str(folder))
    if stale.endswith("gone"):
        shutil.rmtree(folder)
    if stale == "half deleted":
        (folder / ".git").unlink()
    with worktree.checked_out(pretended.commit, folder) as code:
        assert (code / "bench" / "__main__.py").is_file()
    assert not folder.exists() and "base-code" not in pretended.git("worktree", "list")


def test_fresh_removes_the_worktree_too(pretended: Pretended) -> None:
    assert pretended.run() == 0
    folder = pretended.folder / "out" / "base-code"
    pretended.git("worktree", "add", "--quiet", "--detach", str(folder), "main")
    pretended.git("worktree", "lock", str(folder))
    assert pretended.run("--fresh") == 0
    assert not folder.exists() and "base-code" not in pretended.git("worktree", "list")
