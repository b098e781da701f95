"""``stq-export run=FOLDER format=onnx``: export a finished run as integers, and compare the file with the model."""

from __future__ import annotations

from omegaconf import DictConfig

from .application import application
from .setting_types import RUN, check_types, trusted


def _export(cfg: DictConfig) -> None:
    check_types(cfg, RUN)
    from .export_run import export_run

    export_run(cfg.run, cfg.format, cfg.output, cfg.benchmark, trusted(cfg))


main = application(_export, "export", sweeps=False)

if __name__ == "__main__":
    main()
