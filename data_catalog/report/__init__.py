"""The page of a build: one file of HTML that says what a snapshot holds and what became of every caption."""
