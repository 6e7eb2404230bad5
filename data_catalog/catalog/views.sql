-- rejects: the rows of captions that a step rejected
SELECT * FROM captions WHERE outcome = 'rejected'

-- images: one row per sample: the outcome of its image, and where and why it was dropped
SELECT c.dataset, c.snapshot,
    c.sample_id,  -- as in image_outcomes
    c.source,  -- as in image_outcomes
    c.url,  -- as in image_outcomes
    c.path,  -- as in image_outcomes
    $splits[c.stated] AS upstream_split,  -- split that upstream states, of several the last of train, val, test; null: none
    p.split,  -- split of the published pair; null: the image is not published
    coalesce(o.width, p.width) AS width,  -- as in pairs
    coalesce(o.height, p.height) AS height,  -- as in pairs
    coalesce(o.original_width, p.original_width) AS original_width,  -- as in pairs
    coalesce(o.original_height, p.original_height) AS original_height,  -- as in pairs
    coalesce(o.sha256, p.sha256) AS sha256,  -- as in pairs
    o.phash,  -- as in pairs
    p.num_bytes,  -- bytes of the published image; null: it is not published
    c.num_captions,  -- caption rows of the sample
    c.num_kept,  -- kept caption rows of the sample
    CASE WHEN p.sample_id IS NOT NULL THEN 'published' WHEN c.num_kept > 0 THEN 'merged' ELSE 'dropped' END
    AS status,  -- published; merged: its captions are published with another sample's image; or dropped
    CASE WHEN p.sample_id IS NULL AND c.num_kept = 0 THEN c.last_step END
    AS step,  -- step that dropped the sample: the last one that any of its captions reached; null: not dropped
    CASE WHEN p.sample_id IS NULL AND c.num_kept = 0 THEN c.drop_reason END AS drop_reason,  -- reason of that drop
    CASE WHEN p.sample_id IS NULL AND o.drop_reason = c.drop_reason THEN o.detail END
    AS detail,  -- details of the drop, if the image itself was dropped
    o.sample_id IS NOT NULL
    AS asked_for,  -- whether the image was requested: any of its captions reached fetching
    coalesce(o.drop_reason IN $retryable, false)
    AS retryable,  -- whether a retry may get the image (vernaclip build --retry-failed)
    o.http_status,  -- as in image_outcomes
    o.final_url,  -- as in image_outcomes
    o.robots_tag,  -- as in image_outcomes
    o.content_usage,  -- as in image_outcomes
    o.num_bytes AS original_bytes,  -- bytes of the original image
    o.original_format  -- as in image_outcomes
FROM (
    SELECT dataset, snapshot, sample_id, any_value(source) AS source, any_value(url) AS url, any_value(path) AS path,
           max(list_position($splits, upstream_split)) AS stated, count(*) AS num_captions,
           count(*) FILTER (outcome = 'kept') AS num_kept,
           arg_max(step, step_number) AS last_step, arg_max(drop_reason, step_number) AS drop_reason
    FROM captions LEFT JOIN ($steps) steps USING (dataset, snapshot, source, step)
    GROUP BY dataset, snapshot, sample_id
) c LEFT JOIN (
    SELECT dataset, snapshot, sample_id, split, width, height, original_width, original_height, sha256,
           octet_length(image.bytes) AS num_bytes
    FROM pairs
) p USING (dataset, snapshot, sample_id)
LEFT JOIN image_outcomes o USING (dataset, snapshot, sample_id)

-- funnel: caption rows that each step read, kept and dropped, by source; read = kept + dropped
WITH counts AS MATERIALIZED (
    SELECT dataset, snapshot, source, step, count(*) AS num FROM captions GROUP BY ALL
), totals AS (SELECT dataset, snapshot, source, sum(num) AS num FROM counts GROUP BY ALL)
SELECT dataset, snapshot,
    source,  -- as in captions
    step_number,  -- place of the step in the order of the build
    step,  -- name of the step
    kept + dropped AS read,  -- caption rows that reached the step
    kept,  -- rows that it kept
    dropped  -- rows that it rejected
FROM (
    SELECT steps.*, coalesce(counts.num, 0) AS dropped,
           (coalesce(totals.num, 0) - sum(coalesce(counts.num, 0)) OVER so_far)::BIGINT AS kept
    FROM ($steps) steps LEFT JOIN counts USING (dataset, snapshot, source, step)
    LEFT JOIN totals USING (dataset, snapshot, source)
    WINDOW so_far AS (PARTITION BY steps.dataset, steps.snapshot, steps.source ORDER BY step_number)
)

-- drop_reasons: how many caption rows each step dropped for which reason, by source
SELECT dataset, snapshot,
    source,  -- as in captions
    step,  -- the step that rejected the rows
    drop_reason,  -- reason, one word of a closed list (docs/captions.md, docs/images.md)
    count(*) AS dropped  -- number of rows
FROM captions WHERE outcome = 'rejected' GROUP BY ALL

-- leaks: overlaps with test sets: how many images and captions, by source, test set and how they were found
SELECT dataset, snapshot,
    source,  -- as in captions
    split_part(found, ': ', 1) AS test_set,  -- name of the test set in the recipe
    reason,  -- test_image: an image with the same identity; test_caption: a caption; test_pixels: a similar image
    outcome,  -- rejected, or kept if the recipe marks leaks
    count(DISTINCT sample_id) AS num_images,  -- number of samples
    count(*) AS num_captions  -- number of caption rows
FROM (
    SELECT *, drop_reason AS reason, detail AS found FROM captions
    WHERE drop_reason IN ('test_image', 'test_caption', 'test_pixels')
    UNION ALL BY NAME
    SELECT *, split_part(mark, ' ', 1) AS reason, substr(mark, instr(mark, ' ') + 1) AS found
    FROM (SELECT *, unnest(leaks) AS mark FROM captions)
) GROUP BY ALL

-- translators: one row per translator, ours or upstream's: its captions, their scores and measures
SELECT dataset, snapshot,
    translator,  -- fingerprint of the engine, or the translator that upstream names; native: not translated
    origin,  -- origin of the captions, as in captions
    source_lang,  -- language of the source captions; the target language if upstream has no originals
    target_lang,  -- language of the translations
    count(*) AS num_captions,  -- captions by this translator, kept or dropped
    count(*) / sum(count(*)) OVER (PARTITION BY dataset, snapshot)
    AS share,  -- share of all captions of the dataset that reached translating, 0 to 1
    count(*) FILTER (outcome = 'kept') AS num_kept,  -- kept captions by this translator
    avg(translation_score) AS mean_score,  -- mean of translation_score
    quantile_cont(translation_score, 0.05) AS score_p5,  -- 5th percentile of translation_score
    quantile_cont(translation_score, 0.5) AS score_p50,  -- median of translation_score
    count(*) FILTER (translation_truncated)
    AS num_truncated,  -- captions whose decoding reached its length limit
    count(*) FILTER (translation_repetitive)
    AS num_repetitive,  -- captions with repeated phrases, where decoding looped
    avg(length_ratio) AS mean_length_ratio,  -- mean of length_ratio
    avg(copied_share) AS mean_copied_share,  -- mean of copied_share
    count(*) FILTER (len(numbers_lost) > 0) AS num_numbers_lost,  -- captions that lack a number of their source
    count(*) FILTER (len(numbers_invented) > 0)
    AS num_numbers_invented,  -- captions with a number that their source lacks
    avg(language_margin) AS mean_language_margin,  -- mean of language_margin
    avg(round_trip_chrf) AS mean_round_trip_chrf  -- mean of round_trip_chrf; null: none was measured
FROM captions WHERE caption IS NOT NULL
GROUP BY dataset, snapshot, translator, origin, source_lang, target_lang

-- builds: one row per dataset: the contents of its newest snapshot, and the settings that made it
SELECT dataset, snapshot,
    target_lang,  -- language of the dataset
    translator,  -- fingerprint of the recipe's engine, or "native" if it has none
    num_captions,  -- caption rows, kept or rejected
    num_kept,  -- kept caption rows
    num_pairs,  -- published images
    num_train,  -- published images of the split train
    num_val,  -- published images of the split val
    num_test,  -- published images of the split test
    num_marked,  -- published images in no split, since they overlap a test set
    bytes,  -- bytes of the files of pairs and captions
    settings::JSON AS settings  -- settings of the recipe that decide the content, as JSON
FROM ($builds)
