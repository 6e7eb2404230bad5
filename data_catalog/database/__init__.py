"""DuckDB over the catalog: views, column descriptions, conservation laws and read-only queries."""
