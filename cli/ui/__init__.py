"""Terminal output: texts, tables and the live view."""
