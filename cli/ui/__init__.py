"""Terminal output: texts, tables, the live view."""
