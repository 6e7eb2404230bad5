"""The engines: what each needs to be opened, and how it translates."""
