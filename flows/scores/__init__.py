"""A scoreboard of several models on several sets: what `vernaclip scoreboard` makes."""
