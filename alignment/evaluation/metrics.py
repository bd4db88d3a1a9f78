"""Task metrics by name: an answer held against the right ones.

Words are those of SQuAD's evaluation (Rajpurkar et al. 2016), and each Chinese character is a word of its own, so
that the same metrics serve both. exact_match, f1 and rouge_* are 0 to 1, bleu and chrf 0 to 100.
"""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from alignment.errors import AlignmentError
from alignment.evaluation.statistics import Array, Estimate, bootstrap_sums
from alignment.prompts import read_rows

Metric = Literal["exact_match", "f1", "bleu", "chrf", "rouge_1", "rouge_2", "rouge_l"]
METRICS = get_args(Metric)
Score = Callable[[str, Sequence[str]], float]  # (answer, right answers) -> how good
_ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
_HAN = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WORD = re.compile(rf"{_HAN}|(?:(?!{_HAN})[^\W_])+")


def load_references(path: str, column: str, limit: int | None) -> list[list[str]]:
    """The right answers to each prompt of a file: a text or several, in `column`.

    Raises AlignmentError for a row that has none, by its number.
    """
    found = []
    for number, row in enumerate(read_rows(Path(path))[:limit], 1):
        value = row.get(column)
        references = [value] if isinstance(value, str) else value
        if (
            not isinstance(references, list)
            or not references
            or not all(isinstance(one, str) and one.strip() for one in references)
        ):
            raise AlignmentError(
                f"{path}, row {number}: `metrics` need a right answer in `{column}`, a text or a list of texts; "
                "`reference_column` names another column"
            )
        found.append(references)
    return found


class TaskMetrics:
    """The metrics called `names`, against `references`: the right answers to each prompt."""

    def __init__(self, names: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        self.names = names
        self.references = references
        chinese = any(re.search(_HAN, text) for texts in references for text in texts)
        self._corpus = {
            name: corpus_metric(name, chinese=chinese) for name in ("bleu", "chrf") if name in names
        }
        self._scores: dict[str, Score] = {"exact_match": exact_match, "f1": f1}
        for name in self._corpus:
            of_sentences = corpus_metric(name, chinese=chinese, of_sentences=True)
            self._scores[name] = partial(_sentence_score, of_sentences)
        if rouge := {name: _ROUGE[name] for name in names if name in _ROUGE}:
            scorer = rouge_scorer(list(rouge.values()))
            self._scores |= {name: partial(_rouge, scorer, kind) for name, kind in rouge.items()}

    def of_answer(self, answer: str, row: int) -> dict[str, float]:
        """Each metric of one answer to the prompt in `row` (from 1), by whichever right answer suits it best."""
        right = self.references[row - 1]
        return {name: self._scores[name](answer, right) for name in self.names}

    def of_corpus(
        self, answers: Sequence[str], rows: Sequence[int], samples: int, seed: int
    ) -> dict[str, Estimate]:
        """BLEU and chrF of all answers together, `samples` to each prompt: no mean of sentences gives them."""
        right = [self.references[row - 1] for row in rows]
        most = max(map(len, right))
        streams = [[texts[i] if i < len(texts) else None for texts in right] for i in range(most)]
        found = {}
        for name, metric in self._corpus.items():
            # of sacrebleu's own steps, since its bootstrap draws single answers and ours draws prompts whole
            counts = np.array(metric._extract_corpus_statistics(answers, streams), dtype=np.float64)
            by_prompt = counts.reshape(-1, samples, counts.shape[1]).sum(axis=1)
            found[name] = bootstrap_sums(by_prompt, partial(_corpus_score, metric), seed=seed)
        return found

    def signatures(self) -> dict[str, str]:
        """What sacrebleu needs to give the same figures again."""
        return {name: str(metric.get_signature()) for name, metric in self._corpus.items()}


def corpus_metric(name: str, *, chinese: bool, of_sentences: bool = False) -> Any:
    """sacrebleu's BLEU or chrF. Chinese is told from its references, and cut into characters for BLEU."""
    from sacrebleu.metrics import BLEU, CHRF

    if name == "chrf":
        return CHRF()
    return BLEU(tokenize="zh" if chinese else "13a", effective_order=of_sentences)


def rouge_scorer(kinds: list[str]) -> Any:
    """rouge-score's scorer of these kinds, e.g. rougeL, with words of ours."""
    # absl, beneath it, keeps the stderr that it finds and closes it when a web server sets up its logging, unless it
    # is the process's own
    with redirect_stderr(sys.__stderr__):
        from rouge_score.rouge_scorer import RougeScorer
    return RougeScorer(kinds, tokenizer=_Words())


def _sentence_score(metric: Any, answer: str, references: Sequence[str]) -> float:
    return float(metric.sentence_score(answer, references).score)


def _corpus_score(metric: Any, counts: Array) -> float:
    return float(metric._compute_score_from_stats(counts.tolist()).score)


def _rouge(scorer: Any, kind: str, answer: str, references: Sequence[str]) -> float:
    return float(scorer.score_multi(references, answer)[kind].fmeasure)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if the answer has the words of a right one."""
    return float(any(squad_words(answer) == squad_words(one) for one in references))


def f1(answer: str, references: Sequence[str]) -> float:
    """Harmonic mean of the shares of words in common with the right answer that has most."""
    return max(_f1(squad_words(answer), squad_words(one)) for one in references)


def _f1(words: Sequence[str], right: Sequence[str]) -> float:
    if not words or not right:
        return float(words == right)
    common = (Counter(words) & Counter(right)).total()
    return 2 * common / (len(words) + len(right))


def squad_words(text: str) -> list[str]:
    """SQuAD's normalisation: lower case, no punctuation, no articles."""
    bare = "".join(
        c for c in text.lower() if c not in string.punctuation and unicodedata.category(c)[0] != "P"
    )
    return re.sub(f"({_HAN})", r" \1 ", _ARTICLES.sub(" ", bare)).split()


def words(text: str) -> list[str]:
    """Runs of letters and digits in lower case; each Chinese character by itself."""
    return _WORD.findall(text.lower())


class _Words:
    """rouge-score's own tokenizer keeps a-z and 0-9 alone: of Chinese, or of "café", it would leave little."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)
