"""Published numbers as the report reads them: what one source says twice, what is no number, what was only quoted."""

import csv
import io

import pytest

from stq.cli import report
from stq.errors import InputError
from stq.results.tables.published import COLUMNS, read_published
from tests.made_up_runs import make_run

LINE = dict.fromkeys(COLUMNS, "") | {"method": "LSQ", "dataset": "CIFAR-10", "network": "ResNet-20", "w_bits": "2"}
LINE |= {"a_bits": "2", "top1": "90.5", "fp_top1": "92.0", "status": "read", "source": "paper A (table 1)"}


@pytest.fixture
def file(tmp_path):
    def write(*lines):
        path = tmp_path / "published.csv"
        with path.open("w", newline="") as out:
            writer = csv.DictWriter(out, COLUMNS)
            writer.writeheader()
            writer.writerows(LINE | line for line in lines)
        return path

    return write


def test_two_numbers_of_one_source_at_the_same_bits_are_two_rows(file):
    again = {"top1": "90.1", "source": "paper A (table 2)"}
    found = read_published(file({}, {"w_bits": "3", "a_bits": "3", "top1": "91.0"}, again))["cifar10", "resnet20"]
    assert [item.top1 for item in found] == [{(2, 2): 90.5, (3, 3): 91.0}, {(2, 2): 90.1}]
    assert [item.source for item in found] == ["paper A (table 1)", "paper A (table 2)"]


@pytest.mark.parametrize("line", [{"top1": "905"}, {"top1": "-1"}, {"w_bits": "two"}, {"fp_top1": "nan"}])
def test_what_is_no_percentage_is_refused_with_its_line(file, line):
    with pytest.raises(InputError, match=r"published\.csv, line 3: '.*' is not a bit width or a percentage"):
        read_published(file({}, line))


def test_difference_is_to_the_float_model_of_the_source(file, tmp_path, capsys):
    known = {"data": "mine", "data_known": "cifar10", "image_size": 32}
    make_run(tmp_path / "ours", **known, model="resnet20", weight_bits=4, activation_bits=4)
    path = file({}, {"status": "quoted", "source": "paper B", "fp_top1": ""})
    report.main([str(tmp_path / "ours"), "--published", str(path), "--format", "csv"])
    lines = [line for line in csv.DictReader(io.StringIO(capsys.readouterr().out)) if line["kind"] == "published"]
    assert [(line["difference"], line["float_top1"]) for line in lines] == [("-1.5", "92.0"), ("", "")]
    assert [line["remarks"].rpartition("; ")[2] for line in lines] == ["seen in the source", "seen quoted elsewhere"]
    assert all(line["size_bytes"] == "" for line in lines)
    report.main([str(tmp_path / "ours"), "--published", str(path)])
    header = next(line for line in capsys.readouterr().out.splitlines() if "its float" in line)
    assert header.split() == ["published", "its", "float", "first/last", "2/2", "source"]  # not the bits of ours


@pytest.mark.parametrize(
    "facts", [{}, {"data_known": "cifar10", "image_size": 16}, {"data_known": None, "image_size": 32}]
)
def test_nothing_published_beside_data_that_may_be_others(file, tmp_path, capsys, facts):
    """One's own data may be called cifar10, and CIFAR-10 at 16 pixels is another task."""
    make_run(tmp_path / "ours", data="cifar10", model="resnet20", **facts)
    report.main([str(tmp_path / "ours"), "--published", str(file({}))])
    out, _ = capsys.readouterr()
    assert "Published" not in out
