"""JSON Schemas by event type: what an event's data must look like to be let in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema_rs

from eventflow.errors import ConfigError, InvalidEvent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from eventflow.event import Event

_FAULTS_MAX = 5
"""Faults named for one event: the first tell enough."""


class Schemas:
    """Compiled schemas. Draft 2020-12 unless a schema says otherwise; nothing is fetched."""

    def __init__(self, by_type: Mapping[str, Any] | None = None) -> None:
        self._validators: dict[str, Any] = {}
        for type, schema in (by_type or {}).items():
            try:
                self._validators[type] = jsonschema_rs.validator_for(schema)
            except (ValueError, jsonschema_rs.ValidationError) as error:
                raise ConfigError(
                    [f"[schemas] {type!r}: not a usable JSON Schema: {error}"]
                ) from error

    @classmethod
    def read(cls, paths: Mapping[str, Path]) -> Schemas:
        """Read schema files.

        Raises:
            ConfigError: one can't be read, is no JSON, or no schema; the message names it.
        """
        found, problems = {}, []
        for type, path in paths.items():
            try:
                found[type] = json.loads(path.read_text())
            except (OSError, ValueError) as error:
                problems.append(
                    f"[schemas] {type!r}: expected a JSON Schema in {path}, got {error}"
                )
        if problems:
            raise ConfigError(problems)
        return cls(found)

    def __bool__(self) -> bool:
        return bool(self._validators)

    def problems(self, event: Event) -> list[str]:
        """Return what in the event's data breaks the schema of its type: a sentence each."""
        validator = self._validators.get(event.type)
        if validator is None:
            return []
        try:
            data = event.data
        except InvalidEvent as error:
            return list(error.problems)
        faults = []
        for fault in validator.iter_errors(data):
            where = "".join(f"/{part}" for part in fault.instance_path)
            faults.append(f"data{where}: {fault.message}")
            if len(faults) == _FAULTS_MAX:
                break
        return faults
