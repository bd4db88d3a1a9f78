"""Files and run folders: a kill or a full disk never leaves half a thing, and nothing is overwritten unasked."""

import subprocess
import sys
import textwrap

import pytest
from pydantic import BaseModel

from alignment.errors import AlignmentError
from alignment.files import whole_folder, write_json, write_text
from alignment.prompts import PromptStream, load_prompts, read_rows
from alignment.runs import RunFolder


class Settings(BaseModel):
    seed: int = 0


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with whole_folder(target) as aside:
        (aside / "a.txt").write_text("first")
        assert not target.exists()
    assert (target / "a.txt").read_text() == "first"

    def write_and_fail():
        with whole_folder(target) as aside:
            (aside / "a.txt").write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert (target / "a.txt").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_is_replaced_by_its_successor(tmp_path):
    for text in ("first", "second"):
        with whole_folder(tmp_path / "model") as aside:
            (aside / "deep").mkdir()
            (aside / "deep" / "a.txt").write_text(text)
    assert (tmp_path / "model" / "deep" / "a.txt").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_leaves_the_text_that_was_there(tmp_path):
    """A file size limit stands in for the disk's."""
    script = f"""
        import pathlib, resource, signal
        from alignment.errors import AlignmentError
        from alignment.files import write_text
        path = pathlib.Path({str(tmp_path)!r}) / "summary.json"
        write_text(path, "whole")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_text(path, "x" * 10_000)
        except AlignmentError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert "free some space" in done.stdout
    assert (tmp_path / "summary.json").read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_an_existing_run_is_not_overwritten_unasked(tmp_path):
    path = tmp_path / "run"
    RunFolder.create(path, Settings()).log({"loss": 1})
    with pytest.raises(AlignmentError, match=r"already exists.*--overwrite"):
        RunFolder.create(path, Settings())
    run = RunFolder.create(path, Settings(seed=3), overwrite=True)
    assert run.rows() == []
    assert "seed: 3" in (path / "config.yaml").read_text()


@pytest.mark.parametrize("left", [[], [".config.yaml.17.tmp"]])
def test_a_run_killed_before_it_had_its_config_can_be_begun_and_resumed(tmp_path, left):
    for name, begin in (("again", RunFolder.create), ("resumed", RunFolder.resume)):
        path = tmp_path / name
        path.mkdir()
        for leftover in left:
            (path / leftover).write_text("see")
        begin(path, Settings(seed=3))
        assert "seed: 3" in (path / "config.yaml").read_text()


def test_what_is_no_run_folder_is_not_resumed(tmp_path):
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(AlignmentError, match="nothing to resume"):
        RunFolder.resume(tmp_path, Settings())


def test_only_a_run_folder_is_ever_removed(tmp_path):
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(AlignmentError, match="is not a run folder"):
        RunFolder.create(tmp_path, Settings(), overwrite=True)
    assert (tmp_path / "precious.txt").exists()


def test_rows_after_a_checkpoint_are_forgotten_even_half_written_ones(tmp_path):
    run = RunFolder.create(tmp_path / "run", Settings())
    for i in range(3):
        run.log({"iteration": i})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"iterat')
    run.keep_rows(2)
    assert run.rows() == [{"iteration": 0}, {"iteration": 1}]


@pytest.mark.parametrize("torn", [b'{"iteration": 3}', b'{"iterat', b'{"answer": "\xc3'])
def test_a_last_row_without_its_end_is_none(tmp_path, torn):
    run = RunFolder.create(tmp_path / "run", Settings())
    run.log({"iteration": 1})
    run.log({"iteration": 2})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(torn)  # a kill or a full disk in the middle of a row
    assert run.rows() == [{"iteration": 1}, {"iteration": 2}]
    run.keep_rows(5)
    run.log({"iteration": 3})
    assert [row["iteration"] for row in run.rows()] == [1, 2, 3]


def test_a_text_may_hold_any_character(tmp_path):
    run = RunFolder.create(tmp_path / "run", Settings())
    rows = [{"answer": f"one{end}two"} for end in ("\n", "\r", "\x0b", "\x85", "\u2028", "\u2029")]
    for row in rows:
        run.log(row)
    run.keep_rows(len(rows))
    assert run.rows() == rows


def test_summaries_round_trip(tmp_path):
    run = RunFolder.create(tmp_path / "run", Settings())
    run.summarize({"name": "Zoë", "loss": 0.5})
    assert run.summary == {"name": "Zoë", "loss": 0.5}


def test_a_malformed_line_is_named_by_its_number(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n\n{"prompt": \n')
    with pytest.raises(AlignmentError, match="line 3: not valid JSON"):
        read_rows(path)
    path.write_text('{"prompt": "a"}\n[1]\n')
    with pytest.raises(AlignmentError, match="line 2: a row must be an object"):
        read_rows(path)


def test_prompts_are_texts_or_messages(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "hi"}\n{"prompt": [{"role": "user", "content": "ho"}]}\n')
    assert [p[-1]["content"] for p in load_prompts(path)] == ["hi", "ho"]
    for bad in ('{"prompt": ""}', '{"prompt": []}', '{"text": "hi"}', '{"prompt": [{"role": "user"}]}'):
        path.write_text('{"prompt": "hi"}\n' + bad + "\n")
        with pytest.raises(AlignmentError, match="row 2: `prompt` must be"):
            load_prompts(path)
    path.write_text("")
    with pytest.raises(AlignmentError, match="is empty"):
        load_prompts(path)
    with pytest.raises(AlignmentError, match="no file"):
        load_prompts(tmp_path / "none.jsonl")


def test_prompts_are_read_from_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"]}), tmp_path / "p.parquet")
    assert [p[0]["content"] for p in load_prompts(tmp_path / "p.parquet")] == ["a", "b"]


def test_a_stream_gives_each_item_once_an_epoch_and_its_position_is_its_state():
    stream = PromptStream(list(range(5)), seed=1)
    first = stream.take(5)
    assert sorted(first) == [0, 1, 2, 3, 4]
    assert sorted(stream.take(3) + stream.take(2)) == [0, 1, 2, 3, 4]
    expected = stream.take(7)
    again = PromptStream(list(range(5)), seed=1)
    again.position = 10
    assert again.take(7) == expected
    assert PromptStream(list(range(5)), seed=2).take(5) != first


def test_json_is_written_readably(tmp_path):
    write_json(tmp_path / "a.json", {"a": "é"})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": "é"\n}\n'
    write_text(tmp_path / "new" / "b.txt", "made its folder")
    assert (tmp_path / "new" / "b.txt").exists()
