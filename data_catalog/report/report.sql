-- Queries of the report: a name, a line on what is found, and the query. Most results are tables of the page: the names
-- of their columns are its headings, and the line is its caption. HAS_ORIGINAL is a condition of rows/origins.py.

-- name: published
-- Published images by source and split.
SELECT if(GROUPING(source) = 1, 'All', source) AS "Source", count(*) AS "Images",
       count(*) / max(count(*)) OVER () AS "Share", sum(len(captions))::BIGINT AS "Captions",
       count(*) FILTER (split = 'train') AS "Train", count(*) FILTER (split = 'val') AS "Val",
       count(*) FILTER (split = 'test') AS "Test", count(*) FILTER (split = 'marked') AS "Marked"
FROM pairs GROUP BY ROLLUP (source) ORDER BY GROUPING(source), source;

-- name: lengths
-- Kept captions. Cleaning leaves one blank between words.
WITH texts AS (
    SELECT 'before translation' AS side, clean_caption AS text FROM captions WHERE outcome = 'kept' AND HAS_ORIGINAL
    UNION ALL
    SELECT if(HAS_ORIGINAL, 'translated', 'not translated'), caption FROM captions WHERE outcome = 'kept'
)
SELECT what AS "Number of", side AS "Of captions", min(num) AS "Fewest", quantile_disc(num, 0.05) AS "5 % have fewer",
       quantile_disc(num, 0.5) AS "Median", quantile_disc(num, 0.95) AS "5 % have more", max(num) AS "Most"
FROM (
    SELECT 'words' AS what, side, length(text) - length(replace(text, ' ', '')) + 1 AS num FROM texts
    UNION ALL
    SELECT 'characters', side, length(text) FROM texts
    UNION ALL
    SELECT 'captions per image', 'all', len(captions) FROM pairs
) GROUP BY what, side ORDER BY what, side;

-- name: languages
-- Languages that upstream states for the captions.
SELECT coalesce(source_lang, 'no language given') AS "Language", count(*) AS "Captions",
       count(*) / sum(count(*)) OVER () AS "Share", count(*) FILTER (drop_reason = 'wrong_language') AS "In another one",
       count(*) FILTER (outcome = 'kept') AS "Kept", count(*) FILTER (outcome = 'kept') / count(*) AS "Share kept"
FROM captions GROUP BY ALL ORDER BY count(*) DESC, "Language";

-- name: detected
-- Languages detected in the texts. Texts that are too short for detection are left out.
SELECT side AS "Text", expected AS "Expected", detected AS "Detected", count(*) AS "Captions",
       count(*) FILTER (outcome = 'kept') AS "Kept"
FROM (
    SELECT 'upstream' AS side, source_lang AS expected, detected_source_lang AS detected, outcome FROM captions
    UNION ALL
    SELECT 'translated', target_lang, detected_lang, outcome FROM captions WHERE HAS_ORIGINAL
) WHERE detected <> '' GROUP BY ALL ORDER BY side DESC, count(*) DESC, expected, detected;

-- name: engines
-- Captions by translator. Measures compare translations with their originals.
SELECT CASE WHEN origin = 'native' THEN 'none needed' ELSE coalesce(translator, 'unknown') END AS "Translator",
       origin AS "Origin", if(HAS_ORIGINAL, source_lang, NULL) AS "Original language", count(*) AS "Captions",
       count(*) FILTER (outcome = 'kept') AS "Kept", avg(translation_score) FILTER (HAS_ORIGINAL) AS "Mean score",
       avg(length_ratio) FILTER (HAS_ORIGINAL) AS "Letters per source letter",
       sum((len(numbers_lost) > 0 OR len(numbers_invented) > 0)::INT) FILTER (HAS_ORIGINAL)::BIGINT AS "Wrong numbers",
       sum(translation_truncated::INT) FILTER (HAS_ORIGINAL)::BIGINT AS "Truncated",
       sum(translation_repetitive::INT) FILTER (HAS_ORIGINAL)::BIGINT AS "Repetitive",
       avg(round_trip_chrf) FILTER (HAS_ORIGINAL) AS "Round trip (chrF)"
FROM captions WHERE caption IS NOT NULL GROUP BY ALL
ORDER BY count(*) DESC, "Translator", "Origin", "Original language";

-- name: translations
-- Kept translations of the four largest engines, sampled by hash from five equal parts of the scores.
WITH engines AS (
    SELECT translator, origin, source_lang AS lang, quantile_cont(translation_score, [0.2, 0.4, 0.6, 0.8]) AS cuts
    FROM captions WHERE outcome = 'kept' AND HAS_ORIGINAL GROUP BY ALL
    ORDER BY count(*) DESC, translator, origin, lang LIMIT 4
), parts AS (
    SELECT e.translator, lang, min_by(
        {'Source': {text: clean_caption, lang: lang}, 'Translation': {text: caption, lang: target_lang},
         'Flags': concat_ws(', ',
            if(translation_truncated, 'truncated', NULL), if(translation_repetitive, 'repetitive', NULL),
            'numbers lost: ' || nullif(array_to_string(numbers_lost, ', '), ''),
            'numbers invented: ' || nullif(array_to_string(numbers_invented, ', '), ''),
            if(detected_lang <> target_lang, 'looks like ' || nullif(detected_lang, ''), NULL)),
         'Score': translation_score},
        md5_number_lower(caption_id), $num_examples
    ) AS examples
    FROM captions c JOIN engines e ON c.translator IS NOT DISTINCT FROM e.translator AND c.origin = e.origin
         AND source_lang = lang
    WHERE outcome = 'kept' AND HAS_ORIGINAL
    GROUP BY e.translator, e.origin, lang, len(list_filter(cuts, lambda cut: translation_score > cut))
)
SELECT translator, lang, list(example ORDER BY example."Score" NULLS LAST, example) AS examples
FROM (SELECT translator, lang, unnest(examples) AS example FROM parts)
GROUP BY translator, lang ORDER BY translator, lang;

-- name: sides
-- Sides of the published images in pixels, before and after normalisation.
SELECT what AS "Sides in pixels", min(side) AS "Shortest", quantile_disc(side, 0.05) AS "5 % are below",
       quantile_disc(side, 0.5) AS "Median", quantile_disc(side, 0.95) AS "5 % are above", max(side) AS "Longest"
FROM (
    UNPIVOT (
        SELECT original_width AS "width, original", original_height AS "height, original",
               width AS "width, published", height AS "height, published"
        FROM pairs
    ) ON * INTO NAME what VALUE side
) GROUP BY what ORDER BY what;

-- name: formats
-- Formats before normalisation, of all images that could be decoded.
SELECT coalesce(original_format, 'unknown') AS "Format", count(*) AS "Images", sum(num_bytes)::BIGINT AS "Size",
       sum(num_bytes) / count(*) AS "Mean size"
FROM image_outcomes WHERE drop_reason IS NULL GROUP BY "Format" ORDER BY count(*) DESC, "Format";

-- name: asked
-- Images requested from the web, by host and drop reason.
SELECT lower(regexp_extract(url, '^[a-zA-Z]+://([^/?#]+)', 1)) AS host, drop_reason, count(*) AS num_images
FROM image_outcomes WHERE url IS NOT NULL GROUP BY ALL ORDER BY num_images DESC, host, drop_reason;

-- name: hosts
-- Images requested from the web, by host.
SELECT coalesce(nullif(host, ''), 'no host') AS "Host", sum(num)::BIGINT AS "Requested",
       coalesce(sum(num) FILTER (drop_reason IS NULL), 0)::BIGINT AS "Good",
       coalesce(sum(num) FILTER (drop_reason IS NULL), 0) / sum(num) AS "Share good",
       string_agg(drop_reason || ' ' || num, ', ' ORDER BY num DESC, drop_reason) AS "Reasons"
FROM (
    SELECT lower(regexp_extract(url, '^[a-zA-Z]+://([^/?#]+)', 1)) AS host, drop_reason, count(*) AS num
    FROM image_outcomes WHERE url IS NOT NULL GROUP BY ALL
) GROUP BY "Host" ORDER BY sum(num) DESC, "Host";

-- name: lost_images
-- Reasons for missing images. All captions of a missing image are dropped.
SELECT step AS "Step", drop_reason AS "Reason", if(url IS NULL, 'files', 'the web') AS "Fetched from",
       count(*) AS "Images"
FROM image_outcomes WHERE drop_reason IS NOT NULL GROUP BY ALL ORDER BY count(*) DESC, "Reason";

-- name: duplicates
-- Duplicates of images and captions.
SELECT step AS "Step", reason AS "Reason", count(DISTINCT sample_id) AS "Images", count(*) AS "Captions"
FROM (
    SELECT step, drop_reason AS reason, sample_id FROM captions
    WHERE step = 'deduplicate' OR drop_reason = 'near_duplicate_caption'
    UNION ALL
    SELECT 'deduplicate', 'merged', sample_id FROM captions WHERE merged_into IS NOT NULL
) GROUP BY step, reason ORDER BY reason = 'merged', "Images" DESC, reason;

-- name: duplicate_examples
-- Duplicates of each reason. The detail names the other image: "same as mscoco:18472" or "looks like wit:91262 of val".
SELECT reason, unnest(min_by({gone: gone, stays: stays}, md5_number_lower(gone), 4), max_depth := 2)
FROM (
    SELECT DISTINCT drop_reason AS reason, sample_id AS gone,
           regexp_extract(detail, '^(?:same as|looks like) (\S+)', 1) AS stays
    FROM captions WHERE step = 'deduplicate'
    UNION ALL
    SELECT DISTINCT 'merged', sample_id, merged_into FROM captions WHERE merged_into IS NOT NULL
) WHERE stays <> '' GROUP BY reason ORDER BY ALL;

-- name: leaks
-- Images and captions that overlap a test set.
SELECT test_set AS "Test set", source AS "Source", reason AS "Reason", count(DISTINCT sample_id) AS "Images",
       count(*) AS "Captions", outcome AS "Outcome"
FROM (
    SELECT sample_id, source, split_part(detail, ': ', 1) AS test_set, drop_reason AS reason, 'dropped' AS outcome
    FROM captions WHERE drop_reason IN ('test_image', 'test_caption', 'test_pixels')
    UNION ALL
    SELECT sample_id, source, split_part(substr(mark, instr(mark, ' ') + 1), ': ', 1), split_part(mark, ' ', 1), 'marked'
    FROM (SELECT sample_id, source, unnest(leaks) AS mark FROM captions)
) GROUP BY ALL ORDER BY ALL;

-- name: licenses
-- Licenses of single images.
SELECT source AS "Source", license AS "License", count(*) AS "Images", count(*) / sum(count(*)) OVER () AS "Share",
       count(attribution) AS "With author", count(page_url) AS "With page"
FROM pairs GROUP BY ALL ORDER BY source, count(*) DESC, license;

-- name: reasons
-- Drop reasons by source, with examples that are sampled by hash.
SELECT step, drop_reason AS reason, source, count(*) AS dropped, min_by(
    {'Caption': {text: coalesce(caption, source_caption), lang: if(caption IS NULL, source_lang, target_lang)},
     'Original': {text: nullif(source_caption, coalesce(caption, source_caption)), lang: source_lang},
     'Detail': concat_ws(' ', detail, if(step IN ('fetch', 'normalise'), coalesce(url, path), NULL)),
     'Row': format('{}, line {}: {}', upstream_file, upstream_line, caption_id)},
    md5_number_lower(caption_id), greatest(1, $num_examples)
) AS examples
FROM captions WHERE outcome = 'rejected' GROUP BY ALL ORDER BY dropped DESC, source;

-- name: fit
-- Scores of all judged captions, in standard deviations above random captions of this dataset.
SELECT what AS "Score", count(*) AS "Captions", quantile_cont(score, 0.05) AS "5 % are below",
       median(score) AS "Median", quantile_cont(score, 0.95) AS "5 % are above"
FROM (
    UNPIVOT (SELECT image_text_score AS "of the caption", image_text_drop AS "lost by translation" FROM captions)
    ON * INTO NAME what VALUE score
) GROUP BY what ORDER BY what DESC;

-- name: judged
-- Kept captions at the ends of the scores.
WITH kept AS (
    SELECT coalesce(merged_into, sample_id) AS sample_id, caption_id, image_text_score AS score,
           image_text_drop AS loss, [
               {text: caption, lang: target_lang},
               {text: if(HAS_ORIGINAL, clean_caption, NULL), lang: source_lang}
           ] AS captions, [printf('score %.2f', score), printf('lost %.2f', loss)] AS tags, [] AS about
    FROM captions WHERE outcome = 'kept'
)
FROM (SELECT 'Worst' AS side, * FROM kept WHERE score IS NOT NULL ORDER BY score, caption_id LIMIT 6)
UNION ALL
FROM (SELECT 'Best', * FROM kept WHERE score IS NOT NULL ORDER BY score DESC, caption_id LIMIT 6)
UNION ALL
FROM (SELECT 'Lost by translation', * FROM kept WHERE loss IS NOT NULL ORDER BY loss DESC, caption_id LIMIT 6);

-- name: gallery
-- Published images in the order of their hashes, in turn from each source and split.
SELECT sample_id FROM pairs
ORDER BY row_number() OVER (PARTITION BY source, split ORDER BY md5_number_lower(sample_id)),
         count(*) OVER (PARTITION BY source, split) DESC, source, split
LIMIT 36;

-- name: places
-- Files that have some published images.
SELECT DISTINCT filename FROM pairs WHERE sample_id IN (SELECT unnest($sample_ids)) ORDER BY filename;

-- name: pictures
-- Published images with their pixels, from files that have them.
SELECT sample_id, image.bytes AS data, [source, split, if(len(captions) > 2, len(captions) - 2 || ' more', NULL)] AS tags,
       list_transform(captions[:2], lambda text: {text: text, lang: $language}) AS captions,
       [sample_id, coalesce(page_url, url), license, attribution] AS about
FROM read_parquet($files, hive_partitioning = false) WHERE sample_id IN (SELECT unnest($sample_ids))
ORDER BY source, split, sample_id;

-- name: thumbnails
-- Thumbnails of 8 x 8 pixels, also of images that are not published.
SELECT sample_id, thumbnail FROM image_outcomes WHERE sample_id IN (SELECT unnest($sample_ids));
