"""Data catalog: the ground floor, in rooms from `base` to `sample`; a room imports only those below it."""
