"""Filter taps and number formats, used by operators and backends."""
