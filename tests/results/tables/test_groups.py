"""Which runs make a row, which float accuracy they are held against, and what a reader is told of their differences."""

from stq.results.runs.collect import collect
from stq.results.tables.groups import make_groups
from stq.results.tables.report_table import make_sheets
from tests.made_up_runs import FLOAT, make_run


def only_group(folder):
    (group,) = make_groups(collect([folder]).done)
    return group


def only_sheet(folder, against=None):
    (sheet,) = make_sheets([only_group(folder)], {}, against)
    return sheet


def labels(folder):
    return [row.label for row in only_group(folder).rows]


def test_no_difference_where_a_seed_has_no_float_model(tmp_path):
    make_run(tmp_path / "f", **FLOAT | {"float_test_top1": None, "test_top1": 95.0})
    for seed in range(2):
        make_run(tmp_path / f"lsq{seed}", seed=seed, test_top1=90.0, float_test_top1=None)
        make_run(tmp_path / f"pact{seed}", method="pact", seed=seed, float_test_top1=None if seed == 0 else 94.0)
    group = only_group(tmp_path)
    assert group.float_by_seed == {1: 94.0}
    assert [group.gaps(row.cells[2, 2]) for row in group.rows] == [None, None]
    assert "No float baseline of the same seeds for lsq, pact: no difference is given." in group.notes


def test_each_seed_is_held_against_its_own_float_model(tmp_path):
    for seed, (full, ours) in enumerate(((95.0, 90.0), (97.0, 96.0))):
        make_run(tmp_path / f"f{seed}", seed=seed, **FLOAT | {"float_test_top1": None, "test_top1": full})
        make_run(tmp_path / f"q{seed}", seed=seed, test_top1=ours, float_test_top1=None)
    (row,) = only_group(tmp_path).rows
    assert only_group(tmp_path).gaps(row.cells[2, 2]) == [-5.0, -1.0]


def test_float_models_that_differ_at_one_seed_are_told_and_none_is_the_baseline(tmp_path):
    make_run(tmp_path / "a", test_top1=59.0, float_test_top1=60.0)
    make_run(tmp_path / "b", method="pact", test_top1=59.0, float_test_top1=61.0)
    make_run(tmp_path / "c", seed=1, test_top1=59.0, float_test_top1=62.0)
    group = only_group(tmp_path)
    assert group.float_by_seed == {1: 62.0}
    assert group.gaps(group.rows[1].cells[2, 2]) == [-2.0]
    assert any("seed 0 started from 2 different float models (60.00 %, 61.00 %)" in note for note in group.notes)


def test_a_seed_set_from_the_seed_makes_no_row_but_any_other_setting_does(tmp_path):
    for seed in range(2):
        folder = make_run(tmp_path / f"same{seed}", seed=seed)
        (folder / "config.yaml").write_text(f"data: {{split_seed: {seed}}}\n")
    assert labels(tmp_path) == ["lsq"]
    folder = make_run(tmp_path / "third", seed=2)
    (folder / "config.yaml").write_text("data: {split_seed: 2}\noptimizer: {lr: 0.3}\n")
    assert labels(tmp_path) == ["lsq [lr=0.3]", "lsq [lr=unset]"]


def test_settings_of_one_name_are_told_apart(tmp_path):
    for seed, (optimizer, scheduler) in enumerate(((1, 1), (1, 2), (2, 1))):
        folder = make_run(tmp_path / f"{seed}", seed=seed)
        (folder / "config.yaml").write_text(f"optimizer: {{factor: {optimizer}}}\nscheduler: {{factor: {scheduler}}}\n")
    assert labels(tmp_path)[0] == "lsq [optimizer.factor=1, scheduler.factor=1]"


def test_one_method_with_two_kinds_of_weights_is_two_rows(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", weight_method="dorefa")
    make_run(tmp_path / "c", method="pact")
    assert labels(tmp_path) == ["lsq (dorefa weights)", "lsq (lsq weights)", "pact"]


def test_what_rows_do_not_share_is_told_but_not_a_methods_own_settings(tmp_path):
    for method, lr in (("lsq", 0.1), ("pact", 0.02)):
        folder = make_run(tmp_path / method, method=method, git_commit=method, versions={"torch": method})
        settings = f"{{settings: {{own_{method}: 1}}}}"
        (folder / "config.yaml").write_text(f"optimizer: {{lr: {lr}}}\nquantizer: {settings}\n")
    assert only_group(tmp_path).notes == [
        "Not the same for all, optimizer.lr: 0.02 (pact 2/2); 0.1 (lsq 2/2).",
        "The runs were made with 2 commits of the code.",
        "The runs were made with 2 versions of torch.",
    ]


def test_results_whose_settings_are_not_known_are_counted(tmp_path):
    make_run(tmp_path / "a", lr=0.1)
    make_run(tmp_path / "b", method="pact")
    assert any(note.startswith("1 of 2 results have no config.yaml") for note in only_group(tmp_path).notes)


def test_networks_of_another_size_are_another_group(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", seed=1, float_size_bytes=800)
    assert len(make_groups(collect([tmp_path]).done)) == 2


def test_columns_are_in_order_of_bits_and_compared_with_the_best_of_each(tmp_path):
    top1 = {8: {"a": 1.0, "b": 3.0, "c": 2.0}, 2: {"a": 2.0, "b": 1.0, "c": 3.0}, 4: {"b": 5.0}}
    for bits, methods in top1.items():
        for method, accuracy in methods.items():
            for seed in range(2):
                values = {"seed": seed, "weight_bits": bits, "activation_bits": bits, "test_top1": accuracy + seed}
                make_run(tmp_path / f"{bits}{method}{seed}", lr=0.1, method=method, **values)
    sheet = only_sheet(tmp_path)
    assert list(sheet.bits) == only_group(tmp_path).bits == [(2, 2), (4, 4), (8, 8)]
    found = [(item.bits[0], item.row, item.reference) for item in sheet.comparisons]
    assert found == [(2, "a", "c"), (2, "b", "c"), (8, "a", "b"), (8, "c", "b")]
    best = {(line.label, bits[0]) for line in sheet.ours for bits, entry in line.entries.items() if entry.best}
    assert best == {("c", 2), ("b", 8)}  # a row alone in its column is not the best of anything
    against = [(item.bits[0], item.row, item.reference) for item in only_sheet(tmp_path, "a").comparisons]
    assert against == [(2, "b", "a"), (2, "c", "a"), (8, "b", "a"), (8, "c", "a")]


def test_a_column_without_the_row_to_compare_with_is_not_compared(tmp_path):
    for method, bits in (("a", 2), ("b", 2), ("b", 3), ("c", 3)):
        make_run(tmp_path / f"{method}{bits}", lr=0.1, method=method, weight_bits=bits, activation_bits=bits)
    assert [item.bits for item in only_sheet(tmp_path, "a").comparisons] == [(2, 2)]


def test_a_setting_that_no_file_tells_is_a_question_mark(tmp_path):
    make_run(tmp_path / "a", lr=0.1)
    make_run(tmp_path / "b", seed=1)
    assert labels(tmp_path) == ["lsq [lr=0.1]", "lsq [lr=?]"]


def test_what_does_not_decide_the_result_makes_no_row(tmp_path):
    for seed in range(2):
        folder = make_run(tmp_path / f"{seed}", seed=seed)
        incidental = f"data: {{workers: {seed}, path: /{seed}, label: d{seed}}}\nlogger: {{name: {seed}}}\n"
        (folder / "config.yaml").write_text(incidental)
    assert labels(tmp_path) == ["lsq"]


def test_runs_whose_first_and_last_layer_are_as_all_others_stand_apart(tmp_path):
    make_run(tmp_path / "edge")
    make_run(tmp_path / "all", first_last_bits=None)
    sheets = make_sheets(make_groups(collect([tmp_path]).done), {}, None)
    assert [sheet.title.rpartition(", ")[2] for sheet in sheets] == [
        "first and last layer as all others",
        "first and last layer 8 bits",
    ]
    assert [line.first_last for sheet in sheets for line in sheet.ours] == ["as all others", "8"]


def test_data_of_one_name_with_other_content_are_not_put_side_by_side(tmp_path):
    make_run(tmp_path / "a", data_fingerprint="aaaaaaaaaaaa")
    make_run(tmp_path / "b", method="pact", data_fingerprint="bbbbbbbbbbbb")
    sheets = make_sheets(make_groups(collect([tmp_path]).done), {}, None)
    assert [sheet.title.split(",")[0] for sheet in sheets] == ["digits (content aaaaaaaa)", "digits (content bbbbbbbb)"]
    assert len({sheet.key for sheet in sheets}) == 2
    assert all(len(sheet.ours) == 1 for sheet in sheets)


def test_a_run_of_an_older_stq_that_does_not_say_its_content_stands_with_the_others(tmp_path):
    make_run(tmp_path / "a", data_fingerprint="aaaaaaaaaaaa")
    make_run(tmp_path / "old", method="pact")
    (sheet,) = make_sheets(make_groups(collect([tmp_path]).done), {}, None)
    assert [line.label for line in sheet.ours] == ["lsq", "pact"]
    assert sheet.title.startswith("digits, ")


def test_the_float_baseline_that_brackets_refer_to_has_its_row(tmp_path):
    make_run(tmp_path / "a", test_top1=58.0, float_test_top1=60.0)
    make_run(tmp_path / "control", **FLOAT, test_top1=63.0, float_test_top1=61.0)  # from another baseline
    (sheet,) = make_sheets(make_groups(collect([tmp_path]).done), {}, None)
    assert [(line.label, line.entries[32, 32].mean) for line in sheet.floats] == [
        ("float baseline (recorded)", 60.0),
        ("float, trained on", 63.0),
    ]
    assert sheet.ours[0].entries[2, 2].gap == -2.0


def test_forms_of_double_st_are_named_by_what_ran(tmp_path):
    forms = {
        "double_st_frozen": "{anneal: 0.7}",  # of before there was a choice
        "double_st_dynamic": "{inference: dynamic, range_gate: mlp, threshold_gate: mlp}",
        "double_st": "{inference: range, range_gate: mlp}",
    }
    for seed, settings in enumerate(forms.values()):
        folder = make_run(tmp_path / str(seed), method="double_st", seed=seed)
        (folder / "config.yaml").write_text(f"quantizer: {{method: double_st, settings: {settings}}}\n")
    rows = only_group(tmp_path).rows
    assert {row.label: [*row.cells[2, 2].runs] for row in rows} == {name: [seed] for seed, name in enumerate(forms)}


def test_a_gate_that_is_not_named_is_the_mlp_it_means(tmp_path):
    for seed, settings in enumerate(
        ("{anneal: 0.7}", "{anneal: 0.7, range_gate: mlp}", "{anneal: 0.7, range_gate: eca}")
    ):
        folder = make_run(tmp_path / str(seed), method="double_st", seed=seed)
        (folder / "config.yaml").write_text(f"quantizer: {{method: double_st, settings: {settings}}}\n")
    assert labels(tmp_path) == ["double_st_frozen [range_gate=eca]", "double_st_frozen [range_gate=mlp]"]


def test_both_float_baselines_are_in_the_table(tmp_path):
    gates = FLOAT | {"method": "float_gates"}
    for name, facts, top1, start in (
        ("a", FLOAT, 60.0, None),
        ("b", FLOAT, 61.0, 60.0),
        ("c", gates, 62.0, None),
        ("d", gates, 63.0, 62.0),
    ):
        make_run(tmp_path / name, **facts, test_top1=top1, float_test_top1=start)
    make_run(tmp_path / "lsq", test_top1=59.0, float_test_top1=60.0)
    sheet = only_sheet(tmp_path)
    assert [(line.label, line.entries[32, 32].mean) for line in sheet.floats] == [
        ("float baseline", 60.0),
        ("float, trained on", 61.0),
        ("float with gates", 62.0),
        ("float with gates, trained on", 63.0),
    ]
    assert sheet.ours[0].entries[2, 2].gap == -1.0


def test_a_run_cut_short_is_in_no_table(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", seed=1, test_top1=3.0, cut_short="trainer.overfit_batches=1")
    found = collect([tmp_path])
    (sheet,) = make_sheets(make_groups(found.done), {}, None)
    assert sheet.ours[0].entries[2, 2].seeds == (0,)
    assert [(heading, [run.name for run in runs]) for heading, runs in found.apart] == [
        ("Runs cut short by a debugging setting, in no table", ["b"])
    ]
