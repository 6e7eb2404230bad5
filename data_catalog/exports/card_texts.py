"""What every dataset card says."""

TERMS = """The terms are upstream's own words about each dataset as a whole. An image may have a licence of its own, in
its row's `license`, with `attribution` and `page_url`; those hold for the image, whatever the dataset says. Who passes
images or captions on is bound by both. Nobody has checked that upstream states them rightly."""

WITHHELD = """Their pixels are not passed on, since no licence is known that allows it or the export was not to hold
them. Those that have an address on the web are listed with captions and address, to be fetched by whoever may."""

MAKING = """Upstream files were read, captions cleaned, translated where they were in another language, and checked;
images were fetched, decoded, turned upright, converted to RGB, resized and encoded anew; repeats were dropped, within
and across sources. `captions/` of the snapshot tells the story of every caption, those that were dropped included."""

TRANSLATION = """Nobody revised translations of ours. They carry mistakes: wrong senses, lost or invented details,
stiff wording. Rules drop those that are in the wrong language, copied, endless or that lose numbers; fluent mistakes
pass. `origins` says for each caption who made it, `translators` who translated it, `source_captions` what it was made
from, where upstream or we have that."""

MARKED_PAIRS = """Pairs that are `marked` hold something of a test set. They are in no split, and no training reads
them."""

UPSTREAM_SPLITS = """An image of which upstream states a split is in that split; all others are drawn by a hash of
their identity."""

SETTINGS = "What decided what is in the dataset; where files lay and how fast the machine was did not."

REMOVAL = """Ask whoever gave you the dataset. They remove an image, everything from a site, or everything that looks
like a picture with `vernaclip forget`, which rewrites the dataset without it, removes older snapshots and exports
that hold it, and keeps it out of later builds. If you hold a copy, remove it there as well."""

NOT_FILTERED = (
    "Nudity, violence, hate and other harmful content, in pictures or text: no classifier looked for it.",
    "Faces, number plates, addresses and other personal data in pictures: nothing was blurred.",
    "Names of people in captions: only captions that are almost nothing but names were dropped, where the recipe says "
    "so.",
    "Watermarks, logos, screenshots, advertising and text inside pictures.",
    "Whether a caption fits its picture: no model compared them.",
    "Copyright of single images, beyond what upstream states.",
    "Opt-outs that are not said over HTTP: `robots.txt` and `X-Robots-Tag` were followed as the recipe says.",
)

ABLATIONS = (
    "Models were trained with and without a filter, of equal steps, and scored on the same held-out images "
    "(`vernaclip ablate`). This says what a filter does to this dataset and these models, not what it does elsewhere."
)
LIMITS = (
    "Web datasets over-represent the English-speaking and Western world: places, people, food, holidays. Translating "
    "English captions changes the language, not the pictures nor the point of view.",
    "Captions repeat their writers' stereotypes of gender, age, ethnicity and work, and translation adds some: a "
    "language with grammatical gender needs one where English has none, and engines guess by stereotype.",
    "Which images are still on the web is no random draw: old, small and famous sites are kept unevenly.",
    "Duplicates are found by hashes and thumbnails: other crops of one picture, or frames of one film, may stay, and "
    "may be in several splits.",
    "Splits go by image, not by site or photographer.",
    "Good for training and comparing image-text models. Not good enough to decide about people with.",
)

COLUMNS = {
    "sample_id": "identity of the image, its source in front",
    "source": "which source it is from",
    "split": "train, val, test; in `datasets` val is called validation",
    "image": "the picture, JPEG, WebP or PNG, RGB, upright",
    "width": "of the picture as it is here, in pixels",
    "height": "of the picture as it is here, in pixels",
    "original_width": "of the picture as it came, in pixels",
    "original_height": "of the picture as it came, in pixels",
    "sha256": "of the bytes as they came, not of those here",
    "phash": "perceptual hash, 16 hexadecimal digits",
    "original": "the bytes as they came, where the recipe keeps them, with what they say of camera, place and author",
    "url": "where the image was on the web; empty if it was local",
    "license": "of the image, in upstream's words; empty if upstream says nothing",
    "attribution": "whom to credit, in upstream's words",
    "page_url": "a page that shows the image, or the photographer's",
    "caption_ids": "identity of each caption",
    "captions": "in the dataset's language",
    "source_captions": "each caption as upstream has it",
    "source_langs": "language of each source caption",
    "translators": "fingerprint of our engine, or whom upstream names; `native`: nobody translated",
    "origins": "who made each caption: native, human_translation, machine_translation or machine_translation_corrected",
    "scores": "mean log-probability per token of each translation",
    "leaks": "what of test sets it holds, where the recipe marks it",
}
