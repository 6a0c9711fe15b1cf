"""How long `verdict` takes on 10,000 turns of made-up chats, step by step: from the export to the page.

The bundled tokenizer counts and the real embedder embeds; nothing is generated. Steps overlap: the embedder computes
beside what counts and compares words.
"""

import json
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.report import write
from chatlab.evaluation.traffic.command import Options, verdict
from chatlab.evaluation.traffic.progress import Progress
from chatlab.evaluation.traffic.samples import as_chatgpt, sample_chats
from chatlab.evaluation.workload import read_words
from chatlab.settings import load_settings

WORDS = Path(__file__).parent.parent / "data" / "cache_workload.toml"
TURNS = 10_000
SEED = 0
TARGET_SECONDS = 180.0


def main(json_file: Path | None = None) -> None:
    """Measure, print, and write the result."""
    settings = load_settings()
    with tempfile.TemporaryDirectory(prefix="chatlab-bench-") as folder:
        export = Path(folder) / "conversations.json"
        chats = as_chatgpt(sample_chats(read_words(WORDS), SEED, TURNS))
        export.write_text(json.dumps(chats, ensure_ascii=False), encoding="utf-8")
        options = Options(export, Path(folder) / "page.html", json=Path(folder) / "figures.json")
        progress = Progress()
        begun = time.perf_counter()
        said = verdict(options, settings, progress)
        seconds = time.perf_counter() - begun
        result = {
            "turns": TURNS,
            "chats": len(chats),
            "export_mb": export.stat().st_size / 1e6,
            "page_mb": options.out.stat().st_size / 1e6,
            "seconds": seconds,
            "steps": progress.took,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        }
    progress.close()
    print(said.splitlines()[0])
    size = f"{TURNS:,} turns in {len(chats):,} chats, {result['export_mb']:.1f} MB"
    print(f"{size}: {seconds:.0f} s of {TARGET_SECONDS:.0f}")
    for step, took in progress.took.items():
        print(f"  {step:10} {took:6.1f} s")
    print(f"  page {result['page_mb']:.2f} MB, peak {result['peak_rss_mb']:.0f} MB")
    write(result, json_file)
