"""A cross-encoder in place of the shipped verifier: its scores, its labels, what it says when it cannot be had."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from chatlab.cache.bound import CLOSED
from chatlab.cache.decision import judge
from chatlab.cache.evidence import Question
from chatlab.cache.recalibration import Label, Recalibration
from chatlab.cli import main
from chatlab.cross_encoder import CrossEncoderVerifier
from chatlab.embedding import Embedder, bundled_embedder
from chatlab.errors import ConfigError, ModelUnavailable
from chatlab.settings import Settings
from chatlab.wiring import wire
from tests.conftest import ScriptedEngine
from tests.test_cache import fresh

Made = Callable[[Sequence[str]], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Folders of tiny cross-encoders with random weights, by their labels."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    bundled = bundled_embedder()
    assert bundled is not None
    tokenizer = AutoTokenizer.from_pretrained(bundled)

    def make(labels: Sequence[str]) -> Path:
        folder = tmp_path_factory.mktemp("cross-encoder")
        torch.manual_seed(1)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
            initializer_range=0.5,
            id2label=dict(enumerate(labels)),
            label2id={label: place for place, label in enumerate(labels)},
        )
        BertForSequenceClassification(config).save_pretrained(folder)
        tokenizer.model_max_length = 64
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("labels", [["LABEL_0"], ["not_duplicate", "duplicate"], ["contradiction", "entailment", "x"]])
def test_scores_are_shares_and_have_no_order(made: Made, labels: Sequence[str]) -> None:
    verifier = CrossEncoderVerifier(str(made(labels)))
    asked, *candidates = ("How do I reset a router?", "Who wrote Carmen?", "how to restart my router", "word " * 100)
    scores = verifier.scores(asked, candidates)
    assert scores.shape == (3,)
    assert ((scores[:2] > 0) & (scores[:2] < 1)).all()
    assert scores[0] != scores[1]
    assert scores[2] == 0  # longer than it reads
    np.testing.assert_allclose(verifier.scores(candidates[0], [asked]), scores[:1], rtol=1e-4)
    assert len(verifier.scores(asked, [])) == 0
    assert not verifier.calibrated
    verifier.close()


def test_labels_that_say_nothing_of_sameness_are_refused(made: Made) -> None:
    verifier = CrossEncoderVerifier(str(made(["happy", "sad", "angry"])))
    with pytest.raises(ConfigError, match="CHATLAB_CACHE_VERIFIER.*happy, sad, angry"):
        verifier.scores("a", ["b"])
    verifier.close()


def test_one_that_is_not_there_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    verifier = CrossEncoderVerifier("nobody/no-such-cross-encoder")
    with pytest.raises(ModelUnavailable, match="CHATLAB_CACHE_VERIFIER.*hf download.*a folder.*leave it empty"):
        verifier.scores("a", ["b"])
    verifier.close()


class Scripted:
    """Says the same of every candidate and keeps what it was asked."""

    name, calibrated = "scripted", False

    def __init__(self, score: float) -> None:
        self.score = score
        self.asked: list[str] = []

    def scores(self, question: str, candidates: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        self.asked += candidates
        return np.full(len(candidates), self.score)


async def test_it_judges_what_guards_let_pass() -> None:
    texts = ("How do I lose 5 kilos?", "How do I lose 15 kilos?", "how do i lose 5 kilos", "How can one lose 5 kilos?")
    embedder = Embedder()
    asked, *candidates = [
        Question(text, found) for text, found in zip(texts, await embedder.embed_tokens(texts), strict=True)
    ]
    embedder.close()
    verifier = Scripted(0.25)
    judged = judge(asked, candidates, verifier)
    assert [(each.place, each.score, each.guard) for each in judged] == [
        (0, 0, "number"),
        (1, 1, None),
        (2, 0.25, None),
    ]
    assert verifier.asked == ["How can one lose 5 kilos?"]


def test_eval_cache_takes_one_and_serves_nothing_by_it_unasked(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [
        {"a": "How do I reset my router?", "b": "how can I reset my router", "label": 1},
        {"a": "Who wrote Carmen?", "b": "who wrote carmen", "label": 1},
    ]
    file, found = tmp_path / "p.jsonl", tmp_path / "found.json"
    file.write_text("\n".join(json.dumps(pair) for pair in pairs))
    arguments = ["eval", "cache", "--pairs", str(file), "--verifier", str(made(["LABEL_0"])), "--json", str(found)]
    assert main(arguments) == 0
    assert "not calibrated" in capsys.readouterr().out
    assert [item["served"] for item in json.loads(found.read_text())["pairs"]["items"]] == [False, True]
    assert main([*arguments, "--threshold", "0.000001"]) == 0
    assert [item["served"] for item in json.loads(found.read_text())["pairs"]["items"]] == [True, True]


def test_eval_cache_says_what_is_wrong_with_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"a": "Why?", "b": "Who wrote Carmen?", "label": 0}')
    for arguments, says in (
        (["--verifier", str(tmp_path / "gone")], "cannot be loaded as a cross-encoder"),
        (["--threshold", "2"], "--threshold 2: must be above 0"),
    ):
        assert main(["eval", "cache", "--pairs", str(file), *arguments]) == 2
        assert says in capsys.readouterr().err


async def test_a_cache_with_it_serves_nothing_by_meaning_before_labels_allow_it(made: Made, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", engine="echo", cache_verifier=str(made(["other", "duplicate"])))
    with wire(settings, ScriptedEngine()) as parts:
        await fresh(parts, "How do I lose 5 kilos?")
        turn = await fresh(parts, "How can one lose 5 kilos?")
        assert turn.source == "model"
        assert "cannot be shown" in (turn.provenance.cache.reason or "")
        found = await parts.store.answers.lookup(turn.turn_id)
        assert found is not None
        assert (found.verifier, found.guard) == (settings.cache_verifier, None)
        await parts.jobs.close()


def test_labels_open_it() -> None:
    recalibration = Recalibration(0.05, calibrated=False)
    assert recalibration.threshold == CLOSED
    chance = random.Random(0)
    for _ in range(600):
        score = chance.uniform(0.02, 0.98)
        for _ in range(5):
            recalibration.asked()
        recalibration.learn(Label(score, same=chance.random() > 1 / (1 + 20 * (score / (1 - score)) ** 2)))
    assert 0.02 < recalibration.threshold < 0.9
