"""The audit of the paper: a sample of translations, a form on which people rate them, and what their ratings say."""
