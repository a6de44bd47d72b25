"""Price tables: exact, overridable, and never a silent zero."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from gsfs.errors import ConfigError, ExitCode
from gsfs.policy.links import shipped_links
from gsfs.policy.prices import (
    FOREVER_S,
    SECONDS_PER_MONTH,
    PriceTable,
    break_even_s,
    load_prices,
    parse_prices,
    shipped_prices,
)

HEAD = "kind,region,dst,value\n"


def test_shipped_table_prices_every_pair_of_the_regions_with_links() -> None:
    regions = {src for src, _ in shipped_links().links}
    assert len(regions) == 10
    shipped_prices().require(sorted(regions))


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ("put,x,,1\nget,x,,1\n", "storage at x"),
        ("storage,x,,1\nget,x,,1\n", "put at x"),
        ("storage,x,,1\nput,x,,1\n", "get at x"),
        (
            "storage,x,,1\nput,x,,1\nget,x,,1\nstorage,y,,1\nput,y,,1\nget,y,,1\negress,x,y,1\n",
            "egress from y to x",
        ),
    ],
)
def test_missing_price_is_an_error_that_names_it(rows: str, what: str) -> None:
    table = parse_prices(HEAD + rows, "mine.csv")
    with pytest.raises(ConfigError, match=f"no price for {what}") as caught:
        table.require(["x", "y"] if "y" in rows else ["x"])
    assert caught.value.exit_code is ExitCode.USAGE
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("storage,x,,-1", "takes a number that is not negative"),
        ("storage,x,,cheap", "value is 'cheap'"),
        ("storage,x,,nan", "takes a number"),
        ("bribe,x,,1", "takes one of storage, put, get, egress, min_age"),
        ("egress,x,,1", "egress takes a region"),
        ("put,x,y,1", "other kinds nothing"),
        ("put,x,1", "got 3 columns"),
    ],
)
def test_bad_row_is_an_error_with_file_line_and_what_is_accepted(row: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_prices(HEAD + "# fine\n" + row, "mine.csv")
    assert "mine.csv:3" in str(caught.value)
    assert says in str(caught.value)


def test_file_without_the_header_is_refused() -> None:
    with pytest.raises(ConfigError, match="first line must be kind,region,dst,value"):
        parse_prices("storage,x,,1\n", "mine.csv")


def test_override_replaces_single_rows_and_keeps_the_rest(tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text(HEAD + "storage,aws:us-east-1,,0\nstorage,local:nas,,0.001\nmin_age,local:nas,,30\n")
    table = load_prices(mine)
    assert table.storage_usd_per_gib_month("aws:us-east-1") == 0
    assert table.storage_usd_per_gib_month("local:nas") == Decimal("0.001")
    assert table.min_age_s("local:nas") == 30 * 86_400
    assert table.put_usd("aws:us-east-1") == shipped_prices().put_usd("aws:us-east-1")


def test_unreadable_override_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the price file"):
        load_prices(tmp_path / "absent.csv")


def test_egress_within_a_region_is_free_and_zones_stand_for_their_region() -> None:
    table = shipped_prices()
    assert table.egress_usd_per_gib("aws:us-east-1", "aws:us-east-1") == 0
    assert table.name("gcp:us-east1") == "gcp:us-east1-b"
    assert table.egress_usd_per_gib("gcp:us-east1", "gcp:us-east1-b") == 0


def test_break_even_is_transfer_over_storage() -> None:
    edge = shipped_prices().edge("aws:us-east-1", "azure:eastus")
    size = 1 << 24
    transfer = Decimal("0.09") / 64 + Decimal("0.0000004") + Decimal("0.000005")
    month = Decimal("0.0208") / 64
    assert edge.miss_usd(size) == pytest.approx(float(transfer))
    assert edge.t_even_s(size) == pytest.approx(float(transfer / month * SECONDS_PER_MONTH))


def test_free_storage_is_kept_forever_not_divided_by() -> None:
    assert break_even_s(1.0, 0.0) == FOREVER_S
    assert break_even_s(0.0, 0.0) == FOREVER_S
    assert break_even_s(0.0, 1.0) == 0.0


def test_an_empty_table_has_no_prices() -> None:
    with pytest.raises(ConfigError):
        PriceTable().tariff("aws:us-east-1")
