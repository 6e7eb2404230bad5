"""Formats of exports by name, which is also the name of the export's folder, with a line for the command's help.

`data_catalog/exports/sinks.py` has a writer for each. The command line reads this table, so it imports nothing heavy.
"""

FORMATS = {
    "huggingface": 'Parquet shards with a dataset card and Croissant metadata, for datasets.load_dataset("FOLDER")',
    "webdataset": "tar shards with sizes.json, for webdataset and open_clip's trainer",
    "urls": "addresses, captions and rights in Parquet, without pixels, for img2dataset",
}
