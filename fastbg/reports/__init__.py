"""The report of a run: tables, verdicts, figures, and the page that shows them."""
