"""Which run a folder holds: settings, data and files; what is shared, resumed or refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stq.cli.evaluate_run import evaluate_run
from stq.errors import InputError
from stq.results.runs.config_hash import INCIDENTAL, config_hash
from stq.results.runs.result_file import read_result
from stq.training import train
from tests.composed import compose_config, float_run_of

QUICK = ("trainer.max_epochs=1", "model.width=2")


def write_npz(path: Path, seed: int, images: int = 160) -> Path:
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (images, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(images) % 4
    np.savez(path, **arrays)
    return path


def npz_run(tmp_path: Path, file: Path, *overrides: str, folder: str = "run"):
    data = ("data=npz", f"data.path={file}", "data.crop_padding=0", "data.flip=false", "data.batch_size=48")
    return compose_config(tmp_path, *QUICK, *data, *overrides, folder=folder)


def test_two_files_of_one_name_are_two_data_sets(tmp_path):
    first, second = (write_npz(tmp_path / name / "train.npz", seed) for seed, name in enumerate("ab"))
    one, two = (train(npz_run(tmp_path, file, folder=file.parent.name)) for file in (first, second))
    assert one["data"] == two["data"] == "train"
    assert one["data_fingerprint"] != two["data_fingerprint"]
    assert one["identity"] != two["identity"]
    assert len(list((tmp_path / "float").glob("*/result.json"))) == 2
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "a")
    moved = train(npz_run(tmp_path, tmp_path / "elsewhere" / "a" / "train.npz", folder="moved"))
    assert moved["identity"] == one["identity"]  # the same data in another place
    assert moved["test_top1"] == one["test_top1"]
    assert len(list((tmp_path / "float").glob("*/result.json"))) == 2


def test_data_that_changed_are_noticed(tmp_path):
    file = write_npz(tmp_path / "train.npz", 0)
    cfg = npz_run(tmp_path, file)
    train(cfg)
    write_npz(file, 1)
    with pytest.raises(InputError, match=r"holds another run \(its data were others, or have changed since\)"):
        train(cfg)
    with pytest.raises(InputError, match="are not those that it was trained on"):
        evaluate_run(cfg.paths.output_dir)


def interrupted(monkeypatch, cfg):
    """Leave a run behind as a kill does after its first epoch."""
    from stq.training.classifier import Classifier

    original = Classifier.on_train_epoch_start

    def stop(self):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "on_train_epoch_start", stop)
        with pytest.raises(KeyboardInterrupt, match="go on with stq-train run="):
            train(cfg)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("bits=2", "activation_bits is 2 here and 3 there"),
        ("optimizer.lr=0.5", "optimizer.lr is 0.5 here and 0.02 there"),
        ("seed=1", "seed is 1 here and 0 there"),
    ],
)
def test_an_interrupted_run_is_not_gone_on_with_under_other_settings(change, difference, tmp_path, monkeypatch):
    cfg = compose_config(tmp_path, "model.width=2", "init=scratch")
    interrupted(monkeypatch, cfg)
    assert not (tmp_path / "run" / "result.json").exists()
    kept = {
        path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file() and "lock" not in path.name
    }
    with pytest.raises(InputError, match=difference):
        train(compose_config(tmp_path, "model.width=2", "init=scratch", change))
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert train(cfg)["status"] == "done"


def test_a_checkpoint_that_a_setting_names_is_known_by_its_content(tmp_path):
    train(compose_config(tmp_path, *QUICK, "init=scratch", folder="donor"))
    weights = tmp_path / "start.ckpt"
    shutil.copy(tmp_path / "donor" / "checkpoints" / "best.ckpt", weights)
    cfg = compose_config(tmp_path, *QUICK, "init=checkpoint", f"init.path={weights}")
    first = train(cfg)
    copy = shutil.copy(weights, tmp_path / "other_name.ckpt")
    again = train(compose_config(tmp_path, *QUICK, "init=checkpoint", f"init.path={copy}", folder="copy"))
    assert again["identity"] == first["identity"]
    train(compose_config(tmp_path, *QUICK, "init=scratch", "seed=5", folder="donor5"))
    shutil.copy(tmp_path / "donor5" / "checkpoints" / "best.ckpt", weights)
    with pytest.raises(InputError, match=r"the file that init\.path names was another, or has changed since"):
        train(cfg)


@pytest.mark.parametrize(
    "debugging",
    [
        "+trainer.overfit_batches=1",
        "trainer.limit_train_batches=1",
        "+trainer.fast_dev_run=true",
        "+trainer.max_time=00:00:05:00",
    ],
)
def test_a_debugging_run_says_so_and_is_nobodys_baseline(debugging, tmp_path):
    result = train(compose_config(tmp_path, *QUICK, debugging, folder="debug"))
    assert result["cut_short"].startswith(debugging.lstrip("+").split("=")[0])
    assert result["float_test_top1"] is None
    cfg = compose_config(tmp_path, *QUICK, folder="honest")
    honest = train(cfg)
    assert honest["cut_short"] is None
    baseline = read_result(float_run_of(cfg))
    assert baseline["cut_short"] is None
    assert baseline["test_top1"] == honest["float_test_top1"]
    clean = train(compose_config(tmp_path / "clean", *QUICK))
    assert clean["float_test_top1"] == honest["float_test_top1"]


def test_length_in_steps_is_recorded_as_it_was(tmp_path):
    # 9 batches of 128 in an epoch
    result = train(
        compose_config(tmp_path, "model.width=2", "init=scratch", "trainer.max_epochs=15", "+trainer.max_steps=20")
    )
    assert (result["steps"], result["epochs"]) == (20, 2)
    result = train(
        compose_config(
            tmp_path, "model.width=2", "init=scratch", "trainer.max_epochs=-1", "+trainer.max_steps=18", folder="b"
        )
    )
    assert (result["steps"], result["epochs"]) == (18, 2)
    with pytest.raises(InputError, match="needs a length in steps"):
        train(compose_config(tmp_path, "init=scratch", "trainer.max_epochs=-1", folder="c"))
    with pytest.raises(InputError, match="float_gates leaves its layers in float, so bits=3 does nothing: use bits=32"):
        train(compose_config(tmp_path, "quantizer=float_gates", "bits=3", folder="d"))


def test_a_run_of_an_older_stq_is_recognised_by_its_configuration(tmp_path):
    cfg = compose_config(tmp_path, *QUICK)
    made = train(cfg)
    for folder in (tmp_path / "run", float_run_of(cfg)):  # as they were written before there were identities
        (folder / "identity.json").unlink()
        result = json.loads((folder / "result.json").read_text())
        older = {
            key: result[key] for key in result if key not in ("identity", "data_fingerprint", "checksum", "cut_short")
        }
        (folder / "result.json").write_text(json.dumps(older | {"config_hash": "0123456789abcdef"}))
    from stq.results.runs.legacy_hash import legacy_hash
    from stq.training.initial_weights import float_config

    float_run_of(cfg).rename(tmp_path / "float" / legacy_hash(float_config(cfg)))
    assert train(cfg)["started"] == made["started"]
    train(compose_config(tmp_path, *QUICK, "quantizer=lsq", folder="lsq"))
    assert len(list((tmp_path / "float").glob("*/result.json"))) == 1
    with pytest.raises(InputError, match="holds another run"):
        train(compose_config(tmp_path, *QUICK, "bits=4"))
    (tmp_path / "run" / "config.yaml").unlink()  # and without it by the hash that it was given
    with pytest.raises(InputError, match="holds another run"):
        train(cfg)
    older = json.loads((tmp_path / "run" / "result.json").read_text()) | {"config_hash": legacy_hash(cfg)}
    (tmp_path / "run" / "result.json").write_text(json.dumps(older))
    assert train(cfg)["started"] == made["started"]


def test_the_deciding_configuration_stands_in_the_result(tmp_path):
    plain = train(compose_config(tmp_path, *QUICK, "init=scratch", folder="a"))
    other = train(compose_config(tmp_path, *QUICK, "init=scratch", "quantizer.settings.t_max=0.5", folder="b"))
    assert plain["config"]["quantizer"]["settings"]["t_max"] == 1.0
    assert other["config"]["quantizer"]["settings"]["t_max"] == 0.5
    assert config_hash(other["config"]) == other["config_hash"] != plain["config_hash"]


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


CHANGES = {"loss.label_smoothing": 0.1, "data.val_fraction": 0.2, "data.split_seed": 3, "model.name": "resnet20"}
CHANGES |= {
    "quantizer.method": "lsq",
    "scheduler.sched": "step",
    "optimizer.opt": "adam",
    "trainer.precision": "64-true",
}
CHANGES |= {"init.start": "scratch", "callbacks.progressive": "8-3", "trainer.gradient_clip_val": 0.1}
# cannot be tried on this machine, or name what is not there
ELSEWHERE = {
    "trainer.devices",
    "trainer.accelerator",
    "data._target_",
    "data.source._target_",
    "init.path",
    "data.path",
}
ELSEWHERE |= {"data.name", "logger.name", "logger.mode", "logger.project", "logger.group", "run", "compile", "trust"}


def changed(key, value):
    if key in CHANGES:
        return CHANGES[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.5 + 0.1
    return None


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """(where its runs are, plain configuration, identity, numbers) of a run that each change is compared with."""
    runs = tmp_path_factory.mktemp("property")
    small = ("model.width=2", "trainer.max_epochs=1", "init=scratch", "data.crop_padding=1")
    cfg = compose_config(runs, *small, folder="base")
    from omegaconf import OmegaConf

    result = train(cfg)
    return runs, small, OmegaConf.to_container(cfg, resolve=True), result


@given(data=st.data())
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_one_setting_changes_the_identity_or_nothing_at_all(data, base):
    runs, small, config, result = base
    keys = [key for key, value in leaves(config) if key not in ELSEWHERE and changed(key, value) is not None]
    key = data.draw(st.sampled_from(sorted(keys)))
    value = changed(key, dict(leaves(config))[key])
    cfg = compose_config(runs, *small, f"++{key}={json.dumps(value)}", folder=f"run_{key}")
    if config_hash(cfg) != result["config_hash"]:
        return
    assert any(key == each or key.startswith(f"{each}.") for each in (*INCIDENTAL, "data.workers")), key
    other = train(cfg)
    assert other["identity"] == result["identity"]
    for name in ("val_top1", "test_top1", "steps", "epochs", "size_bytes"):
        assert other[name] == result[name], (key, name)


def test_every_incidental_setting_leaves_the_numbers_as_they_are(base):
    """The list, one by one, as far as this machine can try it."""
    import torch

    runs, small, _, result = base
    tried = [
        "tags=[a]",
        "sweep_name=other",
        "threads=1",
        "callbacks.monitor=false",
        "data.workers=1",
        "data.label=mine",
    ]
    tried += ["logger=tensorboard", "+variables.a=1", "+jobs=3"]
    cfg = compose_config(runs, *small, *tried, folder="incidental")
    assert config_hash(cfg) == result["config_hash"]
    other = train(cfg)
    assert other["identity"] == result["identity"]
    states = [torch.load(runs / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("base", "incidental")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_documented_list_is_the_list():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    for key in INCIDENTAL:
        if key not in ("learning_rate", "published_decay", "data.source.download"):
            assert f"`{key}`" in page, key


def test_hash_of_a_configuration_is_that_of_its_file(tmp_path):
    cfg = compose_config(
        tmp_path, *QUICK, "init=scratch", "callbacks.progressive={0.0:8,0.5:3}", "trainer.max_epochs=2"
    )
    train(cfg)
    assert config_hash(yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())) == config_hash(cfg)


def same_hash(tmp_path, *pairs) -> list[bool]:
    hashes = [[config_hash(compose_config(tmp_path, "init=scratch", *each)) for each in pair] for pair in pairs]
    return [a == b for a, b in hashes]


def test_order_counts_where_later_patterns_win(tmp_path):
    layers = ("+quantizer.layers={layer*:{weight_bits:2},layer3*:{weight_bits:8}}",)
    turned = ("+quantizer.layers={layer3*:{weight_bits:8},layer*:{weight_bits:2}}",)
    callback = "+callbacks.{}={{_target_:my.Callback,scale:{}}}"
    order = tuple(callback.format(name, 1) for name in "ab")
    assert same_hash(tmp_path, (layers, turned), (order, order[::-1])) == [False, False]


def test_null_counts_where_it_is_handed_on(tmp_path):
    callback = "+callbacks.x._target_=my.Callback"
    pairs = [([callback], [callback, "+callbacks.x.scale=null"]), ([], ["+model.drop_rate=null"])]
    pairs += [([], ["+quantizer.settings.standardize=null"]), ([], ["+optimizer.eps=null"])]
    assert same_hash(tmp_path, *pairs) == [False] * 4
    assert same_hash(tmp_path, ([], ["+trainer.max_time=null"]), ([], ["data.label=null"])) == [True, True]


def test_a_checkpoint_without_a_suffix_is_known_by_its_content(tmp_path, monkeypatch):
    import torch

    train(compose_config(tmp_path, *QUICK, "init=scratch", folder="donor"))
    state = torch.load(tmp_path / "donor" / "checkpoints" / "best.ckpt")["state_dict"]
    monkeypatch.chdir(tmp_path)
    for name, factor in (("wA", 1.0), ("wB", 2.0)):
        torch.save({key: value * factor if value.is_floating_point() else value for key, value in state.items()}, name)
    train(compose_config(tmp_path, *QUICK, "init=checkpoint", "init.path=wA"))
    with pytest.raises(InputError, match="holds another run"):
        train(compose_config(tmp_path, *QUICK, "init=checkpoint", "init.path=wB"))


def test_one_image_rewritten_in_place_is_noticed(tmp_path):
    from PIL import Image

    rng, top = np.random.default_rng(0), tmp_path / "pictures"
    for split, count in (("train", 6), ("val", 2)):
        for name in "ab":
            (top / split / name / "deep").mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(top / split / name / "deep" / f"{i}.png", compress_level=0)
    data = ("data=imagenet", f"data.path={top}", "data.image_size=16", "data.batch_size=4", "data.workers=0")
    cfg = compose_config(tmp_path, *QUICK, *data, "init=scratch")
    result = train(cfg)
    assert (result["data"], result["data_known"]) == ("pictures", None)
    file = top / "train" / "a" / "deep" / "3.png"
    size = file.stat().st_size
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, compress_level=0)
    assert file.stat().st_size == size
    with pytest.raises(InputError, match="its data were others, or have changed since"):
        train(cfg)


@pytest.mark.parametrize("spoil", ["delete", "cut"])
def test_without_its_identity_file_a_run_still_knows_its_data(spoil, tmp_path, caplog):
    file = write_npz(tmp_path / "x.npz", 0)
    cfg = npz_run(tmp_path, file, "init=scratch")
    train(cfg)
    path = tmp_path / "run" / "identity.json"
    path.unlink() if spoil == "delete" else path.write_text(path.read_text()[:20])
    evaluate_run(cfg.paths.output_dir)
    write_npz(file, 1)
    with pytest.raises(InputError, match="are not those that it was trained on"):
        evaluate_run(cfg.paths.output_dir)
    assert ("identity.json is damaged" in caplog.text) is (spoil == "cut")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", "changed"])
def test_a_damaged_result_does_not_block_its_folder(content, tmp_path, caplog):
    cfg = compose_config(tmp_path, *QUICK, "init=scratch")
    made = train(cfg)
    path = tmp_path / "run" / "result.json"
    if content == "changed":
        content = path.read_bytes().replace(b'"seed": 0', b'"seed": 1')
    path.write_bytes(content)
    again = train(cfg)
    assert (again["test_top1"], again["steps"]) == (made["test_top1"], made["steps"])
    assert "the run goes on from its last checkpoint" in caplog.text


def test_what_a_finished_run_lost_is_written_again_or_told(tmp_path, caplog):
    cfg = compose_config(tmp_path, *QUICK, "init=scratch")
    train(cfg)
    config = tmp_path / "run" / "config.yaml"
    whole = config.read_text()
    config.write_text(whole[:200])
    train(cfg)
    assert config.read_text() == whole
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    train(cfg)
    assert "delete its result.json to train it again" in caplog.text


def test_a_baseline_that_is_cut_short_is_none(tmp_path):
    result = train(compose_config(tmp_path, *QUICK, "+init.float.trainer.limit_train_batches=1"))
    assert result["cut_short"] is None
    assert result["float_test_top1"] is None
