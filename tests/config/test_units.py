"""Values with units: what each text means, and that what is written can be read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.config.units import (
    Share,
    format_duration,
    format_rate,
    format_share,
    format_size,
    parse_duration,
    parse_rate,
    parse_share,
    parse_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DURATIONS = {
    "0s": 0.0,
    "1ms": 0.001,
    "250ms": 0.25,
    "1500ms": 1.5,
    "10s": 10.0,
    "5m": 300.0,
    "90m": 5_400.0,
    "1h": 3_600.0,
    "7d": 604_800.0,
}
SIZES = {
    "0B": 0,
    "100B": 100,
    "512KiB": 524_288,
    "1MiB": 1_048_576,
    "10GiB": 10_737_418_240,
    "2TiB": 2_199_023_255_552,
    "10KB": 10_000,
    "3MB": 3_000_000,
    "10GB": 10_000_000_000,
    "1TB": 1_000_000_000_000,
}
RATES = {"0/s": 0.0, "50/s": 50.0, "100/m": 100 / 60, "5/h": 5 / 3_600, "1/d": 1 / 86_400}
SHARES = {"0%": 0.0, "0.1%": 0.001, "2.5%": 0.025, "10%": 0.1, "100%": 1.0}

NOT_DURATIONS = (
    "",
    "5",
    "s",
    "5 s",
    " 5s",
    "5s\n",
    "5S",
    "5min",
    "-5s",
    "+5s",
    "1e3s",
    "1.s",
    ".5s",
)
NOT_SIZES = ("", "5", "5mib", "5M", "1.5B", "0.3KiB", "-1B", "1 MiB", "٣B")
NOT_RATES = ("", "5", "5/", "/s", "5/ms", "5 /s", "5/sec", "-1/s")
NOT_SHARES = ("", "5", "%", "101%", "100.1%", "-1%", "10 %")


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items())
def test_a_duration_reads_and_writes(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_a_size_reads_and_writes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert format_size(size) == text


@pytest.mark.parametrize(("text", "per_s"), RATES.items())
def test_a_rate_reads_and_writes(text: str, per_s: float) -> None:
    assert parse_rate(text) == per_s
    assert format_rate(per_s) == text


@pytest.mark.parametrize(("text", "fraction"), SHARES.items())
def test_a_share_reads_and_writes(text: str, fraction: float) -> None:
    assert parse_share(text) == Share(fraction)
    assert format_share(Share(fraction)) == text


@pytest.mark.parametrize(
    ("parse", "texts"),
    [
        (parse_duration, NOT_DURATIONS),
        (parse_size, NOT_SIZES),
        (parse_rate, NOT_RATES),
        (parse_share, NOT_SHARES),
    ],
)
def test_what_has_no_unit_or_another_form_is_refused(
    parse: Callable[[str], object], texts: tuple[str, ...]
) -> None:
    for text in texts:
        with pytest.raises(ValueError, match="expected"):
            parse(text)


def test_other_ways_to_write_the_same() -> None:
    """A fraction is allowed where it comes out even."""
    assert parse_duration("1.5s") == parse_duration("1500ms") == 1.5
    assert parse_duration("0.5h") == parse_duration("30m")
    assert parse_size("1.5KiB") == parse_size("1536B") == 1_536
    assert parse_rate("0.5/s") == parse_rate("30/m")


@given(st.integers(0, 10**12))
def test_any_duration_in_microseconds_comes_back(microseconds: int) -> None:
    seconds = microseconds / 1e6

    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 2**62))
def test_any_size_comes_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**6), st.sampled_from("smhd"))
def test_any_rate_comes_back(number: int, unit: str) -> None:
    per_s = parse_rate(f"{number}/{unit}")

    assert parse_rate(format_rate(per_s)) == per_s


@given(st.integers(0, 10_000))
def test_any_share_in_hundredths_of_a_percent_comes_back(hundredths: int) -> None:
    share = parse_share(f"{hundredths / 100}%")

    assert parse_share(format_share(share)) == share
