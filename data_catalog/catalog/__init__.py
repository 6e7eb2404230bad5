"""What a root contains: snapshots, their history and checks, and SQL over them."""
