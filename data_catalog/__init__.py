"""Data catalog: the ground floor, in rooms from `base` to `sample`; a room imports only those below it."""

import os

# ONNX Runtime 1.29 and newer, which Argos's sentence splitter and exports load, reports what it runs to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
