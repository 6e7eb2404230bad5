"""Cleaning and language identification beside what a user would do otherwise: benchmarks/cleaning.py [--data FOLDER].

The two parts run by themselves, too: `text_cleaning.py` and `language_identification.py`, which say what they compare.
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
