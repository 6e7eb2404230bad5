"""Files from the web: what upstream offers under which licence, and one guarded, resumable, verified way to get it."""
