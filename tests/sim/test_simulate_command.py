"""``gsfs simulate``: table, JSON, CSV and HTML from a generated trace; errors in one line."""

from __future__ import annotations

import csv
import gzip
import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gsfs.cli.simulate import simulate
from gsfs.errors import ExitCode

SAMPLES = Path(__file__).resolve().parents[2] / "traces"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(simulate, [str(a) for a in arguments])


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "t15.txt.gz"
    done = run(path, "--generate", "T15", "--objects", "80")
    assert done.exit_code == 0, done.output
    return path


def test_generated_file_is_the_same_every_time_and_in_the_format_its_name_says(tmp_path: Path) -> None:
    for name in ("a.txt.gz", "b.txt.gz", "c.csv"):
        assert run(tmp_path / name, "--generate", "T15", "--objects", "50").exit_code == 0
    assert (tmp_path / "a.txt.gz").read_bytes() == (tmp_path / "b.txt.gz").read_bytes()
    assert b"REST." in gzip.decompress((tmp_path / "a.txt.gz").read_bytes())
    assert (tmp_path / "c.csv").read_text().startswith("time_ms,op,key,size_bytes")


def test_table_names_every_policy_and_the_optimum(trace: Path) -> None:
    done = run(trace, "--policy", "adaptive,forever,all")
    assert done.exit_code == 0, done.output
    for words in ("adaptive", "forever", "all", "÷ optimum", "storage", "egress"):
        assert words in done.output


def test_json_csv_and_html_carry_the_same_figures(trace: Path, tmp_path: Path) -> None:
    table, report = tmp_path / "r.csv", tmp_path / "r.html"
    done = run(
        trace, "--policy", "adaptive,none", "--regions", "2", "--json", "--csv", table, "--html", report
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [r["policy"] for r in rows] == [o["policy"] for o in told["outcomes"]] == ["adaptive", "none"]
    assert [Decimal(r["total_usd"]) for r in rows] == [Decimal(o["total_usd"]) for o in told["outcomes"]]
    html = report.read_text()
    assert f"{float(rows[0]['total_usd']):.6f}" in html


def test_html_report_loads_nothing(trace: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.html"
    assert run(trace, "--html", report).exit_code == 0
    html = report.read_text()
    assert html.count("<svg") == 4
    assert not re.search(r"(?:src|href)=|https?:|@import|<script", html)


def test_help_ends_in_an_example() -> None:
    lines = run("--help").output.strip().splitlines()
    assert any(line.startswith("Example:") for line in lines[-4:])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["absent.txt"], ExitCode.NOT_FOUND, "cannot read the trace"),
        (["{trace}", "--policy", "wishful"], ExitCode.USAGE, "ttl=wishful: takes none, forever"),
        (["{trace}", "--policy", "adaptive/local"], ExitCode.USAGE, "takes TTL, PLACEMENT or PLACEMENT/TTL"),
        (["{trace}", "--regions", "mars,venus"], ExitCode.USAGE, "no price for storage at mars"),
        (["{trace}", "--regions", "5"], ExitCode.USAGE, "takes 2, 3, 6, 9"),
        (["{trace}", "--policy", "push:mars"], ExitCode.USAGE, "no location in mars"),
        (["x.txt", "--generate", "T99"], ExitCode.NOT_FOUND, "takes T0 to T97"),
    ],
)
def test_mistakes_are_one_line_and_a_documented_exit_code(
    trace: Path, arguments: list[str], code: ExitCode, says: str
) -> None:
    done = run(*(a.format(trace=trace) for a in arguments))
    assert done.exit_code == code
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_would_fail_after_the_replay_is_said_before_it(trace: Path, tmp_path: Path) -> None:
    """A time scale of zero or less used to give storage for nothing, or money back."""
    packed = trace.read_bytes()
    cut = tmp_path / "cut.gz"
    cut.write_bytes(packed[: len(packed) // 2])
    for arguments, says in (
        ((trace, "--time-scale", "0"), "--time-scale 0: takes a number above 0"),
        ((trace, "--time-scale", "-5"), "--time-scale -5: takes"),
        ((trace, "--time-scale", "nan"), "--time-scale nan: takes"),
        ((trace, "--policy", ","), "--policy: takes names separated by commas"),
        ((tmp_path / "new", "--generate", "T15", "--objects", "0"), "--objects 0"),
        ((cut,), "cut.gz: is cut off or damaged"),
        ((trace, "--html", tmp_path / "nowhere" / "r.html"), "r.html: cannot be written there"),
    ):
        done = run(*arguments)
        assert done.exit_code in (ExitCode.USAGE, ExitCode.NOT_FOUND), arguments
        assert says in done.output
    assert not (tmp_path / "new").exists()


def test_price_file_changes_the_bill(trace: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("kind,region,dst,value\nstorage,aws:us-east-1,,1000\n")
    plain, dear = (
        json.loads(run(trace, "--policy", "all", "--json", *extra).stdout)
        for extra in ([], ["--prices", mine])
    )
    assert Decimal(dear["outcomes"][0]["storage_usd"]) > Decimal(plain["outcomes"][0]["storage_usd"]) * 100


def test_samples_replay_and_are_what_the_generator_makes(tmp_path: Path) -> None:
    samples = sorted(SAMPLES.glob("*.gz"))
    assert [p.name for p in samples] == ["t15.txt.gz", "t29.txt.gz", "t65.txt.gz", "t78.txt.gz", "t79.txt.gz"]
    assert sum(p.stat().st_size for p in samples) < 500_000
    for sample in samples:
        done = run(sample, "--policy", "adaptive,none", "--json", "--time-scale", "90")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["requests"] > 500


def test_recorded_regions_are_used_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(
        "time_ms,op,key,size_bytes,region\n0,put,k,1000,aws:us-east-1\n5,get,k,1000,azure:eastus\n",
        encoding="utf-8",
    )
    done = run(path, "--policy", "none", "--assign", "recorded", "--json")
    told = json.loads(done.stdout)["outcomes"][0]
    assert Decimal(told["egress_usd"]) == (Decimal(1000) / (1 << 30) * Decimal("0.09")).quantize(
        Decimal("1e-12")
    )


def test_regions_that_the_trace_names_are_told_as_recorded_and_zero_is_written_out(tmp_path: Path) -> None:
    """It said "assignment D" of a recorded trace, and 0E-12 for nothing."""
    recorded = tmp_path / "t.csv"
    recorded.write_text(
        "time_ms,op,key,size_bytes,region\n0,put,a,5,aws:us-east-1\n1000,get,a,5,aws:us-east-1\n"
    )
    done = run(recorded, "--policy", "none", "--regions", "aws:us-east-1,aws:eu-west-1", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["assignment"] == "as recorded"
    assert told["outcomes"][0]["egress_usd"] == "0.000000000000"
    recorded.write_text(recorded.read_text() + "2000,get,a,5,\n")
    assert json.loads(run(recorded, "--json").stdout)["assignment"] == "D"
