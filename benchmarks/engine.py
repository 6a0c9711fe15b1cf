"""Our engine beside `generate`, Transformers' continuous batching and llama.cpp, and beside what the machine allows.

All run the same bf16 weights with as many threads, greedily, each in a process of its own that is loaded once. They
take turns measure by measure, so that what slows the machine down hits all; a figure is the median of the rounds.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks import limits
from benchmarks.contenders import chatlab_engine, continuous, generate, llama_cpp
from benchmarks.contenders.contender import Contender, ContenderProcess, Setup, Unavailable
from benchmarks.contenders.gguf import bf16_gguf
from benchmarks.engine_figures import Asked, Measure, measures, warm_up
from benchmarks.engine_report import CONTINUOUS, GENERATE, LLAMA_CPP, OURS, RATIOS, Rounds, plot, table
from benchmarks.prompts import Prompts
from benchmarks.report import write
from chatlab.engines.models import BUNDLED_NAME, find_model
from chatlab.engines.runtime.loading import gpu_gib, pick_device
from chatlab.engines.template import ChatTemplate
from chatlab.settings import load_settings

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Kind:
    """A contender and what it can do."""

    make: Callable[[Setup], Contender]
    keeps_prefixes: bool = True
    joins: bool = True


KINDS = {
    OURS: Kind(chatlab_engine.make),
    GENERATE: Kind(generate.make, keeps_prefixes=False, joins=False),
    CONTINUOUS: Kind(continuous.make),
    LLAMA_CPP: Kind(llama_cpp.make, joins=False),
}


def main(json_file: Path | None = None) -> None:
    """Measure, print, and write the result."""
    # 1. What runs, and where.
    settings = load_settings({"engine": "auto"})
    device = pick_device(settings.device)
    threads = settings.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    settings = settings.model_copy(update={"threads": threads})
    source = find_model(settings.model, settings.data_dir, gpu_gib(device), print)
    gguf = bf16_gguf(settings.data_dir / "models") if source.name.startswith(BUNDLED_NAME) else None
    setup = Setup(settings, source, str(device), threads, gguf)
    about = {
        "model": source.name,
        "device": f"{limits.device_name(device)} ({device.type})",
        "threads": threads,
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
    }
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)

    # 2. The rounds.
    tokenizer: Any = AutoTokenizer.from_pretrained(source.location)
    prompts = Prompts(ChatTemplate(tokenizer, source.name))
    rounds, best = Rounds(), limits.measure(device, threads)
    with ExitStack() as opened:
        asked: dict[str, Asked] = {}
        for name, kind in KINDS.items():
            try:
                process = ContenderProcess(kind.make, setup)
                opened.callback(process.close)
                asked[name] = Asked(process, prompts, tokenizer, kind.keeps_prefixes)
                warm_up(asked[name])
            except Unavailable as error:
                print(f"{name} does not take part: {error}", flush=True)
                asked.pop(name, None)
        for number in range(1, ROUNDS + 1):
            started = time.perf_counter()
            rounds.rounds.append(_round(asked))
            best = best.best(limits.measure(device, threads))
            print(f"round {number} of {ROUNDS}: {time.perf_counter() - started:.0f} s", flush=True)

    # 3. What came of it.
    n_layers, n_all = _parameters(source.location)
    allowed = {
        "decode_1": best.decode_tokens_per_second(n_all),
        "first_token_1500_ms": best.prompt_ms(n_layers, 1_500),
    }
    ratios = {ratio.name: rounds.ratio(ratio.above, ratio.below) for ratio in RATIOS}
    print(
        f"\nlimits: {best.read_gbs:.1f} GB/s read ({best.read_1_thread_gbs:.1f} by 1 thread), "
        f"{best.product_gflops:,.0f} GFLOP/s bf16\n\n{table(rounds, list(KINDS), allowed)}\n"
    )
    print("\n".join(f"- {ratio.line(ratios[ratio.name])}" for ratio in RATIOS))
    print(f"\n{plot(rounds, list(KINDS))}")
    write({"engine": {**about, **_figures(rounds), "ratios": ratios, "limits": {**asdict(best), **allowed}}}, json_file)


def _round(asked: Mapping[str, Asked]) -> dict[tuple[str, str], float]:
    """Each measure of each contender once; what one cannot do is said and left out."""
    figures: dict[tuple[str, str], float] = {}
    for measure in measures():
        for name, who in asked.items():
            if measure.joins and not KINDS[name].joins:
                continue  # it takes no request while it answers others
            figures |= {(name, figure): value for figure, value in _take(measure, name, who).items()}
    for name, who in asked.items():
        figures[name, "loaded_mb"] = who.contender.loaded_bytes / 1e6
        figures[name, "peak_mb"] = who.contender.peak_bytes / 1e6
    return figures


def _take(measure: Measure, name: str, who: Asked) -> dict[str, float]:
    try:
        return measure.take(who)
    except Unavailable as error:
        print(f"{name}, {measure.name}: {error}", flush=True)
        return {}


def _figures(rounds: Rounds) -> dict[str, Any]:
    """Medians, and the rounds they are of."""
    keys = dict.fromkeys(key for each in rounds.rounds for key in each)
    medians: dict[str, dict[str, float | None]] = {}
    for name, figure in keys:
        medians.setdefault(name, {})[figure] = rounds.median(name, figure)
    return {"medians": medians, "rounds": [{f"{n}: {f}": v for (n, f), v in each.items()} for each in rounds.rounds]}


def _parameters(location: str) -> tuple[int, int]:
    """How many the layers have, and all: those that a prompt's and an answer's token meet."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(location))
    return model.num_parameters(exclude_embeddings=True), model.num_parameters()
