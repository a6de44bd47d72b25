"""Documents that must follow the code: the sample configuration, the architecture map, the page of commands."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from gsfs.backends.spec import KNOWN, LocationSpec
from gsfs.cli.main import COMMANDS, main
from gsfs.config import Config, load, parse
from gsfs.errors import ExitCode

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "docs/gsfs.sample.toml"
KEY = re.compile(r"^(?:# )?([a-z0-9_]+) = ", re.MULTILINE)


# --- the sample configuration


def sections() -> dict[str, str]:
    """Text of each table of the sample, those that are commented out included; locations together."""
    parts = re.split(r"^(?:# )?\[+([a-z_]+)\]+$", SAMPLE.read_text(), flags=re.MULTILINE)
    found: dict[str, str] = {}
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        found[name] = found.get(name, "") + text
    return found


def fields(struct: type[msgspec.Struct]) -> set[str]:
    return set(struct.__struct_fields__)


def test_the_sample_is_a_valid_configuration() -> None:
    assert load(SAMPLE, {}).filesystem.name == "demo"


def test_the_sample_mentions_every_key_and_no_other() -> None:
    tables = {field.name: field.type for field in msgspec.structs.fields(Config) if field.name != "path"}
    assert set(sections()) == set(tables)
    for name, type_ in tables.items():
        struct = LocationSpec if name == "location" else type_
        assert set(KEY.findall(sections()[name])) == fields(struct), f"[{name}]"


def test_the_defaults_that_the_sample_shows_are_the_defaults() -> None:
    """In the tables; of locations, those keys that every kind takes."""
    shown = dict(sections())
    shown["location"] = shown["location"].partition("# An S3 bucket.")[0]
    config = load(SAMPLE, {})
    for name, text in shown.items():
        commented = "\n".join(line[2:] for line in text.splitlines() if re.match(r"# [a-z0-9_]+ = ", line))
        table = config.location[0] if name == "location" else getattr(config, name)
        for key, value in tomllib.loads(commented).items():
            actual = getattr(table, key)
            assert getattr(actual, "value", actual) == value, f"[{name}] {key}"


def test_each_kind_of_location_in_the_sample_is_accepted_when_uncommented() -> None:
    examples = SAMPLE.read_text().partition("# An S3 bucket.")[2]
    text = "\n".join(
        line.removeprefix("# ") for line in examples.splitlines() if re.match(r"# (\[\[|[a-z0-9_]+ = )", line)
    )
    variables = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "x")
    alternatives = {"profile", "connection_string", "sas", "anonymous"}
    for table in tomllib.loads(text)["location"]:
        values = {key: value for key, value in table.items() if key not in alternatives}
        assert set(values) <= KNOWN[values["kind"]] | {"id", "kind"}
        raw = {
            "filesystem": {"name": "x"},
            "namespace": {"url": "sqlite:////x"},
            "cache": {"path": "/x"},
            "location": [values],
            "bucket_defaults": {"home": values["id"]},
        }
        assert parse(raw, variables, "sample").location[0].id == table["id"]


# --- the map of the code


def modules() -> list[str]:
    """Dotted names below ``gsfs``, packages by their own name."""
    found = []
    for path in sorted((ROOT / "gsfs").rglob("*.py")):
        parts = path.relative_to(ROOT / "gsfs").with_suffix("").parts
        found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in found if name]


def test_every_module_is_on_the_architecture_map_and_nothing_else_is() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    table = text.partition("<!-- map -->")[2].partition("<!-- end of map -->")[0]
    mapped = re.findall(r"^\| `([a-z0-9_.]+)` \|", table, re.MULTILINE)
    assert sorted(mapped) == sorted(modules())


@pytest.mark.parametrize("path", ["README.md", *map(str, sorted(ROOT.glob("docs/*.md")))])
def test_links_between_documents_lead_somewhere(path: str) -> None:
    document = ROOT / path
    for target in re.findall(r"\]\(([^)#\s]+)\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{path}: {target}"


def test_symbols_that_the_architecture_page_names_exist() -> None:
    """``module.symbol`` in the prose is a name at the top of that module, or of a class in it."""
    text = (ROOT / "docs/architecture.md").read_text().partition("<!-- end of map -->")[2]
    known = set(modules())
    for module, symbol in re.findall(r"`((?:[a-z0-9_]+\.)*[a-z0-9_]+)\.([A-Za-z_][A-Za-z0-9_]*)`", text):
        if module in known and f"{module}.{symbol}" not in known:
            path = ROOT / "gsfs" / module.replace(".", "/")
            source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
            assert symbol in names(ast.parse(source.read_text())), f"{module}.{symbol}"


def names(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


# --- the command line


def commands(group: click.Group, prefix: str = "gsfs") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


ALL = dict(commands(main)) if isinstance(main, click.Group) else {}


@pytest.mark.parametrize("name", ALL)
def test_the_help_of_each_command_ends_in_an_example_of_it(name: str) -> None:
    command = ALL[name]
    with click.Context(command, info_name=name) as context:
        text = command.get_help(context)
    _, heading, example = text.rpartition("Example:")
    assert heading, text
    lines = [line.strip() for line in example.splitlines() if line.strip()]
    assert lines and lines[0].startswith(name), text


@pytest.mark.parametrize("name", ALL)
def test_each_command_is_on_the_page_of_commands(name: str) -> None:
    assert re.search(rf"`{re.escape(name)}[ `]", (ROOT / "docs/cli.md").read_text()), name


@pytest.mark.parametrize("name", ALL)
def test_the_page_of_commands_names_each_option(name: str) -> None:
    row = re.search(
        rf"^\| `{re.escape(name)}[ `].*\| (.*) \|$", (ROOT / "docs/cli.md").read_text(), re.MULTILINE
    )
    options = {max(p.opts, key=len) for p in ALL[name].params if isinstance(p, click.Option)}
    assert row is not None and set(re.findall(r"`(-[^`]+)`", row[1])) == options


def test_the_page_of_commands_names_no_command_that_does_not_exist() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    for first, second in re.findall(r"^\| `gsfs ([a-z]+)(?: ([a-z]+))?", text, re.MULTILINE):
        assert f"gsfs {first}" in ALL or f"gsfs {first} {second}" in ALL, (first, second)
    assert set(COMMANDS) <= set(re.findall(r"`gsfs ([a-z]+)", text))


def test_the_documented_exit_codes_are_those_of_the_code() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    rows = re.findall(r"^\| ([0-9]+) \| ([A-Z_]+) \|", text, re.MULTILINE)
    assert [(int(number), name) for number, name in rows] == [(code.value, code.name) for code in ExitCode]


# --- scripts


@pytest.mark.parametrize("script", ["demo", "demo-clouds", "test", "install", "setup"])
def test_scripts_explain_themselves_and_refuse_unknown_options(script: str) -> None:
    told = subprocess.run([ROOT / "scripts" / script, "--help"], check=True, capture_output=True, text=True)
    assert f"scripts/{script}" in told.stdout
    if script != "test":  # which hands what it does not know to pytest
        refused = subprocess.run(
            [ROOT / "scripts" / script, "--nonsense"], check=False, capture_output=True, text=True
        )
        assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
