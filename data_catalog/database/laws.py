"""The conservation laws: what must hold of a snapshot before it is committed, each with a query for what breaks it."""

# By what each law says: an SQL query that finds what breaks it, and so must find nothing.
CONSERVATION = {
    "every step keeps or drops what it reads": "SELECT * FROM funnel WHERE read <> kept + dropped",
    "every step reads what the step before it kept": """
        SELECT * FROM (
            SELECT *, lag(kept) OVER (PARTITION BY dataset, snapshot, source ORDER BY step_number) AS before FROM funnel
        ) WHERE read <> before
    """,
    "the first step reads every caption row": """
        SELECT source FROM (SELECT source, sum(read) AS rows FROM funnel WHERE step_number = 1 GROUP BY source) f
        FULL JOIN (SELECT source, count(*) AS rows FROM captions GROUP BY source) c USING (source)
        WHERE coalesce(f.rows, 0) <> coalesce(c.rows, 0)
    """,
    "every caption row is kept or rejected, with a step and a reason": """
        SELECT caption_id FROM captions
        WHERE NOT (outcome = 'kept' AND step IS NULL OR outcome = 'rejected' AND step IS NOT NULL AND drop_reason <> '')
    """,
    "no caption row occurs twice": "SELECT caption_id FROM captions GROUP BY dataset, caption_id HAVING count(*) > 1",
    "each step dropped as many rows as bear its name": """
        SELECT * FROM (SELECT source, step, sum(dropped) AS n FROM funnel GROUP BY ALL) f
        FULL JOIN (SELECT source, step, count(*) AS n FROM captions WHERE outcome = 'rejected' GROUP BY ALL) c
        USING (source, step) WHERE coalesce(f.n, 0) <> coalesce(c.n, 0)
    """,
    "the pairs hold exactly the kept captions": """
        SELECT caption_id FROM (SELECT unnest(caption_ids) AS caption_id FROM pairs) p
        FULL JOIN (SELECT caption_id AS kept_id FROM captions WHERE outcome = 'kept') c ON p.caption_id = c.kept_id
        WHERE p.caption_id IS NULL OR c.kept_id IS NULL
    """,
    "no pair of a split holds what is marked as a test set's, and every other one does": """
        SELECT p.sample_id FROM (SELECT *, unnest(caption_ids) AS caption_id FROM pairs) p
        JOIN captions c USING (dataset, snapshot, caption_id)
        GROUP BY p.dataset, p.snapshot, p.sample_id, p.split
        HAVING (p.split = 'marked') <> bool_or(coalesce(len(c.leaks), 0) > 0)
    """,
    "a caption that is published with another image is kept, and that image is published": """
        SELECT caption_id FROM captions c LEFT JOIN pairs p
        ON c.dataset = p.dataset AND c.snapshot = p.snapshot AND c.merged_into = p.sample_id
        WHERE merged_into IS NOT NULL AND (outcome <> 'kept' OR p.sample_id IS NULL)
    """,
    "fetching and normalising reject for the reasons that the images have": """
        SELECT c.caption_id FROM captions c LEFT JOIN image_outcomes o USING (dataset, snapshot, sample_id)
        WHERE c.step IN ('fetch', 'normalise')
              AND (o.step IS DISTINCT FROM c.step OR o.drop_reason IS DISTINCT FROM c.drop_reason)
           OR (c.outcome = 'kept' OR c.step = 'deduplicate') AND (o.sample_id IS NULL OR o.drop_reason IS NOT NULL)
    """,
    "an image has one outcome if any of its captions came as far as fetching, and else none": """
        SELECT sample_id FROM (SELECT sample_id, count(*) AS n FROM image_outcomes GROUP BY sample_id) o
        FULL JOIN (
            SELECT DISTINCT sample_id FROM captions
            WHERE outcome = 'kept' OR step IN ('fetch', 'normalise', 'deduplicate')
        ) c USING (sample_id)
        WHERE n IS DISTINCT FROM 1 OR c.sample_id IS NULL
    """,
}
