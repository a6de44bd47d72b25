"""Trace formats: what is read, what is refused, and that what is written reads back."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsfs.errors import ConfigError, NotFoundError
from gsfs.sim.formats import (
    detect,
    hashed_key,
    open_trace,
    read_csv,
    read_ibm,
    read_s3_log,
    recorded_head,
    recorded_line,
    sampled,
    write_csv,
    write_ibm,
)
from gsfs.sim.requests import DELETE, GET, OTHER, PUT, Request

IBM = """1219008 REST.PUT.OBJECT 8d4fcda3d675bac9 1056
1221974 REST.HEAD.OBJECT 39d177fb735ac5df 528
1232437 REST.GET.OBJECT 8d4fcda3d675bac9 1056 0 1055
1232777 REST.GET.OBJECT 8d4fcda3d675bac9 1056 0 99
1234545 REST.DELETE.OBJECT 8d4fcda3d675bac9
"""
S3 = (
    '79a5 amzn-bucket [06/Feb/2019:00:00:38 +0000] 192.0.2.3 79a5 3E57 {op} photos/1%20a.jpg "GET /x \\"y\\" HTTP/1.1" '
    '{status} - {sent} {size} 7 5 "-" "curl" - id SigV4 cipher AuthHeader host TLSV1.1\n'
)


def test_ibm_lines_are_read_with_ranges_and_other_operations() -> None:
    rows = [Request(*row) for row in read_ibm(IBM.splitlines(), "t")]
    assert [row.op for row in rows] == [PUT, OTHER, GET, GET, DELETE]
    assert [row.length_bytes for row in rows] == [1056, 528, 1056, 100, 0]
    assert rows[3].size_bytes == 1056


@pytest.mark.parametrize(
    "line", ["12 REST.GET.OBJECT", "soon REST.GET.OBJECT k 1 0 0", "12 REST.PUT.OBJECT k big"]
)
def test_bad_ibm_line_is_an_error_with_its_number(line: str) -> None:
    with pytest.raises(ConfigError, match="t:2: got"):
        list(read_ibm([IBM.splitlines()[0], line], "t"))


def test_csv_takes_optional_columns_in_any_order_and_quotes() -> None:
    text = (
        'time_ms,op,key,size_bytes,region,length_bytes\n5,get,"a,b",10,aws:us-east-1,4\n# note\n7,PUT,c,3,,\n'
    )
    assert list(read_csv(text.splitlines(True), "t")) == [
        (5, GET, "a,b", 10, 4, "aws:us-east-1"),
        (7, PUT, "c", 3, 3, ""),
    ]


@pytest.mark.parametrize(
    "text", ["time,op\n", "time_ms,op,key,size_bytes,colour\n", "time_ms,op,key,size_bytes\n1,eat,k,1\n"]
)
def test_bad_csv_is_an_error_that_says_what_is_accepted(text: str) -> None:
    with pytest.raises(ConfigError, match="takes time_ms,op,key,size_bytes"):
        list(read_csv(text.splitlines(True), "t"))


def test_s3_log_counts_what_succeeded_and_skips_noise() -> None:
    lines = [
        S3.format(op="REST.GET.OBJECT", status=200, sent=113, size=2048),
        S3.format(op="REST.GET.OBJECT", status=404, sent=113, size="-"),
        "not a log line\n",
        S3.format(op="REST.PUT.OBJECT", status=200, sent="-", size=2048),
        S3.format(op="REST.GET.VERSIONING", status=200, sent=20, size="-"),
    ]
    rows = list(read_s3_log(lines, "t"))
    assert [(row[1], row[3], row[4]) for row in rows] == [(GET, 2048, 113), (PUT, 2048, 2048), (OTHER, 0, 0)]
    assert rows[0][0] == 1549411238000


def test_formats_are_told_apart_by_their_first_line() -> None:
    assert detect(IBM, "t") == "ibm"
    assert detect("time_ms,op,key,size_bytes\n", "t") == "csv"
    assert detect(recorded_head(), "t") == "recorded"
    assert detect(S3, "t") == "s3"
    with pytest.raises(ConfigError, match="takes one of the formats ibm, csv, recorded, s3"):
        detect("<xml>", "t")


def test_gzip_is_recognised_by_content_and_an_absent_trace_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "trace.bin"
    path.write_bytes(gzip.compress(IBM.encode()))
    with open_trace(path) as opened:
        assert len(list(opened.rows)) == 5
        assert opened.position() == path.stat().st_size
    with pytest.raises(NotFoundError, match="cannot read the trace"):
        open_trace(tmp_path / "absent")


requests = st.lists(
    st.builds(
        lambda t, op, key, size, part: (t, op, key, size, min(part, size) if op == GET else size, ""),
        st.integers(0, 10**12),
        st.sampled_from([GET, PUT]),
        st.text("abcdef0123456789", min_size=1, max_size=16),
        st.integers(1, 1 << 40),
        st.integers(1, 1 << 40),
    ),
    max_size=20,
)


@given(requests)
def test_what_is_written_reads_back_the_same(rows: list[tuple[int, int, str, int, int, str]]) -> None:
    for write, read in ((write_ibm, read_ibm), (write_csv, read_csv)):
        out = io.StringIO()
        assert write(rows, out) == len(rows)
        assert list(read(io.StringIO(out.getvalue()), "t")) == rows


def test_recorded_trace_reads_back_and_tells_no_names() -> None:
    key = hashed_key(b"secret/plan.txt", b"salt")
    text = recorded_head() + recorded_line(Request(12, GET, key, 100, 40, "aws:us-east-1"), "b")
    assert "plan" not in text
    assert list(read_csv(text.splitlines(True), "t")) == [(12, GET, key, 100, 40, "aws:us-east-1")]


def test_a_sample_takes_all_requests_of_an_object_or_none() -> None:
    keys = [hashed_key(b"%d" % i, b"salt") for i in range(2000)]
    share = sum(sampled(key, 0.25) for key in keys) / len(keys)
    assert share == pytest.approx(0.25, abs=0.03)
    assert sampled(keys[0], 0.25) == sampled(keys[0], 0.25)
