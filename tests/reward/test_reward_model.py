"""Where the score is read, what is saved, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from reward.errors import RewardError
from reward.learned import LearnedScorer, score_ids
from reward.model import from_base, load, save, separate_pad_token
from reward.pairs import conversation_ids, length_batches

CONVERSATIONS = [
    [{"role": "user", "content": "where is the inn?"}, {"role": "assistant", "content": answer}]
    for answer in ("By the river.", "No.", "It is near the old bridge, in the city centre, and it is cheap!")
]


@pytest.fixture
def whole(tiny_model: Path, tmp_path: Path) -> Path:
    """A reward model folder with every weight in it."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    save(from_base(str(tiny_model), tokenizer, dtype=torch.float32, seed=1), tokenizer, tmp_path / "rm")
    return tmp_path / "rm"


def test_the_head_starts_small_and_without_bias(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    heads = [from_base(str(tiny_model), tokenizer, dtype=torch.float32, seed=s).score for s in range(40)]
    assert all(head.bias is None for head in heads)
    std = torch.stack([head.weight for head in heads]).std().item()
    assert std == pytest.approx(33**-0.5, rel=0.1)
    again = from_base(str(tiny_model), tokenizer, dtype=torch.float32, seed=3).score.weight
    assert torch.equal(again, heads[3].weight)


def test_with_pad_equal_to_eos_transformers_reads_the_wrong_token_and_we_do_not(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = tokenizer.eos_token
    model = from_base(str(tiny_model), tokenizer, dtype=torch.float32).eval()
    ids = torch.tensor([conversation_ids(tokenizer, CONVERSATIONS[0])])
    assert ids[0, -1] == tokenizer.eos_token_id
    with torch.no_grad():
        by_position = model.score(model.model(ids).last_hidden_state)[0, :, 0]
        assert model(ids).logits.item() == by_position[-1].item()
        model.config.pad_token_id = tokenizer.eos_token_id  # the trap, for proof that it is one
        assert model(ids).logits.item() == by_position[-2].item()
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, ids[0, -1].item())


def test_a_good_pad_token_is_kept(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    before = tokenizer("the old inn <|pad|>").input_ids
    separate_pad_token(tokenizer)
    assert tokenizer.pad_token == "<|pad|>"
    assert tokenizer("the old inn <|pad|>").input_ids == before


def test_a_tokenizer_with_nothing_to_pad_with_is_refused() -> None:
    words = Tokenizer(WordLevel({"<|end|>": 0, "a": 1, "b": 2}, unk_token="b"))
    template = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|end|>", chat_template=template)
    with pytest.raises(RewardError, match="add a pad token"):
        separate_pad_token(tokenizer)


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_scores_do_not_depend_on_the_batch(whole: Path, batch_tokens: int) -> None:
    scorer = LearnedScorer(whole, device="cpu", batch_tokens=batch_tokens)
    alone = [scorer.score([c])[0] for c in CONVERSATIONS]
    assert scorer.score(CONVERSATIONS) == pytest.approx(alone, abs=1e-5)
    assert len(set(alone)) == 3


def test_scores_equal_plain_transformers(whole: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(whole, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(whole)
    batch = tokenizer.apply_chat_template(CONVERSATIONS, padding=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        plain = model(**batch).logits.squeeze(-1).tolist()
    assert LearnedScorer(whole, device="cpu").score(CONVERSATIONS) == pytest.approx(plain, abs=1e-5)


def test_an_adapter_folder_keeps_its_score_head(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = from_base(str(tiny_model), tokenizer, dtype=torch.float32, seed=5)
    settings = LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", modules_to_save=["score"])
    model = get_peft_model(base, settings)
    for weight in model.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.1)
    model.eval()
    ids = [conversation_ids(tokenizer, c) for c in CONVERSATIONS]
    before = score_ids(model, ids, pad_token_id=tokenizer.pad_token_id, batch_tokens=100)
    save(model, tokenizer, tmp_path / "adapter")
    assert LearnedScorer(tmp_path / "adapter", device="cpu").score(CONVERSATIONS) == pytest.approx(
        before, abs=1e-6
    )
    # and with PEFT alone
    plain = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    plain = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    with torch.no_grad():
        assert plain(torch.tensor([ids[0]])).logits.item() == pytest.approx(before[0], abs=1e-6)


def test_a_policy_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="no score head: give a reward model"):
        load(str(tiny_model), dtype=torch.float32)
    policy = AutoTokenizer.from_pretrained(tiny_model)
    base = from_base(str(tiny_model), policy, dtype=torch.float32)
    get_peft_model(base, LoraConfig(target_modules="all-linear")).save_pretrained(tmp_path)
    with pytest.raises(RewardError, match="no score head"):
        load(str(tmp_path), dtype=torch.float32)


def test_a_broken_model_does_not_return_nan(whole: Path) -> None:
    scorer = LearnedScorer(whole, device="cpu")
    scorer.model.score.weight.data.fill_(float("nan"))
    with pytest.raises(RewardError, match="3 of 3 scores are not finite"):
        scorer.score(CONVERSATIONS)


def test_a_conversation_over_the_context_is_named(whole: Path) -> None:
    long = [{"role": "user", "content": "inn " * 300}, {"role": "assistant", "content": "no"}]
    with pytest.raises(RewardError, match="1 of 4 conversations exceed the reward model's context of 256"):
        LearnedScorer(whole, device="cpu").score([*CONVERSATIONS, long])


def test_normalising_needs_a_card(whole: Path) -> None:
    with pytest.raises(RewardError, match=r"no reward\.json"):
        LearnedScorer(whole, device="cpu", normalise=True)


def test_a_lost_head_is_seen_when_saving(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = from_base(str(tiny_model), tokenizer, dtype=torch.float32)
    headless = get_peft_model(base, LoraConfig(target_modules="all-linear"))  # the classic mistake
    with pytest.raises(RewardError, match="score"):
        save(headless, tokenizer, tmp_path)


def test_no_double_bos(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    tokenizer.bos_token = "<|system|>"
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    ids = conversation_ids(tokenizer, CONVERSATIONS[0])
    assert ids.count(tokenizer.bos_token_id) == 1


def test_batches_hold_every_row_once_and_stay_within_the_limit() -> None:
    lengths = [5, 1, 9, 3, 3, 12]
    batches = length_batches(lengths, 10)
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert batches[0] == [5]  # longer than the limit: alone
    for batch in batches[1:]:
        assert len(batch) * max(lengths[i] for i in batch) <= 10
