"""Cleaning and language identification compared with common libraries: benchmarks/cleaning.py [--data FOLDER].

The two parts also run alone: `text_cleaning.py` and `language_identification.py` describe their comparisons.
"""

import sys

import language_identification
import text_cleaning
from data_folder import options_with_data
from harness import judge

if __name__ == "__main__":
    options = options_with_data(__doc__).parse_args()
    found = [text_cleaning.measure(options), language_identification.measure(options)]
    sys.exit(max([judge(values, goals, "cleaning-") for values, goals in found]))
