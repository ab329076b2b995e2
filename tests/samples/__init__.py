"""What people bring as inputs: for `scripts/formats`, and for the tests that hold it to DuckDB."""
