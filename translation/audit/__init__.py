"""The audit of translations, as in the paper: a sample, a form for its raters, and a report of their ratings."""
