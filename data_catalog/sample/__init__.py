"""Sample data: seeded pictures of coloured shapes with captions, in the formats of the real upstream datasets."""
