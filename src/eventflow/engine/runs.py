"""What an engine answers with: sequences whose items are made only where somebody looks at one.

On the everyday way nobody does. A batch of events is accepted, routed, run and ended as a batch;
a `Receipt` or a `Lease` for each would cost more than all the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, overload

from eventflow.engine.protocol import Lease, Receipt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventflow.engine.protocol import Run, Way


T = TypeVar("T")


class Lazy(Sequence[T]):
    """Compares as the list of its items."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return id(self)


class Receipts(Lazy[Receipt]):
    """The answers to the events of one `accept`, in their order."""

    __slots__ = ("_given", "_refs", "duplicates", "ways")

    def __init__(
        self,
        refs: Sequence[str],
        given: Sequence[Receipt] | None = None,
        ways: Sequence[Way] = (),
    ) -> None:
        self._refs = refs
        """Where all are new: theirs."""
        self._given = given
        self.duplicates = 0 if given is None else sum(receipt.duplicate for receipt in given)
        self.ways = ways
        """Those they have taken already: they are in these topics, and not in common any more."""

    def __len__(self) -> int:
        return len(self._refs if self._given is None else self._given)

    @overload
    def __getitem__(self, at: int) -> Receipt: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Receipt]: ...
    def __getitem__(self, at: int | slice) -> Receipt | Sequence[Receipt]:
        if self._given is not None:
            return self._given[at]
        if isinstance(at, slice):
            refs = self._refs  # a slice of them would be made, and walked by Python
            return [Receipt(refs[index]) for index in range(*at.indices(len(refs)))]
        return Receipt(self._refs[at])


class Leases(Lazy[Lease]):
    """What was leased at once: single leases and runs, in the order in which they are to start.

    To look at an item of a run is to take it out of the run (`Run.lease`). A stage that can work
    on runs looks at `parts` instead.
    """

    __slots__ = ("_items", "_length", "parts")

    def __init__(self, parts: Sequence[Lease | Run] = ()) -> None:
        self.parts = parts
        self._items: list[Lease] | None = None
        self._length = sum(1 if isinstance(part, Lease) else len(part) for part in parts)

    def __len__(self) -> int:
        return self._length

    def _all(self) -> list[Lease]:
        if self._items is None:
            self._items = []
            for part in self.parts:
                if isinstance(part, Lease):
                    self._items.append(part)
                else:
                    self._items += [part.lease(index) for index in range(len(part))]
            self.parts = self._items
        return self._items

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._all())

    @overload
    def __getitem__(self, at: int) -> Lease: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Lease]: ...
    def __getitem__(self, at: int | slice) -> Lease | Sequence[Lease]:
        return self._all()[at]
