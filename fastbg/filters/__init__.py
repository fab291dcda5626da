"""Filter taps and number formats: what operators and backends alike stand on."""
