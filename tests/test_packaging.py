"""The installed package is whole, imports lightly, and is imported under its own name only."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rmt_rl import registry
from tests.wheels import ROOT, Environment, build_wheel, copy_tree


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["envs", "agents"])
def test_a_bare_import_is_refused_with_one_clear_line(name: str) -> None:
    refused = python("-c", f"import {name}")
    assert refused.returncode == 1
    message = refused.stderr.splitlines()[-1]
    assert message == f"ImportError: {name!r} is not a package of its own: import it as 'rmt_rl.{name}'"


def test_importing_the_library_imports_neither_torch_nor_any_file_found_by_name() -> None:
    listed = python("-c", "import sys, rmt_rl; print(*sys.modules)")
    assert listed.returncode == 0, listed.stderr
    modules = listed.stdout.split()
    assert "rmt_rl.registry" in modules
    by_name = re.compile(r"(torch|lightning_fabric|stable_baselines3|matplotlib|rmt_rl\.(envs|agents|memory)\.\w+)$")
    assert not [module for module in modules if by_name.match(module)]


def test_every_dependency_is_pinned_inside_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    for_cuda = ("flash", "mamba")  # which can't be built here
    optional = project["optional-dependencies"].items()
    extras = [text for name, texts in optional if name not in for_cuda for text in texts]
    for text in [*project["dependencies"], *extras]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            assert requirement.extras <= dict(optional).keys()
            continue
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, text


def test_an_extra_that_is_left_out_of_new_pythons_says_so() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    limited = {}
    for extra, texts in project["optional-dependencies"].items():
        markers = [Requirement(text).marker for text in texts]
        bounds = {str(marker).partition("python_version < ")[2].strip("\"'") for marker in markers}
        if any(bounds):
            (limited[extra],) = bounds
    declared = {}
    for name in registry.names("envs"):
        before = registry.constant("envs", name, "BEFORE_PYTHON")
        if before:
            declared[registry.constant("envs", name, "EXTRA")] = before
    assert declared == limited == {"memory-maze": "3.13"}


def test_the_wheel_holds_every_file_of_the_library_and_no_other(tmp_path: Path) -> None:
    wheel = build_wheel(copy_tree(tmp_path / "tree"), tmp_path / "wheels")
    held = set(zipfile.ZipFile(wheel).namelist())
    files = [ROOT / "rmt_rl" / "py.typed", *(ROOT / "rmt_rl").rglob("*.py"), *(ROOT / "rmt_rl").rglob("*.toml")]
    files += (ROOT / "rmt_rl" / "zoo").glob("*/*")
    files += list((ROOT / "rmt_rl" / "analysis" / "report").glob("page.*"))
    files += [file for name in ["envs", "agents"] for file in (ROOT / "rmt_rl" / name).rglob("*.py")]
    expected = {str(file.relative_to(ROOT)) for file in files}
    assert "rmt_rl/zoo/tmaze-rate/last.safetensors" in expected
    assert {"rmt_rl/envs/__init__.py", "rmt_rl/agents/__init__.py"} <= expected
    assert {name for name in held if ".dist-info/" not in name} == expected
    assert any(name.endswith("licenses/LICENSE") for name in held)


@pytest.mark.slow
def test_an_agent_of_the_zoo_acts_and_is_exported_where_the_wheel_alone_is_installed(tmp_path: Path) -> None:
    installed = Environment(tmp_path, build_wheel(copy_tree(tmp_path / "tree"), tmp_path / "wheels"))
    long = "corridor_length=900"
    shown = installed("rmt-rl", "evaluate", "zoo:tmaze-rate", "--vary", long, "--episodes", "20").stdout
    assert shown.startswith(f"{long}: success 1.00 ")
    exported = installed("rmt-rl", "export", "zoo:tmaze-rate").stdout.split()
    (example,) = [path for path in exported if path.endswith(".py")]
    assert "success rate 1.00" in installed("python", example, "--option", long, "--episodes", "5").stdout


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/*.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_files_of_the_repository_fit_their_schemas(schema: str, files: str) -> None:
    found = sorted(map(str, ROOT.glob(files)))
    assert found
    checked = python("-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *found)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_dockerfile_passes_its_linter() -> None:
    command = [str(Path(sys.executable).with_name("hadolint")), "Dockerfile"]
    linted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_the_citation_names_the_version_and_the_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {project['version']}" in lines
    assert f"license: {project['license']}" in lines
