"""What leaves a catalog: cards, metadata and exports that other people's tools read."""

# What an export is made for, and the name of its folder.
HUGGINGFACE, WEBDATASET, URLS = "huggingface", "webdataset", "urls"
FORMATS = (HUGGINGFACE, WEBDATASET, URLS)
