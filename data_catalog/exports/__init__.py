"""What leaves a catalog: cards, metadata and exports that other people's tools read."""
