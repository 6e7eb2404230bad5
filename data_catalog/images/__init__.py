"""Images: guarded fetching and normalising, each in a killable child process."""
