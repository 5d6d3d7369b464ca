"""The workflows, the make targets that they call, and the lists of packages: linted and tried without GitHub."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from bench.nightly.plan import BASE_CODE
from bench.nightly.settings import Places, Settings, parse

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
ISSUE = ROOT / ".github" / "scripts" / "nightly-issue.sh"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def ran(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, timeout=120,
        check=False,
    )  # fmt: skip


def loaded(name: str) -> dict[str, Any]:
    """A workflow; YAML 1.1 takes its key "on" for true."""
    content = yaml.safe_load((FOLDER / f"{name}.yml").read_text())
    content["on"] = content.pop(True)
    return content


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def zizmor(*paths: Path) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("zizmor", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert tool, "zizmor is in the extra test"
    return ran(tool, "--offline", "--no-progress", "--pedantic", "--no-config", *paths)


# Linters


def test_the_schema() -> None:
    done = ran(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    assert len(WORKFLOWS) == 2 and done.returncode == 0, done.stdout + done.stderr


def test_yaml_style() -> None:
    done = ran(sys.executable, "-m", "yamllint", "--strict", ".github", ".yamllint.yml")
    assert done.returncode == 0, done.stdout


def test_no_security_findings() -> None:
    done = zizmor(FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_finds_what_it_is_there_for(tmp_path: Path) -> None:
    """An input in the text of a script, and an action that is not pinned."""
    text = (FOLDER / "nightly-gpu.yml").read_text()
    broken = text.replace("make setup EXTRAS", "echo ${{ inputs.arguments }} EXTRAS")
    (tmp_path / "broken.yml").write_text(re.sub(r"(upload-artifact@)\w{40}", r"\1v7", broken))
    done = zizmor(tmp_path / "broken.yml")
    assert done.returncode != 0
    for finding in ("template-injection", "unpinned-uses"):
        assert finding in done.stdout


@pytest.mark.parametrize("workflow", ["ci", "nightly-gpu"])
def test_scripts_are_shell(workflow: str) -> None:
    scripts = [step["run"] for step in steps(loaded(workflow)) if "run" in step]
    assert scripts
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", [".ci/run", ".github/scripts/nightly-issue.sh"])
def test_script_files_are_shell_and_executable(script: str) -> None:
    assert ran("bash", "-n", ROOT / script).returncode == 0 and os.access(ROOT / script, os.X_OK)


# What the workflows promise


@pytest.mark.parametrize("name", ["ci", "nightly-gpu"])
def test_least_permissions_and_limits(name: str) -> None:
    workflow = loaded(name)
    assert workflow["permissions"] == {} and workflow["concurrency"]["group"]
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 240
        assert set(job["permissions"].items()) <= {("contents", "read"), ("issues", "write")}
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"])
    for line in (FOLDER / f"{name}.yml").read_text().splitlines():
        assert "uses:" not in line or re.search(r"# v\d+\.\d+\.\d+$", line), "the pinned version is named"


def test_the_gpu_runner_never_runs_a_pull_request() -> None:
    nightly, hosted = loaded("nightly-gpu"), loaded("ci")
    assert set(nightly["on"]) == {"schedule", "workflow_dispatch"} and nightly["on"]["schedule"][0]["cron"]
    assert nightly["concurrency"]["cancel-in-progress"] is False
    assert nightly["jobs"]["night"]["runs-on"] == ["self-hosted", "linux", "x64", "gpu"]
    assert all(job["runs-on"].startswith("ubuntu-") for job in hosted["jobs"].values())
    assert set(hosted["on"]) == {"pull_request", "push"}


def test_secrets_are_the_nights_alone() -> None:
    assert "secrets." not in (FOLDER / "ci.yml").read_text()
    nightly = loaded("nightly-gpu")
    holders = [step.get("name") for step in steps(nightly) if "secrets." in str(step)]
    assert holders == ["night"] and "secrets." not in str({**nightly, "jobs": {}})
    assert "issues" not in nightly["jobs"]["night"]["permissions"]
    assert {**nightly["jobs"]["issue"]["permissions"]} == {"contents": "read", "issues": "write"}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_what_workflows_call_is_there() -> None:
    called = [step["run"] for name in ("ci", "nightly-gpu") for step in steps(loaded(name)) if "run" in step]
    targets = {
        match for script in called for match in re.findall(r"^\s*(?:exec )?make ([a-z-]+)", script, re.MULTILINE)
    }
    assert targets == {"setup", "lint", "browser", "test", "nightly"} <= make_targets()
    for path in re.findall(r"bash (\S+)", "\n".join(called)):
        assert (ROOT / path).is_file()
    assert {f"make {target}" for target in re.findall(r"make ([a-z-]+)", (ROOT / ".ci/run").read_text())} >= {
        "make browser", "make test",
    }  # fmt: skip
    for extra in re.findall(r"EXTRAS=([\w,]+)", "\n".join(called)):
        assert set(extra.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def night_of(name: str, **environment: str) -> tuple[Settings, Places]:
    """What the workflow's own script asks `make nightly` for."""
    (step,) = [step for step in steps(loaded(name)) if step.get("name") == "night"]
    with tempfile.TemporaryDirectory() as folder:
        make = Path(folder) / "make"
        make.write_text('#!/bin/sh\n[ "$1" = nightly ] && printf "%s" "$ARGS"\n')
        make.chmod(0o755)
        done = subprocess.run(
            ["bash", "-euc", step["run"]], capture_output=True, text=True, check=True,
            env={"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **environment},
        )  # fmt: skip
    return parse(done.stdout.split())


NIGHT = {"HISTORY": "", "LARGER": "nightly-larger", "MORE": "", "ACCEPT": "", "KEEP": "", "MLFLOW_TRACKING_URI": ""}
NIGHT |= {"HOME": "/home/runner", "RUNNER_TEMP": "/tmp/job"}


def test_what_the_gpu_night_asks_for() -> None:
    settings, places = night_of("nightly-gpu", **NIGHT)
    assert settings.presets == ("nightly", "nightly-larger") and settings.repeats >= 3
    assert settings.backends == ("eager", "compile", "onnx", "tensorrt") and settings.device == "cuda"
    assert not places.track and places.fresh and not settings.accept
    assert places.history == Path("/home/runner/counterfactual-bench-nights")
    given = {"MLFLOW_TRACKING_URI": "https://host", "HISTORY": "/data", "ACCEPT": "--accept", "MORE": "--repeats 5"}
    settings, places = night_of("nightly-gpu", **NIGHT | given)
    assert places.track and places.history == Path("/data") and settings.accept and settings.repeats == 5
    assert not places.no_keep and night_of("nightly-gpu", **NIGHT | {"KEEP": "--no-keep"})[1].no_keep


def test_only_nights_of_the_default_branch_are_kept() -> None:
    rule = loaded("nightly-gpu")["jobs"]["night"]["env"]["KEEP"]
    branch = "github.ref != format('refs/heads/{0}', github.event.repository.default_branch)"
    assert rule.split() == ["${{", *f"github.event_name != 'schedule' && {branch} && '--no-keep' || ''".split(), "}}"]


@pytest.mark.parametrize(("name", "job"), [("ci", "nightly-small"), ("nightly-gpu", "night")])
def test_a_step_is_ended_before_its_job_is(name: str, job: str) -> None:
    _, places = night_of(name, **NIGHT)
    assert places.step_minutes < loaded(name)["jobs"][job]["timeout-minutes"] / 2


@pytest.mark.parametrize("name", ["ci", "nightly-gpu"])
def test_a_job_that_is_cancelled_ends_its_night(name: str, tmp_path: Path) -> None:
    """The signal reaches Python, through the shell of the step and make."""
    script = next(step["run"] for step in steps(loaded(name)) if step.get("name") == "night")
    script = script.replace("make nightly", f"make -s nightly BIN={tmp_path} STAMP={tmp_path}/stamp")
    (tmp_path / "stamp").touch()
    (tmp_path / "python").write_text(
        f"#!{sys.executable}\nimport signal\nsignal.signal(15, lambda *_: print('ended', flush=True) or exit(130))\n"
        "print('begun', flush=True)\nsignal.pause()\n"
    )
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "step.sh").write_text(script)
    process = subprocess.Popen(
        ["bash", "-e", tmp_path / "step.sh"], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | NIGHT
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.terminate()  # a runner signals the process of the step alone
    assert process.communicate(timeout=20)[0] == "ended\n"


@pytest.mark.parametrize("name", ["ci", "nightly-gpu"])
def test_the_base_is_not_uploaded(name: str) -> None:
    (upload,) = [step["with"] for step in steps(loaded(name)) if "upload-artifact" in step.get("uses", "")]
    taken, left = upload["path"].splitlines()
    assert left == f"!{taken}{BASE_CODE}/"


def test_what_a_pull_request_asks_for() -> None:
    settings, places = night_of("ci")
    (checkout,) = [
        step for step in loaded("ci")["jobs"]["nightly-small"]["steps"] if "checkout@" in step.get("uses", "")
    ]
    assert checkout["with"]["fetch-depth"] == 2 and "ref" not in checkout["with"], "the merge and its parents"
    assert settings.against == "HEAD^1" and settings.backends == ("eager", "compile", "onnx")
    assert settings.presets == ("nightly-small",) and not places.track


HOSTILE = "--limit $(touch made) `touch made` ; touch made # $(shell touch made) *"


def test_arguments_are_words_and_nothing_else(tmp_path: Path) -> None:
    """An input of the workflow reaches Python word by word."""
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "stamp").touch()
    made = ran("make", "-s", "nightly", f"BIN={tmp_path}", f"STAMP={tmp_path}/stamp", ARGS=HOSTILE)
    assert made.stdout.splitlines() == ["-m", "bench.nightly", *HOSTILE.split()], made.stderr
    assert not (ROOT / "made").exists()


# The issue


GH = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$CALLS"
for argument in "$@"; do if [ -f "$argument" ]; then cp "$argument" "$BODY"; fi; done
if [ "$1 $2" = "issue list" ]; then printf '%s' "$OPEN"; fi
"""


@pytest.mark.parametrize(
    ("result", "open_issue", "expected"),
    [
        ("failure", "", ["issue list", "label create", "issue create"]),
        ("cancelled", "7", ["issue list", "issue comment 7"]),
        ("success", "7", ["issue list", "issue close 7"]),
        ("success", "", ["issue list"]),
    ],
)
def test_there_is_one_issue(tmp_path: Path, result: str, open_issue: str, expected: list[str]) -> None:
    (tmp_path / "gh").write_text(GH)
    (tmp_path / "gh").chmod(0o755)
    summary = tmp_path / "summary.md"
    summary.write_text("## Night is **red**: $(touch made)\n" + "ü" * 40_000)
    environment = {"CALLS": str(tmp_path / "calls"), "BODY": str(tmp_path / "body"), "OPEN": open_issue}
    environment |= {"RESULT": result, "RUN_URL": "https://run", "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = ran("bash", ISSUE, summary, **environment)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call[: len(start)] for call, start in zip(calls, expected, strict=True)] == expected
    if result != "success":
        body = (tmp_path / "body").read_bytes().decode("utf-8")
        assert "https://run" in body and "$(touch made)" in body and len(body) < 65_536
        summary.unlink()
        assert ran("bash", ISSUE, summary, **environment).returncode == 0
        assert "left no summary" in (tmp_path / "body").read_text()


# Packages


def test_every_package_is_listed() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    tops = {name.partition(".")[0] for name in listed}
    found = {
        ".".join(path.parent.relative_to(ROOT).parts) for top in tops for path in (ROOT / top).rglob("__init__.py")
    }
    assert set(listed) == found and len(listed) == len(set(listed))


def test_every_file_that_is_no_module_is_listed() -> None:
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for package in PROJECT["tool"]["setuptools"]["packages"]:
        folder = ROOT.joinpath(*package.split("."))
        listed = {path for pattern in data.get(package, []) for path in folder.glob(pattern)}
        below = [path for path in folder.rglob("*") if path.suffix in (".toml", ".cpp", ".html", ".css", ".js", ".csv")]
        own = {path for path in below if _package_of(path) == package}
        assert own <= listed, f"{package}: {own - listed}"


def _package_of(path: Path) -> str:
    folder = next(parent for parent in path.parents if (parent / "__init__.py").is_file())
    return ".".join(folder.relative_to(ROOT).parts)


def test_what_is_installed_is_pinned() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line]
    pins = {line.partition("==")[0].lower().replace("_", "-"): line.partition("==")[2] for line in lines}
    assert len(pins) == len(lines) and all(pins.values())
    extras = PROJECT["project"]["optional-dependencies"]
    for text in (*PROJECT["project"]["dependencies"], *extras["test"], *extras["onnx"], *extras["elpv"]):
        wanted = Requirement(text)
        assert wanted.specifier.contains(pins[wanted.name.lower()]), text
