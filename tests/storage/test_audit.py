"""What the chain is made of, and what a check of it finds with and without a key or a head."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf, nan
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.delivery import Reason
from eventflow.storage.audit import (
    FAULTS_SHOWN,
    FIRST_PREVIOUS,
    Check,
    Head,
    canonical,
    link,
    verify,
)
from eventflow.storage.protocol import AuditRow

KEY = b"k"

# Written down once, by Python's json, hashlib and hmac alone: whoever checks an export does so.
GOLDEN_ROWS: list[dict[str, Any]] = [
    {
        "at": 1_700_000_000.25,
        "what": "delivery.retry",
        "ref": "r1",
        "wait_s": 0.3374,
        "because": {"draw": 0.3374, "factor": 2.0, "max_s": 300},
    },
    {
        "at": 1_700_000_001,
        "what": "delivery.parked",
        "ref": "r1",
        "tally": {"attempts": 5},
        "due_at": None,
    },
    {
        "at": 1_700_000_002.000001,
        "what": "topic.paused",
        "by": 'Zoë "ops"',
        "why": "a\nb/c",
    },
]
GOLDEN_TEXTS = [
    (
        '{"at":"2023-11-14T22:13:20.250000Z","because":{"draw":"0.3374","factor":"2.0",'
        '"max_us":300000000},"chain":"n1","format":1,"ref":"r1","seq":1,"wait_us":337400,'
        '"what":"delivery.retry"}'
    ),
    (
        '{"at":"2023-11-14T22:13:21.000000Z","chain":"n1","due_at":null,"format":1,"ref":"r1",'
        '"seq":2,"tally":{"attempts":5},"what":"delivery.parked"}'
    ),
    (
        '{"at":"2023-11-14T22:13:22.000001Z","by":"Zoë \\"ops\\"","chain":"n1","format":1,"seq":3,'
        '"what":"topic.paused","why":"a\\nb/c"}'
    ),
]
GOLDEN_HASHES = [
    "ade36e6d9efd4ddde2333d5895a5da82e9bfd61a626cf69b89467425700f6354",
    "6473fb36d1449f404bb69028bccc4b7e6582045c9a11bb922a0ea55dc7009504",
    "876e33cacf54bbfa43dbeff90a140b9c87de065225fc50e1b6fd40e5e26a4e0b",
]
GOLDEN_KEYED_HASHES = [
    "5b08c4e767b85bf58a9c023aa8576625b8e9c11c4cf884e7a4aed572abbf94f5",
    "f3cfab4b7b594f1721fa0456b62f20987434e218d45e16b164e27e9485f36705",
    "28cc683812c2f0d802e4df5e0f56dc86dc14ce9bed3d6db7b4214c1014abd0eb",
]


def chain_of(
    rows: list[dict[str, Any]], key: bytes | None = None, chain: str = "n1", keyed_from: int = 1
) -> list[AuditRow]:
    """Return rows chained, those from seq `keyed_from` on under the key."""
    found: list[AuditRow] = []
    previous = FIRST_PREVIOUS
    for seq, row in enumerate(rows, 1):
        text = canonical({**row, "chain": chain, "seq": seq, "format": 1})
        previous = link(previous, text, key if seq >= keyed_from else None)
        found.append(AuditRow(chain, seq, text, previous))
    return found


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"at": n, "n": n} for n in range(1, count + 1)]


def edited(rows: list[AuditRow], at: int, **changes: Any) -> list[AuditRow]:
    """Return the rows with fields of the one at an index changed."""
    return [*rows[:at], msgspec.structs.replace(rows[at], **changes), *rows[at + 1 :]]


class TestCanonical:
    @pytest.mark.parametrize(
        ("key", "hashes"), [(None, GOLDEN_HASHES), (KEY, GOLDEN_KEYED_HASHES)], ids=["plain", "key"]
    )
    def test_three_rows_have_these_bytes_and_hashes(
        self, key: bytes | None, hashes: list[str]
    ) -> None:
        rows = chain_of(GOLDEN_ROWS, key)

        assert [row.row.decode() for row in rows] == GOLDEN_TEXTS
        assert [row.hash.hex() for row in rows] == hashes
        assert verify(rows, key).ok

    @pytest.mark.parametrize(
        ("row", "text"),
        [
            ({"wait_s": 1.5}, '{"wait_us":1500000}'),
            ({"wait_s": 2}, '{"wait_us":2000000}'),
            ({"wait_s": 0.0000004}, '{"wait_us":0}'),
            ({"wait_s": None}, '{"wait_us":null}'),
            ({"waits_s": [1.0, 0.5, None]}, '{"waits_us":[1000000,500000,null]}'),
            ({"waits_s": ()}, '{"waits_us":[]}'),
            ({"wait_s": inf}, '{"wait_us":"inf"}'),
            ({"wait_s": 1e300}, f'{{"wait_us":"{round(1e300 * 10**6)}"}}'),
            ({"class_s": "x"}, '{"class_s":"x"}'),
            ({"class_s": [1.5, "x"]}, '{"class_s":["1.5","x"]}'),
            ({"is_s": True, "is_at": False}, '{"is_at":false,"is_s":true}'),
            ({"at": 0.5}, '{"at":"1970-01-01T00:00:00.500000Z"}'),
            ({"due_at": 1}, '{"due_at":"1970-01-01T00:00:01.000000Z"}'),
            ({"due_at": None, "at": "noon"}, '{"at":"noon","due_at":null}'),
            ({"due_at": inf}, '{"due_at":"inf"}'),
            ({"due_at": 1e12}, '{"due_at":"1000000000000.0"}'),
            ({"share": 0.1}, '{"share":"0.1"}'),
            ({"share": nan}, '{"share":"nan"}'),
            ({"shares": [0.1, [1.0]]}, '{"shares":["0.1",["1.0"]]}'),
            ({"a": {"b": [{"c_s": 1.0}]}}, '{"a":{"b":[{"c_us":1000000}]}}'),
            ({"a": MappingProxyType({"b_s": 1})}, '{"a":{"b_us":1000000}}'),
            ({"n": 2**63 - 1, "m": -(2**63)}, '{"m":-9223372036854775808,"n":9223372036854775807}'),
            ({"n": 2**63}, '{"n":"9223372036854775808"}'),
            ({"text": "\ud800 é"}, '{"text":"? é"}'),
            ({"\ud800": 1}, '{"?":1}'),
            ({"b": 1, "a": 2, "é": 3, "Z": 4}, '{"Z":4,"a":2,"b":1,"é":3}'),
            ({"kind": Reason.EXPIRED}, '{"kind":"expired"}'),
            ({}, "{}"),
        ],
        ids=repr,
    )
    def test_is_written_by_these_rules(self, row: dict[str, Any], text: str) -> None:
        assert canonical(row).decode() == text

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"a": b"x"}, "audit row: a: expected what JSON holds, got bytes"),
            ({"a": {"b": [object()]}}, "audit row: b: expected what JSON holds, got object"),
            ({"a": {1}}, "audit row: a: expected what JSON holds, got set"),
            ({1: 2}, "audit row: expected text as a name, got 1"),
        ],
    )
    def test_what_json_does_not_hold_is_refused(self, row: Any, message: str) -> None:
        with pytest.raises(TypeError) as caught:
            canonical(row)

        assert str(caught.value) == message

    def test_two_values_never_share_a_name(self) -> None:
        with pytest.raises(ValueError, match="two values have one name"):
            canonical({"wait_s": 1.0, "wait_us": 3})

    @given(
        st.dictionaries(
            st.text(max_size=5) | st.sampled_from(["at", "due_at", "wait_s"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["a", "b_s", "c_at"]), inner, max_size=3)
                ),
            ),
            max_size=4,
        )
    )
    def test_no_float_is_left_and_any_json_writes_the_same(self, row: dict[str, Any]) -> None:
        def refuse(text: str) -> None:
            raise AssertionError(f"a float was written: {text}")

        text = canonical(row).decode()

        back = json.loads(text, parse_float=refuse, parse_constant=refuse)
        assert text == json.dumps(back, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class TestCheck:
    @pytest.mark.parametrize("key", [None, KEY])
    def test_a_chain_as_it_was_written_is_in_order(self, key: bytes | None) -> None:
        verdict = verify(chain_of(numbered(5), key), key)

        assert verdict.ok
        assert verdict.rows == 5
        assert verdict.faults == ()
        assert verdict.against == ("itself" if key is None else "the key")

    def test_nothing_is_in_order(self) -> None:
        assert verify([]).ok

    @pytest.mark.parametrize("key", [None, KEY])
    @pytest.mark.parametrize("at", range(5))
    def test_an_edit_is_found(self, at: int, key: bytes | None) -> None:
        rows = chain_of(numbered(5), key)
        rows = edited(rows, at, row=rows[at].row.replace(b'"n":', b'"N":'))

        verdict = verify(rows, key)

        assert not verdict.ok
        assert verdict.faults[:1] == (
            (
                f"chain 'n1', seq {at + 1}: is not what was hashed: "
                "it, its hash or the hash before was changed"
            ),
        )

    def test_a_changed_hash_is_found(self) -> None:
        verdict = verify(edited(chain_of(numbered(3)), 1, hash=bytes(32)))

        assert [fault[:21] for fault in verdict.faults] == [
            "chain 'n1', seq 2: is",
            "chain 'n1', seq 3: is",
        ]

    def test_an_edit_with_a_new_hash_breaks_the_row_behind_it(self) -> None:
        rows = chain_of(numbered(3))
        other = rows[1].row.replace(b"2", b"7", 1)
        rows = edited(rows, 1, row=other, hash=link(rows[0].hash, other))

        assert any("seq 3: is not what was hashed" in fault for fault in verify(rows).faults)

    @pytest.mark.parametrize(("gone", "missing"), [(0, "1 to 1"), (2, "3 to 3")])
    def test_a_gap_is_found(self, gone: int, missing: str) -> None:
        rows = chain_of(numbered(5))
        del rows[gone]

        assert verify(rows).faults == (
            f"chain 'n1', seq {gone + 2}: rows {missing} before it are missing",
        )

    def test_a_gap_that_was_renumbered_is_found(self) -> None:
        rows = chain_of(numbered(3))
        rows = [rows[0], msgspec.structs.replace(rows[2], seq=2)]

        assert not verify(rows).ok

    def test_a_row_that_names_another_place_is_found(self) -> None:
        """Even where all hashes are right: rows are what is exported, not columns."""
        text = canonical({"at": 1, "chain": "n1", "seq": 7, "format": 1})
        other = canonical({"at": 1, "chain": "n1", "seq": 1, "format": 2})
        bare = b"[]"

        faults = [
            verify([AuditRow("n1", 1, row, link(FIRST_PREVIOUS, row))]).faults[0]
            for row in (text, other, bare)
        ]

        assert faults[:2] == [
            "chain 'n1', seq 1: says that it is seq 7 of chain 'n1'",
            "chain 'n1', seq 1: has format 2, this EventFlow reads format 1",
        ]
        assert faults[2].startswith("chain 'n1', seq 1: is no audit row:")

    def test_a_swap_is_found(self) -> None:
        rows = chain_of(numbered(4))
        listed = [rows[0], rows[2], rows[1], rows[3]]
        in_place = [
            rows[0],
            msgspec.structs.replace(rows[2], seq=2),
            msgspec.structs.replace(rows[1], seq=3),
            rows[3],
        ]

        assert "chain 'n1', seq 2: stands behind seq 3: swapped or doubled" in verify(listed).faults
        assert not verify(in_place).ok

    def test_chains_may_be_mixed_and_are_held_apart(self) -> None:
        one, two = chain_of(numbered(3)), chain_of(numbered(3), chain="n2")
        mixed = [row for pair in zip(one, two, strict=True) for row in pair]
        crossed = [*one[:2], msgspec.structs.replace(two[2], chain="n1"), *two]

        assert verify(mixed).ok
        assert not verify(crossed).ok

    def test_the_list_of_faults_has_an_end(self) -> None:
        verdict = verify(chain_of(numbered(FAULTS_SHOWN + 50), b"another key"), KEY)

        assert len(verdict.faults) == FAULTS_SHOWN + 1
        assert verdict.faults[-1] == "and 51 more"  # the chain as a whole has one, too

    @given(st.data())
    def test_in_steps_the_verdict_is_the_same(self, data: st.DataObject) -> None:
        rows = data.draw(
            st.permutations([*chain_of(numbered(4)), *chain_of(numbered(3), KEY, "x")])
        )
        cut = data.draw(st.integers(0, len(rows)))
        check = Check(KEY, [head_of(rows[0])])

        check.feed(rows[:cut])
        check.feed(rows[cut:])

        assert check.verdict() == verify(rows, KEY, [head_of(rows[0])])


def head_of(row: AuditRow) -> Head:
    return Head(row.chain, row.seq, row.hash)


Forge = Callable[[list[AuditRow]], list[AuditRow]]


def cut_tail(rows: list[AuditRow]) -> list[AuditRow]:
    return rows[:3]


def cut_whole(_: list[AuditRow]) -> list[AuditRow]:
    return []


def make_anew(_: list[AuditRow]) -> list[AuditRow]:
    return chain_of([{"at": n, "n": "forged"} for n in range(1, 6)])


def make_tail_anew(rows: list[AuditRow]) -> list[AuditRow]:
    previous = rows[2].hash
    forged: list[AuditRow] = []
    for seq in (4, 5):
        text = canonical({"at": 1, "chain": "n1", "seq": seq, "format": 1})
        previous = link(previous, text)
        forged.append(AuditRow("n1", seq, text, previous))
    return [*rows[:3], *forged]


class TestWhatAKeyAndAHeadAreFor:
    @pytest.mark.parametrize(
        ("forge", "itself", "the_key", "a_head"),
        [
            (cut_tail, False, False, True),
            (cut_whole, False, False, True),
            (make_anew, False, True, True),
            (make_tail_anew, False, True, True),
        ],
    )
    def test_found_by(self, forge: Forge, itself: bool, the_key: bool, a_head: bool) -> None:  # noqa: FBT001  # a table of answers
        """The table in audit.py: a cut tail is found by a head alone."""
        plain, keyed = chain_of(numbered(5)), chain_of(numbered(5), KEY)

        assert verify(forge(plain)).ok is not itself
        assert verify(forge(keyed), KEY).ok is not the_key
        assert verify(forge(plain), None, [head_of(plain[4])]).ok is not a_head
        assert verify(forge(keyed), KEY, [head_of(keyed[4])]).ok is not a_head

    def test_the_verdict_says_what_it_had(self) -> None:
        rows = chain_of(numbered(2), KEY)
        heads = [head_of(rows[0]), head_of(rows[1])]

        assert verify(rows, KEY, heads[:1]).against == "the key and an exported head"
        assert verify(rows, KEY, heads).against == "the key and 2 exported heads"
        assert verify(chain_of(numbered(2)), None, [head_of(chain_of(numbered(2))[1])]) == (
            msgspec.structs.replace(verify(chain_of(numbered(2))), against="an exported head")
        )

    def test_a_cut_tail_and_a_chain_made_anew_are_told_apart(self) -> None:
        rows = chain_of(numbered(5))

        cut = verify(rows[:3], None, [head_of(rows[4])])
        anew = verify(make_anew([]), None, [head_of(rows[3])])

        assert cut.faults == (
            (
                "chain 'n1', seq 5: is missing, but was exported as a head: "
                "the tail was cut off behind seq 3"
            ),
        )
        assert anew.faults == (
            "chain 'n1', seq 4: differs from its exported head: the chain was made anew",
        )

    def test_a_chain_that_has_grown_since_still_fits_its_head(self) -> None:
        rows = chain_of(numbered(5))

        assert verify(rows, None, [head_of(rows[1]), head_of(rows[3])]).ok

    def test_heads_that_contradict_each_other_cannot_both_fit(self) -> None:
        rows = chain_of(numbered(2))
        heads = [head_of(rows[1]), Head("n1", 2, bytes(32))]

        assert len(verify(rows, None, heads).faults) == 1

    def test_the_wrong_key_fits_nothing(self) -> None:
        assert not verify(chain_of(numbered(2), KEY), b"other").ok
        assert not verify(chain_of(numbered(2), KEY)).ok

    def test_rows_from_before_there_was_a_key_are_vouched_for_by_the_first_under_it(self) -> None:
        rows = chain_of(numbered(5), KEY, keyed_from=3)

        assert verify(rows, KEY).ok

    def test_without_a_row_under_the_key_nobody_vouches(self) -> None:
        verdict = verify(chain_of(numbered(5)), KEY)

        assert verdict.faults == (
            "chain 'n1': no row is under the key: made anew without it, or before there was one",
        )

    def test_before_the_key_made_anew_is_found_by_the_rows_behind(self) -> None:
        rows = chain_of(numbered(5), KEY, keyed_from=3)
        forged = chain_of([{"at": 9}, {"at": 9}])

        assert not verify([*forged, *rows[2:]], KEY).ok


class TestHead:
    def test_its_text_names_it(self) -> None:
        head = Head("node:1", 7, bytes(range(32)))

        assert head.text == f"node:1:7:{bytes(range(32)).hex()}"
        assert Head.of(f" {head.text}\n") == head

    @pytest.mark.parametrize(
        "text", ["", "n1", "n1:1", "n1:x:00", "n1:1:00", f"n1:0:{'0' * 64}", f"n1:1:{'g' * 64}"]
    )
    def test_other_text_names_none(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"head: expected <chain>:<seq>:<64 hex digits>, got"):
            Head.of(text)
