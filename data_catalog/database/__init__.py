"""DuckDB over the catalog: views, column docs, conservation laws and the locked-down query."""
