"""Asking the web for images: guarded connections, manners, outcomes, and what is known already."""
