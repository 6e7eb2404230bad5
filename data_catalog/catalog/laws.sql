-- every step counted as many rows read, kept and dropped as the caption rows say
(FROM counted EXCEPT FROM funnel) UNION ALL (FROM funnel EXCEPT FROM counted)

-- every caption row is of a source of the build, and every rejected one of a step of it
SELECT caption_id FROM captions
WHERE source NOT IN (SELECT source FROM funnel) OR step IS NOT NULL AND step NOT IN (SELECT step FROM funnel)

-- every caption row is kept or rejected, with a step and a reason
SELECT caption_id FROM captions
WHERE NOT (outcome = 'kept' AND step IS NULL OR outcome = 'rejected' AND step IS NOT NULL AND drop_reason <> '')

-- no caption row occurs twice
SELECT caption_id FROM captions GROUP BY dataset, caption_id HAVING count(*) > 1

-- the pairs hold exactly the kept captions
SELECT caption_id FROM (SELECT unnest(caption_ids) AS caption_id FROM pairs) p
FULL JOIN (SELECT caption_id AS kept_id FROM captions WHERE outcome = 'kept') c ON p.caption_id = c.kept_id
WHERE p.caption_id IS NULL OR c.kept_id IS NULL

-- the lists of a pair have one item for each caption
SELECT sample_id FROM pairs WHERE $unequal_lists

-- nothing that is marked as a test set's is in a split
SELECT p.sample_id FROM (SELECT *, unnest(caption_ids) AS caption_id FROM pairs WHERE split <> 'marked') p
JOIN captions c USING (dataset, snapshot, caption_id) WHERE len(p.leaks) > 0 OR len(c.leaks) > 0

-- a caption that is published with another image is kept, and that image is published
SELECT caption_id FROM captions c LEFT JOIN pairs p
ON c.dataset = p.dataset AND c.snapshot = p.snapshot AND c.merged_into = p.sample_id
WHERE merged_into IS NOT NULL AND (outcome <> 'kept' OR p.sample_id IS NULL)

-- fetching and normalising reject for the reasons that the images have
SELECT c.caption_id FROM captions c LEFT JOIN image_outcomes o USING (dataset, snapshot, sample_id)
WHERE c.step IN ('fetch', 'normalise')
      AND (o.step IS DISTINCT FROM c.step OR o.drop_reason IS DISTINCT FROM c.drop_reason)
   -- These captions need a good image.
   OR (c.outcome = 'kept' OR c.step IN (
          SELECT step FROM funnel
          WHERE step_number > (SELECT max(step_number) FROM funnel WHERE step = 'normalise')
      ))
      AND (o.sample_id IS NULL OR o.drop_reason IS NOT NULL)

-- an image has one outcome if any of its captions came as far as fetching, and else none
SELECT sample_id FROM (SELECT sample_id, count(*) AS n FROM image_outcomes GROUP BY sample_id) o
FULL JOIN (
    SELECT sample_id, bool_or(step = 'forget') AS forgot,
           bool_or(outcome = 'kept' OR step IN (
               SELECT step FROM funnel
               WHERE step_number >= (SELECT max(step_number) FROM funnel WHERE step = 'fetch')
           )) AS asked
    FROM captions GROUP BY sample_id
) c USING (sample_id)
WHERE coalesce(n, 0) > 1 OR coalesce(n, 0) < asked::INTEGER
   -- A take-down of an image removes captions of other images that were merged into it; their image outcomes stay.
   OR n = 1 AND NOT coalesce(asked OR forgot, false)
