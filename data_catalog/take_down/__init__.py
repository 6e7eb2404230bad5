"""Taking down: which rows tombstones mean, what is left of them, and how a root gets rid of everything else."""
