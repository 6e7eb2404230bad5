"""Sandbox for users' SQL: a check of the query's syntax tree, and the Linux kernel's Landlock on its thread.

Landlock takes from a thread, and from all threads that it starts, the access to all files that it does not need.
"""

import ctypes
import json
import os
import re
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_catalog.errors import InputError, SettingsError

_EXPLAIN = re.compile(r"\A\s*EXPLAIN\s+(?:ANALYZE\s+)?(?=[A-Za-z])", re.IGNORECASE)
_QUESTIONS = ("SELECT_NODE", "SET_OPERATION_NODE", "CTE_NODE", "RECURSIVE_CTE_NODE")
# These make rows, read what the connection may read, or describe the catalog. Others change settings, write logs, or
# run a statement from a text.
_TABLE_FUNCTIONS = """
    generate_series range repeat repeat_row unnest json_each json_tree histogram histogram_values summary
    glob read_blob read_text read_csv read_csv_auto sniff_csv read_json read_json_auto read_json_objects
    read_json_objects_auto read_ndjson read_ndjson_auto read_ndjson_objects read_parquet parquet_scan
    parquet_bloom_probe parquet_file_metadata parquet_full_metadata parquet_kv_metadata parquet_metadata parquet_schema
    duckdb_columns duckdb_constraints duckdb_databases duckdb_dependencies duckdb_extensions duckdb_functions
    duckdb_indexes duckdb_keywords duckdb_memory duckdb_optimizers duckdb_schemas duckdb_sequences duckdb_settings
    duckdb_tables duckdb_temporary_files duckdb_types duckdb_variables duckdb_views icu_calendar_names
    pg_timezone_names pragma_collations pragma_database_size pragma_platform pragma_show pragma_storage_info
    pragma_table_info pragma_version
    """
_ONE_QUESTION = (
    "give one query that starts with SELECT, FROM, WITH, DESCRIBE, SHOW or SUMMARIZE. EXPLAIN and EXPLAIN ANALYZE may "
    "precede it, without options; PIVOT must list its values, as in PIVOT ... ON column IN (values)"
)
# Numbers of Landlock's system calls and rights, the same on every processor that our wheels support.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH, _SET_NO_NEW_PRIVS = 1, 1, 38
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# Rights on files by the version of Landlock that added them: execute, write, read, remove and make; move between
# folders; truncate; control devices.
_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}


def require_read_only_query(connection: Any, sql: str) -> None:
    """Check that a text is one query that only reads, at any depth: DuckDB 2 accepts a COPY inside of a WITH.

    Raises:
        SettingsError: the text has no statement or several, or a part of it may write.
        duckdb.Error: the text is not SQL.
    """
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise SettingsError("DuckDB refuses the query: it is not UTF-8") from error
    # The full name, since a catalog may define a function of this name.
    asked = connection.execute("SELECT system.main.json_serialize_sql(?)", [_EXPLAIN.sub("", sql)])
    [[text]] = asked.fetchall()
    try:
        tree = json.loads(text, object_hook=_refuse_writes)
    except RecursionError as error:
        raise SettingsError("DuckDB refuses the query: it is nested too deeply") from error
    if tree.get("error_type") == "parser":
        connection.extract_statements(sql)  # raises an error that shows the position
    if tree["error"] or len(tree["statements"]) != 1:
        raise SettingsError(f"DuckDB refuses the query: {_ONE_QUESTION}")


def _refuse_writes(part: dict[str, Any]) -> dict[str, Any]:
    kind = str(part.get("type"))
    if ("cte_map" in part or kind.endswith("_NODE")) and kind not in _QUESTIONS:
        raise SettingsError(f"DuckDB refuses the query: a part of it does more than read ({kind})")
    if kind == "TABLE_FUNCTION" and (name := part["function"]["function_name"].lower()) not in _TABLE_FUNCTIONS.split():
        raise SettingsError(f"DuckDB refuses the query: {name} is not one of the table functions that only read")
    return part


def landlock_version() -> int:
    """Return the kernel's version of Landlock; 0 if it has none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)))


def restrict_thread(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """Restrict the calling thread, and all threads that it will start, to the given files, for good.

    Without Landlock in the kernel, nothing is restricted.

    Args:
        readable: folders and files that may be read; missing ones are skipped.
        writable: folders with all rights.

    Raises:
        InputError: the kernel has Landlock and refuses to apply it.
    """
    version = landlock_version()
    if version == 0:
        return
    rights = sum(right for since, right in _RIGHTS.items() if since <= version)
    try:
        ruleset = _call("syscall", _CREATE_RULESET, struct.pack("=Q", rights), ctypes.c_size_t(8), 0)
        try:
            for place in readable:
                if place.exists():
                    _allow(ruleset, place, _READ_FILE | _READ_DIR if place.is_dir() else _READ_FILE)
            for place in writable:
                _allow(ruleset, place, rights)
            _call("prctl", _SET_NO_NEW_PRIVS, *(ctypes.c_ulong(value) for value in (1, 0, 0, 0)))
            _call("syscall", _RESTRICT_SELF, ruleset, 0)
        finally:
            os.close(ruleset)
    except OSError as error:
        raise InputError(
            f"the kernel refuses to restrict the query's access to files ({error}): see `man landlock`"
        ) from error


def _allow(ruleset: int, place: Path, rights: int) -> None:
    descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        _call("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(function: str, *arguments: object) -> int:
    found = int(getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found
