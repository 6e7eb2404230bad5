"""The sample that ships: seeded pictures of coloured shapes, written in the formats of the real upstream datasets."""
