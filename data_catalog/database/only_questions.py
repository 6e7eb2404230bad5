"""The wall around SQL of others that reads it: the tree of a statement shows all that it would do."""

import json
import re
from typing import Any

from data_catalog.errors import ConfigError

_EXPLAIN = re.compile(r"\A\s*EXPLAIN\s+(?:ANALYZE\s+)?(?=[A-Za-z])", re.IGNORECASE)
_QUESTIONS = ("SELECT_NODE", "SET_OPERATION_NODE", "CTE_NODE", "RECURSIVE_CTE_NODE")
# They make rows, read what the connection may read, or tell of the catalog. Others change settings, write logs, or hide
# a statement in a text.
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
    "one question at a time, as SELECT, FROM, WITH, DESCRIBE, SHOW and SUMMARIZE ask it; EXPLAIN and EXPLAIN ANALYZE "
    "stand in front of one without options, and PIVOT names its values, as in PIVOT ... ON column IN (values)"
)


def refuse_all_but_one_question(connection: Any, sql: str) -> None:
    """Refuse what does anything but read, at any depth: DuckDB 2 takes a COPY inside of a WITH.

    Raises:
        ConfigError: the text holds no statement, several, or one that is not a question through and through.
        duckdb.Error: the text is no SQL.
    """
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise ConfigError("DuckDB refuses the query: it is not UTF-8") from error
    # In full, since a catalog may have a function of this name.
    asked = connection.execute("SELECT system.main.json_serialize_sql(?)", [_EXPLAIN.sub("", sql)])
    [[text]] = asked.fetchall()
    try:
        tree = json.loads(text, object_hook=_refuse_what_may_write)
    except RecursionError as error:
        raise ConfigError("DuckDB refuses the query: it is nested too deeply") from error
    if tree.get("error_type") == "parser":
        connection.extract_statements(sql)  # raises, and shows the place
    if tree["error"] or len(tree["statements"]) != 1:
        raise ConfigError(f"DuckDB refuses the query: {_ONE_QUESTION}")


def _refuse_what_may_write(part: dict[str, Any]) -> dict[str, Any]:
    kind = str(part.get("type"))
    if ("cte_map" in part or kind.endswith("_NODE")) and kind not in _QUESTIONS:
        raise ConfigError(f"DuckDB refuses the query: a part of it is no question ({kind})")
    if kind == "TABLE_FUNCTION" and (name := part["function"]["function_name"].lower()) not in _TABLE_FUNCTIONS.split():
        raise ConfigError(f"DuckDB refuses the query: {name} is none of the table functions that only read")
    return part
