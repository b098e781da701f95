"""``stq-train``: train one low-bit network, or a sweep of them with ``-m``."""

from __future__ import annotations

from omegaconf import DictConfig

from .config import application


def _train(cfg: DictConfig) -> float:
    check_bits(cfg)
    from ..training import train
    from ..training.report import result_table, use_threads

    use_threads(cfg.threads)
    result = train(cfg)
    result_table(result, cfg.paths.output_dir)
    return result["val_top1"]


def check_bits(cfg: DictConfig) -> None:
    """Say at once, before the slow imports, that a bit width is none. Raises InputError."""
    from ..errors import InputError

    for name in ("weight_bits", "activation_bits", "first_last_bits"):
        bits = cfg[name]
        if bits is not None and bits not in (*range(1, 9), 32):
            raise InputError(f"{name}={bits} is not a bit width: use 1 to 8, or 32 for float")


main = application(_train, "train")

if __name__ == "__main__":
    main()
