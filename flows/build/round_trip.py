"""The way back, where a recipe asks for it: captions translated back, and how near that comes to their sources."""

import pyarrow as pa
import pyarrow.compute as pc

from data_catalog.progress import Progress
from data_catalog.sources.origins import has_original
from data_catalog.stages import pending_rows, set_values, texts
from data_catalog.storage.work import WorkStore
from flows.build.step_outputs import ROUND_TRIP, Shard, table_step
from translation.engine import Translator, translate_stream
from translation.memory import TranslationMemory
from translation.remembered import RememberingTranslator
from translation.scores import sentence_chrf


def round_trip(work: WorkStore, shard: Shard, engine: Translator, memory: TranslationMemory) -> Shard:
    """Fill `round_trip_chrf` of every pending row with an original that the engine can come back to; drops none.

    Args:
        engine: from the target language to the source's.
        memory: of that engine; what it holds is not translated again.
    """

    def stage(table: pa.Table) -> pa.Table:
        from_there = pc.equal(table.column("source_lang"), engine.to_code)
        rows = pending_rows(table, pc.and_(has_original(table), from_there))
        captions = texts(table, "caption", rows)
        with Progress("translate back", total=len(captions), unit="captions") as progress:
            back = list(translate_stream(RememberingTranslator(engine, memory), captions, progress.advance))
        sources = texts(table, "clean_caption", rows)
        scores = [sentence_chrf(found.text, source) for found, source in zip(back, sources, strict=True)]
        return set_values(table, "round_trip_chrf", rows, scores)

    return table_step(work, shard, ROUND_TRIP, {"engine": engine.fingerprint}, stage)
